"""The types that a person may name in CAST(… AS …), and a typed value made another type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.typed import Typed

_KINDS: Mapping[str, Type] = {
    "BOOLEAN": t.BOOLEAN, "INT": t.INT32, "BIGINT": t.INT64, "FLOAT": t.FLOAT32, "DOUBLE": t.FLOAT64, "TEXT": t.TEXT, "VARCHAR": t.TEXT,
    "DATE": t.DATE, "TIME": t.TIME, "TIMESTAMP": t.TIMESTAMP, "TIMESTAMPNTZ": t.TIMESTAMP, "TIMESTAMPTZ": t.TIMESTAMPTZ,
    "UUID": t.UUID_TEXT,
}  # fmt: skip
_NAMES = "BOOLEAN, INTEGER, BIGINT, FLOAT, DOUBLE, DECIMAL(p,s), TEXT, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, UUID"


def cast(value: Typed, target: Type, attempt: bool = False) -> Typed:
    """The value as `target`, in both texts; one that is `castable`. NULL gets the type. `attempt`: null where it cannot be."""
    if value.type is None:
        return Typed(f"CAST(NULL AS {t.duckdb_name(target)})", target, nullable=True, flink=flink.null(target))
    there = None if value.flink is None else flink.cast(value.flink, value.type, target, attempt)
    sql = t.cast(value.sql, value.type, target, attempt)
    return replace(value, sql=sql, flink=there, type=target, nullable=value.nullable or attempt)


def read(value: Typed, type_: Type) -> Typed | None:
    """A quoted literal as a value of `type_` (date, time, timestamp, uuid); None: it is not one."""
    sql = t.literal(value.literal or "", type_)
    return replace(value, sql=sql, type=type_, literal=None, flink=flink.literal(value.literal or "", type_)) if sql else None


def cast_target(node: exp.Cast, mistakes: Mistakes) -> Type | None:
    """The type that a cast names; None and a mistake where Millstream SQL has none such. DECIMAL alone is DECIMAL(18,3)."""
    to = node.args["to"]
    kind = getattr(to, "this", None)
    name = str(getattr(kind, "value", kind)).upper()
    if name == "DECIMAL":
        return _decimal(node, [int(p.name) for p in to.expressions if p.name.isdigit()], mistakes)
    target = None if to.args.get("nested") else _KINDS.get(name)
    if target is None or node.args.get("format"):
        mistakes.add(node, "bad_type", f"Millstream SQL has no type {to.sql('duckdb')}", f"it has {_NAMES}")
        return None
    return target


def _decimal(node: exp.Cast, given: list[int], mistakes: Mistakes) -> Type | None:
    precision, scale = [*given, 0][:2] if given else (18, 3)
    if 1 <= precision <= t.PRECISION_MAX and scale <= precision:
        return t.decimal(precision, scale)
    cure = f"precision is 1 to {t.PRECISION_MAX}, scale 0 to precision"
    mistakes.add(node, "bad_type", f"DECIMAL({precision},{scale}) is no type", cure)
    return None
