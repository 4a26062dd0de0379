"""Random Avro schemas with values: for each shape its Avro document, values as fastavro takes them, and the same as Arrow says them."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
from hypothesis import strategies as st

EPOCH = dt.datetime(1970, 1, 1)
LONGS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 63, 64, -64, -65, 2**55, -(2**56), 2**62, 2**63 - 1, -(2**63)])
_names = itertools.count()


@dataclass(frozen=True)
class Shape:
    """`plain` turns a value that fastavro writes into what Arrow's to_pylist gives for it."""

    avro: Any
    values: st.SearchStrategy[Any]
    plain: Callable[[Any], Any] = lambda value: value
    name: str = ""


def _moments(zone: dt.tzinfo | None) -> st.SearchStrategy[dt.datetime]:
    return st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(zone))


def _logical(base: str, logical: str) -> dict[str, str]:
    return {"type": base, "logicalType": logical}


def leaves() -> list[Shape]:
    return [
        Shape("boolean", st.booleans()),
        Shape("int", st.integers(-(2**31), 2**31 - 1)),
        Shape("long", LONGS),
        Shape("float", st.floats(width=32)),
        Shape("double", st.floats()),
        Shape("string", st.text(max_size=20)),
        Shape("bytes", st.binary(max_size=20)),
        Shape(_logical("int", "date"), st.dates()),
        Shape(_logical("long", "time-micros"), st.times()),
        Shape(_logical("long", "timestamp-micros"), _moments(dt.UTC)),
        Shape(_logical("long", "local-timestamp-micros"), _moments(None)),
        Shape(_logical("string", "uuid"), st.uuids(), str),
    ]


@st.composite
def decimals(draw: st.DrawFn) -> Shape:
    precision = draw(st.integers(1, 76))
    scale = draw(st.integers(0, precision))
    limit = 10**precision - 1
    edges = [0, 1, -1, limit, -limit, *(s * min(2 ** (8 * k - 1) + d, limit) for k in range(1, 32) for d in (-1, 0, 1) for s in (1, -1))]
    values = (st.integers(-limit, limit) | st.sampled_from(edges)).map(lambda v: _decimal(v, scale))
    document = {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    return Shape(document, values)


def _decimal(unscaled: int, scale: int) -> Decimal:
    return Decimal((int(unscaled < 0), tuple(int(d) for d in str(abs(unscaled))), -scale))


@st.composite
def enums(draw: st.DrawFn) -> Shape:
    symbols = draw(st.lists(st.from_regex(r"[A-Z][a-z0-9]{0,4}", fullmatch=True), min_size=1, max_size=8, unique=True))
    name = f"Enum{next(_names)}"
    return Shape({"type": "enum", "name": name, "symbols": symbols}, st.sampled_from(symbols), name=name)


@st.composite
def fixeds(draw: st.DrawFn) -> Shape:
    size = draw(st.integers(1, 20))
    name = f"Fixed{next(_names)}"
    return Shape({"type": "fixed", "name": name, "size": size}, st.binary(min_size=size, max_size=size), name=name)


@st.composite
def nullables(draw: st.DrawFn, inner: st.SearchStrategy[Shape]) -> Shape:
    item = draw(inner)
    branches = ["null", item.avro] if draw(st.booleans()) else [item.avro, "null"]
    kind = draw(st.sampled_from(["some", "some", "always null", "never null"]))
    values = {"some": st.none() | item.values, "always null": st.none(), "never null": item.values}[kind]
    return Shape(branches, values, lambda v: None if v is None else item.plain(v))


@st.composite
def records(draw: st.DrawFn, inner: st.SearchStrategy[Shape]) -> Shape:
    fields = draw(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=5))
    name = f"Record{next(_names)}"
    document = {"type": "record", "name": name, "fields": [{"name": n, "type": s.avro} for n, s in fields.items()]}
    values = st.fixed_dictionaries({n: s.values for n, s in fields.items()})
    return Shape(document, values, lambda v: {n: s.plain(v[n]) for n, s in fields.items()}, name)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Shape]) -> Shape:
    item = draw(inner.filter(lambda shape: _takes_bytes(shape.avro)))
    return Shape({"type": "array", "items": item.avro}, st.lists(item.values, max_size=3), lambda v: [item.plain(x) for x in v])


