"""The events that the sinks' conformance suite writes, and the oracle: plain rows, one at a time, no sink's code.

The workload is a pure function of offsets: the event at an offset is always the same, whoever asks and however it is cut.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.events.batch import Batch, batch
from millstream.events.types import Field, RowSchema, Type, list_of, record_of

Row = dict[str, Any]
Key = tuple[Any, ...]
Image = Row | None

TOPIC = "studio.public.movie"
STEADY_END = 1_500
_KEYS = 60

MOVIE = RowSchema(
    (
        Field("id", Type("int64"), 1),
        Field("title", Type("text"), 2),
        Field("year", Type("int32"), 3),
        Field("price", Type("decimal", 10, 2), 4),
        Field("seen", Type("timestamptz"), 5),
    ),
    ("id",),
)
RATED = RowSchema((*MOVIE.fields[:2], Field("rating", Type("float64"), 6), *MOVIE.fields[2:]), ("id",))


@dataclass(frozen=True)
class Event:
    """An event as a reader of the target sees it: `row` is after, or before where the row is gone."""

    topic: str
    offset: int
    op: str
    row: Row


def changes(start: int, events: Sequence[tuple[str, Image, Image]], schema: RowSchema = MOVIE) -> Batch:
    """Events (op, before, after) at offsets from `start`; a delete takes two. Images may lack columns: they are null."""
    ops = [op for op, _, _ in events]
    return _at(np.cumsum([start, *(2 if op == "d" else 1 for op in ops)])[:-1].astype(np.int64), events, schema)


def _at(offsets: npt.NDArray[np.int64], events: Sequence[tuple[str, Image, Image]], schema: RowSchema) -> Batch:
    ops = [op for op, _, _ in events]
    columns = {
        "op": ops,
        "before": pa.array([before for _, before, _ in events], schema.arrow),
        "after": pa.array([after for _, _, after in events], schema.arrow),
        "incarnation": np.ones(len(ops), np.uint32),
        "major": offsets.astype(np.uint64),
        "minor": np.zeros(len(ops), np.uint32),
        "ts_us": 1_700_000_000_000_000 + offsets,
        "position": [f"{o:x}" for o in offsets],
        "backfill": ["initial" if op == "r" else None for op in ops],
        "cause": ["backfill" if op == "r" else None for op in ops],
    }
    return replace(batch(TOPIC, schema, columns), offsets=offsets)


def events(given: Batch, schema: RowSchema) -> list[Event]:
    """The batch row by row, with every column of `schema`."""
    assert given.offsets is not None
    found = []
    for offset, row in zip(given.offsets.tolist(), given.rows.to_pylist(), strict=True):
        image = row["after"] or row["before"]
        found.append(Event(given.topic, offset, row["op"], {name: image.get(name) for name in schema.names}))
    return found


def latest(seen: Sequence[Event], schema: RowSchema) -> dict[Key, Row]:
    """The rows that these events leave."""
    rows: dict[Key, Row] = {}
    for event in seen:
        key = tuple(event.row[name] for name in schema.key)
        if event.op == "d":
            rows.pop(key, None)
        else:
            rows[key] = event.row
    return rows


def movie(key: int, salt: int) -> Row:
    return {
        "id": key,
        "title": None if salt % 7 == 3 else f'film "{key}"\n№ {salt}',
        "year": 1900 + (salt * 31 + key) % 120,
        "price": Decimal(salt * 37 % 100_000).scaleb(-2),
        "seen": dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=salt * 1_000_003),
    }


@lru_cache(maxsize=64)
def workload(start: int, end: int) -> Batch:
    """The workload's events number `start` to `end`: inserts, updates, deletes (whole or key-only before), reads; few keys."""
    return changes(_offset(start), [_change(n) for n in range(start, end)])


