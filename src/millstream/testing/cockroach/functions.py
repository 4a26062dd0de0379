"""SQL functions as data: argument types that constants take, the result's type, and what is done.

Reference: CockroachDB 26.1, "Functions and Operators".
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from millstream.testing.cockroach import calendar, casts, documents, values
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.types import (
    BOOL,
    BYTES,
    DATE,
    DECIMAL,
    FLOAT8,
    INT8,
    JSONB,
    NAME,
    STRING,
    TIMESTAMPTZ,
    UUID,
    SqlType,
)  # fmt: skip

AGGREGATES = frozenset(("count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every", "string_agg", "array_agg", "count_rows"))
VERSIONS = {
    "26.1": "CockroachDB CCL v26.1.0-alpha.1-dev (x86_64-linux-gnu, go1.25.3)",
    "22.1": "CockroachDB CCL v22.1.0-alpha.20220215 (x86_64-linux-gnu, go1.17.13)",
}

Apply = Callable[..., Any]
Bind = Callable[[list[SqlType], str], tuple[SqlType, Apply]]


@dataclass(frozen=True, slots=True)
class Function:
    """`wants`: the types that constant arguments take, the last one for all that follow; None leaves a constant alone.

    `alike`: its arguments are brought to one type. `lazy`: gets the Env first and NULLs too; otherwise NULL in gives NULL out and it is
    not called.
    """

    bind: Bind
    wants: tuple[SqlType | None, ...] = ()
    lazy: bool = False
    alike: bool = False

    def want(self, place: int) -> SqlType | None:
        return self.wants[min(place, len(self.wants) - 1)] if self.wants else None


def find(name: str) -> Function:
    found = _FUNCTIONS.get(name)
    if found is None:
        raise SqlError("42883", f"unknown function: {name}()")
    return found


def _plain(result: SqlType, apply: Apply, *wants: SqlType | None) -> Function:
    def bind(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
        if len(given) > len(wants):
            raise SqlError("42883", "too many arguments")
        return result, apply

    return Function(bind, tuple(wants))


def _from_env(result: SqlType, apply: Apply, *wants: SqlType | None) -> Function:
    return Function(lambda given, version: (result, apply), tuple(wants), lazy=True)


def _length(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    if given[0].kind in ("bytes", "string", "varbit", "bit", "name", "citext"):
        return INT8, len
    raise SqlError("42883", f"unknown signature: length({given[0].text.lower()})")


def _concat(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    shown = [casts.cast(g, STRING, version) for g in given]
    return STRING, lambda env, *parts: "".join(s(p) for s, p in zip(shown, parts, strict=True) if p is not None)


def _json_object(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    if len(given) % 2:
        raise SqlError("22023", "argument list must have even number of elements")
    names = [casts.cast(g, STRING, version) for g in given[::2]]
    parts = [casts.as_json(g, version) for g in given[1::2]]

    def build(env: Any, *arguments: Any) -> str:
        members = {}
        for n, (name, part) in enumerate(zip(names, parts, strict=True)):
            key, value = arguments[2 * n], arguments[2 * n + 1]
            if key is None:
                raise SqlError("22023", "argument 1: key must not be null")
            members[name(key)] = "null" if value is None else part(value)
        return "{" + ", ".join(f"{documents.string(k)}: {members[k]}" for k in sorted(members)) + "}"

    return JSONB, build


def _json_array(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    parts = [casts.as_json(g, version) for g in given]

    def build(env: Any, *arguments: Any) -> str:
        return "[" + ", ".join("null" if a is None else p(a) for p, a in zip(parts, arguments, strict=True)) + "]"

    return JSONB, build


def _to_json(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    return JSONB, casts.as_json(given[0], version)


def _same(apply: Apply) -> Function:
    return Function(lambda given, version: (given[0], apply))


def _extreme(pick: Callable[..., Any]) -> Function:
    def bind(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
        kind = given[0]

        def apply(env: Any, *found: Any) -> Any:
            there = [v for v in found if v is not None]
            return pick(there, key=lambda v: values.order(v, kind)) if there else None

        return kind, apply

    return Function(bind, lazy=True, alike=True)


def _nullif(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    return given[0], lambda env, a, b: None if a == b else a


def _round(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    if given[0].kind == "float":
        return FLOAT8, lambda v, n=0: round(v, n)
    return DECIMAL, lambda v, n=0: Decimal(v).quantize(Decimal(1).scaleb(-n), ROUND_HALF_UP, values.EXACT)


def _whole(apply: Apply) -> Function:
    def bind(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
        if given[0].kind == "float":
            return FLOAT8, lambda v: float(apply(v))
        return DECIMAL, lambda v: Decimal(apply(v))

    return Function(bind)


def _typeof(given: list[SqlType], version: str) -> tuple[SqlType, Apply]:
    kind = given[0].text.lower()
    return STRING, lambda env, value: {"int8": "bigint", "string": "text", "bool": "boolean", "decimal": "numeric"}.get(kind, kind)


def _md5(value: str | bytes) -> str:
    return hashlib.md5(value.encode() if isinstance(value, str) else value, usedforsecurity=False).hexdigest()


def _substring(value: str, start: int, length: int | None = None) -> str:
    begin = max(start - 1, 0)
    return value[begin:] if length is None else value[begin : max(start - 1 + length, begin)]


def _random_uuid(env: Any) -> str:
    return str(uuid.UUID(int=int(env.random() * 2**64) << 64 | int(env.random() * 2**64), version=4))


def _date_trunc(unit: str, moment: int) -> int:
    day, clock = divmod(moment, calendar.DAY)
    year, month, _ = calendar.date_of(day)
    steps = {"second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000, "day": calendar.DAY}
    if unit in steps:
        return moment - clock % steps[unit]
    if unit not in ("month", "year"):
        raise not_modelled(f"date_trunc of {unit}")
    return calendar.days_of(year, month if unit == "month" else 1, 1) * calendar.DAY


def _now(env: Any) -> int:
    return int(env.now)


def _fnv32(data: bytes) -> int:
    held = 2166136261
    for byte in data:
        held = (held * 16777619 & 0xFFFFFFFF) ^ byte
    return held


def shard(key: tuple[Any, ...], buckets: int) -> int:
    """The shard column of a hash-sharded key: FNV-1 over the MD5, in hex, of the key's encoding. Integers, texts and bytes only."""
    digest = hashlib.md5(b"".join(map(encoded, key)), usedforsecurity=False).hexdigest()
    return _fnv32(digest.encode()) % buckets