@st.composite
def maps(draw: st.DrawFn, inner: st.SearchStrategy[Shape]) -> Shape:
    value = draw(inner)
    values = st.dictionaries(st.text(max_size=3), value.values, max_size=3)
    return Shape({"type": "map", "values": value.avro}, values, lambda v: [(k, value.plain(x)) for k, x in v.items()])


@st.composite
def unions(draw: st.DrawFn, record: st.SearchStrategy[Shape]) -> Shape:
    """Only of types that fastavro tells apart by the Python value."""
    candidates = [
        Shape("long", LONGS, name="long"),
        Shape("string", st.text(max_size=5), name="string"),
        Shape("boolean", st.booleans(), name="boolean"),
    ]
    branches = draw(st.lists(st.sampled_from(candidates), min_size=2, max_size=3, unique_by=lambda s: s.name))
    branches.append(draw(record))
    null_at = draw(st.none() | st.integers(0, len(branches)))
    names = [s.name for s in branches]
    documents = [s.avro for s in branches]
    values = st.one_of([s.values.map(lambda v, s=s: (s.name, v)) for s in branches])
    if null_at is not None:
        documents.insert(null_at, "null")
        values = st.none() | values
    plains = {s.name: s.plain for s in branches}

    def plain(value: Any) -> Any:
        return None if value is None else {n: plains[n](value[1]) if n == value[0] else None for n in names}

    return Shape(documents, values, plain)


def _takes_bytes(avro: Any) -> bool:
    if isinstance(avro, dict) and avro["type"] == "record":
        return any(_takes_bytes(field["type"]) for field in avro["fields"])
    return True


FLAT = st.sampled_from(leaves()) | decimals()
COLUMNS = FLAT | nullables(FLAT)
ROWS = records(COLUMNS | records(COLUMNS) | nullables(records(COLUMNS)))
ANY_LEAF = COLUMNS | enums() | fixeds() | nullables(enums()) | nullables(fixeds())
_INNER = ANY_LEAF | records(ANY_LEAF)
ANY = records(ANY_LEAF | arrays(_INNER) | maps(_INNER) | unions(records(ANY_LEAF)) | nullables(arrays(_INNER)) | nullables(maps(_INNER)))


def nested(depth: int) -> st.SearchStrategy[Shape]:
    """Arrays of what may be null, and records that may be null, `depth` deep: what rows with lists and records are made of."""
    inner = COLUMNS if depth == 0 else COLUMNS | nested(depth - 1)
    items = nullables(inner.filter(lambda shape: not isinstance(shape.avro, list)))
    return nullables(arrays(items)) | nullables(records(items))


NESTED = records(nested(4))


@st.composite
def tables(draw: st.DrawFn, of: str = "any shape", rows_max: int = 8) -> tuple[Shape, list[Any]]:
    shape = draw({"any shape": ANY, "rows": ROWS, "nested": NESTED}[of])
    return shape, draw(st.lists(shape.values, max_size=rows_max))


def written(document: Any, rows: list[Any]) -> list[bytes]:
    """The rows as fastavro writes them."""
    schema = fastavro.parse_schema(document)
    data = []
    for row in rows:
        out = BytesIO()
        fastavro.schemaless_writer(out, schema, row)
        data.append(out.getvalue())
    return data


def read_back(document: Any, datum: bytes) -> Any:
    """A datum as fastavro reads it; EOFError where bytes are left over."""
    source = BytesIO(datum)
    value = fastavro.schemaless_reader(source, fastavro.parse_schema(document), None)
    if source.tell() != len(datum):
        raise EOFError(f"{len(datum) - source.tell()} bytes left")
    return value


def same(a: Any, b: Any) -> bool:
    """Equal, NaN to NaN, and -0.0 not to 0.0."""
    if isinstance(a, uuid.UUID) or isinstance(b, uuid.UUID):
        return str(a) == str(b)
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def ends_of(data: list[bytes]) -> list[int]:
    return list(itertools.accumulate(len(d) for d in data))