def _change(number: int) -> tuple[str, Image, Image]:
    chance = random.Random(number)  # noqa: S311 - a workload, not a secret
    key = chance.randrange(_KEYS)
    match _op(number):
        case "d":
            return "d", (movie(key, number) if chance.random() < 0.5 else {"id": key}), None
        case "u":
            return "u", movie(key, number - 1), movie(key, number)
        case op:
            return op, None, movie(key, number)


def _op(number: int) -> str:
    """Every fifth event is a delete, which makes an event's offset easy to say: one more for each delete before it."""
    return "d" if number % 5 == 4 else "curu"[number * 7 % 4]


def _offset(number: int) -> int:
    return number + number // 5


def with_rating(given: Batch) -> Batch:
    """The same events in the schema with one more column."""
    assert given.offsets is not None
    rows = [(e["op"], _rated(e["before"]), _rated(e["after"])) for e in given.rows.to_pylist()]
    return _at(given.offsets, rows, RATED)


def _rated(image: Image) -> Image:
    return None if image is None else {**image, "rating": image["id"] / 7}


def large(start: int, size: int) -> Batch:
    """Ten inserts whose text does not compress, `size` bytes together."""
    chance = random.Random(start)  # noqa: S311 - a workload, not a secret
    each = size // 10
    texts = [chance.randbytes(each // 2).hex() for _ in range(10)]
    return changes(_offset(start), [("c", None, {**movie(i, i), "title": text}) for i, text in enumerate(texts)])


_MICRO = dt.timedelta(microseconds=1)
_SAMPLES: dict[str, list[Any]] = {
    "boolean": [True, False],
    "int32": [-(2**31), 2**31 - 1, 0],
    "int64": [-(2**63), 2**63 - 1, 0],
    "float32": [0.5, -1.5e10, 0.0],
    "float64": [0.1, -1.7976931348623157e308, 5e-324],
    "text": ["", 'a "quoted" \\ back\tslash\r\n\x01', "Zażółć 映画 🎬"],
    "bytes": [b"", b"\x00\xff\x80", bytes(range(256))],
    "decimal": [Decimal("0.00000000"), Decimal("-99999999.99999999"), Decimal("0.00000001")],
    "date": [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1969, 12, 31)],
    "time": [dt.time(0), dt.time(23, 59, 59, 999_999)],
    "timestamp": [dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime(9999, 12, 31, 23, 59, 59)],
    "timestamptz": [dt.datetime(1970, 1, 1, tzinfo=dt.UTC) - _MICRO, dt.datetime(2200, 2, 28, 12, tzinfo=dt.UTC)],
    "uuid": ["550e8400-e29b-41d4-a716-446655440000"],
    "json": ['{"a": [1, 2.50, null], "b": {"c": "d"}}', "[]", '"text"', "1e400"],
    "numeric": ["123456789012345678901234567890.5", "-0.000", "1" + "0" * 400],
}


def every_type() -> Batch:
    """A column of each kind, its edges, and nulls everywhere but in the key."""
    kinds = list(_SAMPLES)
    schema = RowSchema((Field("id", Type("int64"), 1), *(Field(f"a_{k}", _sample_type(k), i) for i, k in enumerate(kinds, 2))), ("id",))
    depth = max(map(len, _SAMPLES.values()))
    rows: list[Row] = [{"id": n, **{f"a_{k}": v[n % len(v)] for k, v in _SAMPLES.items()}} for n in range(depth)]
    rows += [{"id": depth}, *({"id": depth + 1 + n, f"a_{k}": v[0]} for n, (k, v) in enumerate(_SAMPLES.items()))]
    return changes(0, [("c", None, row) for row in rows], schema)


def _sample_type(kind: Any) -> Type:
    return Type("decimal", 16, 8) if kind == "decimal" else Type(kind)


_PERSON = record_of(("first name", Type("text")), ("born", Type("date")))
_CREDIT = record_of(("person", _PERSON), ("role", Type("text")), ("pay", list_of(Type("decimal", 6, 2))))
_EVERYTHING = record_of(*((f"a_{k}", _sample_type(k)) for k in _SAMPLES))
NESTED = RowSchema(
    (
        Field("id", Type("int64"), 1),
        Field("cast", list_of(_CREDIT), 2),
        Field("maker", _PERSON, 3),
        Field("grid", list_of(list_of(Type("int32"))), 4),
        Field("everything", list_of(_EVERYTHING), 5),
    ),
    ("id",),
)


def nested() -> Batch:
    """Lists and records in one another: null, empty, and with nulls inside at each level; and every kind inside a record."""
    person: Row = {"first name": 'Zoë "Z"', "born": dt.date(1990, 2, 28)}
    nobody: Row = {"first name": None, "born": None}
    credits: list[Row] = [
        {"person": person, "role": "actor", "pay": [Decimal("1.50"), None]},
        {"person": None, "role": None, "pay": []},
        {"person": nobody, "role": "", "pay": None},
    ]
    everything = [{f"a_{k}": v[n % len(v)] for k, v in _SAMPLES.items()} for n in range(max(map(len, _SAMPLES.values())))]
    rows: list[Row] = [
        {"cast": credits, "maker": person, "grid": [[1, None], [], None], "everything": everything},
        {"cast": [], "maker": nobody, "grid": [], "everything": [dict.fromkeys(everything[0])]},
        {"cast": None, "maker": None, "grid": None, "everything": None},
        {"cast": [None, credits[0], None], "maker": person, "grid": [[], [2, 3]], "everything": [None]},
    ]
    images: list[Image] = [{"id": n, **row} for n, row in enumerate(rows)]
    inserts: list[tuple[str, Image, Image]] = [("c", None, image) for image in images]
    return changes(0, [*inserts, ("u", images[0], {**images[3], "id": 0}), ("d", images[1], None)], NESTED)  # type: ignore[dict-item]


def with_more_members(start: int) -> Batch:
    """Events from `start` on in a later version: a member more in a list's record and in a record, one renamed, one widened."""
    person = (Field("name", Type("text"), 1), Field("born", Type("date"), 2), Field("died", Type("date"), 3))
    credit = (Field("order", Type("int32"), 4), Field("role", Type("text"), 2), Field("person", Type("record", fields=person), 1))
    pay = Field("pay", list_of(Type("decimal", 8, 2)), 3)
    schema = RowSchema(
        (
            NESTED.fields[0],
            Field("cast", list_of(Type("record", fields=(*credit, pay))), 2),
            Field("maker", Type("record", fields=person), 3),
            Field("grid", list_of(list_of(Type("int64"))), 4),
            NESTED.fields[4],
        ),
        ("id",),
    )
    who = {"name": "Ann", "born": None, "died": dt.date(2020, 1, 1)}
    cast = [{"order": 1, "role": "actor", "person": who, "pay": [Decimal("123456.78")]}, None]
    return changes(start, [("c", None, {"id": 9, "cast": cast, "maker": who, "grid": [[2**40]]}), ("c", None, {"id": 10})], schema)


_PAIR = RowSchema((Field("value", Type("int32"), 1), Field("b", Type("decimal", 6, 2), 2), Field("a", Type("text"), 3)), ("a", "b"))


def awkward_keys() -> Batch:
    texts = ["", "a", "a,1.00", "a,", '"', '","', "[", "]", "null", "a\x00", "\\", "é", "e\u0301", "x" * 5_000]
    pairs = [(t, Decimal(n).scaleb(-2)) for t in texts for n in (0, 100, -1)]
    return changes(0, [("c", None, {"a": a, "b": b, "value": n}) for n, (a, b) in enumerate(pairs)], _PAIR)


def awkward_deletes(given: Batch) -> Batch:
    """Every other key of that batch goes, by its key alone."""
    assert given.offsets is not None
    rows = given.rows.column("after").to_pylist()[::2]
    return changes(int(given.offsets[-1]) + 1, [("d", {"a": r["a"], "b": r["b"]}, None) for r in rows], _PAIR)