def encoded(value: Any) -> bytes:
    """One member of a key as the database orders it, rising. Integers, texts and bytes only."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= 109:
            return bytes([136 + value])
        size = max((value.bit_length() + 7) // 8, 1) if value >= 0 else max(((-value - 1).bit_length() + 7) // 8, 1)
        return (bytes([245 + size]) if value >= 0 else bytes([136 - size])) + (value % (1 << 8 * size)).to_bytes(size, "big")
    if isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        return b"\x12" + raw.replace(b"\x00", b"\x00\xff") + b"\x00\x01"
    raise not_modelled("a hash-sharded key of this type")


_FUNCTIONS: dict[str, Function] = {
    "length": Function(_length, (STRING,)), "char_length": _plain(INT8, len, STRING), "octet_length": _plain(INT8, len, BYTES),
    "lower": _plain(STRING, str.lower, STRING), "upper": _plain(STRING, str.upper, STRING), "concat": Function(_concat, lazy=True),
    "repeat": _plain(STRING, lambda s, n: s * max(n, 0), STRING, INT8), "md5": _plain(STRING, _md5, STRING),
    "substr": _plain(STRING, _substring, STRING, INT8, INT8), "substring": _plain(STRING, _substring, STRING, INT8, INT8),
    "replace": _plain(STRING, str.replace, STRING, STRING, STRING), "reverse": _plain(STRING, lambda s: s[::-1], STRING),
    "left": _plain(STRING, lambda s, n: s[:n], STRING, INT8), "right": _plain(STRING, lambda s, n: s[-n:] if n else "", STRING, INT8),
    "lpad": _plain(STRING, lambda s, n, f=" ": s[:n].rjust(n, f), STRING, INT8, STRING), "chr": _plain(STRING, chr, INT8),
    "btrim": _plain(STRING, str.strip, STRING), "trim": _plain(STRING, str.strip, STRING),
    "ascii": _plain(INT8, lambda s: ord(s[0]), STRING),
    "starts_with": _plain(BOOL, str.startswith, STRING, STRING), "strpos": _plain(INT8, lambda s, t: s.find(t) + 1, STRING, STRING),
    "abs": _same(abs), "sign": _same(lambda v: (v > 0) - (v < 0)), "round": Function(_round, (None, INT8)),
    "floor": _whole(math.floor), "ceil": _whole(math.ceil), "ceiling": _whole(math.ceil), "sqrt": _plain(FLOAT8, math.sqrt, FLOAT8),
    "mod": _plain(INT8, lambda a, b: int(math.fmod(a, b)), INT8, INT8), "greatest": _extreme(max), "least": _extreme(min),
    "nullif": Function(_nullif, lazy=True, alike=True), "json_build_object": Function(_json_object, lazy=True),
    "jsonb_build_object": Function(_json_object, lazy=True), "json_build_array": Function(_json_array, lazy=True),
    "jsonb_build_array": Function(_json_array, lazy=True), "to_json": Function(_to_json), "to_jsonb": Function(_to_json),
    "array_length": _plain(INT8, lambda a, n: len(a) if n == 1 and a else None, None, INT8),
    "array_append": Function(lambda given, version: (given[0], lambda env, a, v: (*(a or ()), v)), lazy=True),
    "array_to_string": _plain(STRING, lambda a, sep: sep.join(str(v) for v in a if v is not None), None, STRING),
    "now": _from_env(TIMESTAMPTZ, _now), "current_timestamp": _from_env(TIMESTAMPTZ, _now),
    "transaction_timestamp": _from_env(TIMESTAMPTZ, _now), "statement_timestamp": _from_env(TIMESTAMPTZ, _now),
    "clock_timestamp": _from_env(TIMESTAMPTZ, _now), "current_date": _from_env(DATE, lambda env: env.now // calendar.DAY),
    "date_trunc": Function(lambda given, version: (given[1], _date_trunc), (STRING, TIMESTAMPTZ)),
    "random": _from_env(FLOAT8, lambda env: env.random()), "gen_random_uuid": _from_env(UUID, _random_uuid),
    "uuid_v4": _from_env(BYTES, lambda env: uuid.UUID(_random_uuid(env)).bytes), "unique_rowid": _from_env(INT8, lambda env: env.unique()),
    "cluster_logical_timestamp": _from_env(DECIMAL, lambda env: Decimal(str(env.read))),
    "version": _from_env(STRING, lambda env: VERSIONS[env.version]), "current_database": _from_env(NAME, lambda env: env.database),
    "current_user": _from_env(NAME, lambda env: env.user), "session_user": _from_env(NAME, lambda env: env.user),
    "current_schema": _from_env(NAME, lambda env: "public"), "pg_typeof": Function(_typeof, lazy=True),
    "pg_backend_pid": _from_env(INT8, lambda env: 1),
}  # fmt: skip
VOLATILE = frozenset(("random", "gen_random_uuid", "uuid_v4", "unique_rowid", "now", "current_timestamp", "transaction_timestamp",
                      "statement_timestamp", "clock_timestamp", "current_date", "cluster_logical_timestamp"))  # fmt: skip
