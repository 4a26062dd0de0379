"""Batches to the wire and back, for every type and operation; fastavro reads the same events."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.errors import BadRecord, Refused
from millstream.events import envelope
from millstream.events.batch import Batch, batch, columns
from millstream.events.origin import Origin
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type, list_of, record_of
from millstream.events.version import Version

MODEST = settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
TOPIC = "studio.public.movie"
ORIGIN = Origin("postgres", "studio", "studio_db", "public", "movie")
LONG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=8)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": LONG,
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "text": TEXT,
    "bytes": st.binary(max_size=8),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)),
    "timestamptz": st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(dt.UTC)),
    "uuid": st.uuids().map(str),
    "json": st.sampled_from(["{}", "null", '{"a": [1, "é"]}']),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(str),
}


NAMES = st.text(min_size=1, max_size=4) | st.sampled_from(["a-b", "a_b", "a.b", "1", "_1", "é", "element"])

# What is said of a column beside its type; nothing, often.
ATTRIBUTES: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.fixed_dictionaries(
    {
        "nullable": st.booleans(),
        "fill": st.none() | st.just(UNKNOWN) | TEXT.map(Constant),
        "doc": TEXT,
        "tags": st.lists(TEXT, max_size=2).map(tuple),
    }
)


def kinds() -> st.SearchStrategy[Type]:
    bounds = st.integers(1, 76).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p)))
    return st.sampled_from(sorted(KINDS)).map(Type) | bounds.map(lambda b: Type("decimal", *b))


def nested(depth: int = 4) -> st.SearchStrategy[Type]:
    """Lists and records in one another, `depth` deep, of every kind inside; ids and names of members at random."""
    inner = nested(depth - 1) | kinds() if depth > 1 else kinds()
    names = st.lists(NAMES, min_size=1, max_size=3, unique=True)

    @st.composite
    def records(draw: st.DrawFn) -> Type:
        members = draw(names)
        ids = draw(st.permutations(range(1, len(members) + 3)))
        return Type("record", fields=tuple(Field(n, draw(inner), i, **draw(ATTRIBUTES)) for n, i in zip(members, ids, strict=False)))

    return inner.map(list_of) | records()


def values(kind: Type) -> st.SearchStrategy[Any]:
    if kind.kind == "list":
        return st.lists(st.none() | values(kind.element), max_size=3)
    if kind.kind == "record":
        return st.fixed_dictionaries({f.name: st.none() | values(f.type) for f in kind.fields})
    if kind.kind != "decimal":
        return KINDS[kind.kind]
    limit = 10**kind.precision - 1
    return st.integers(-limit, limit).map(lambda v: Decimal((int(v < 0), tuple(map(int, str(abs(v)))), -kind.scale)))


@st.composite
def row_schemas(draw: st.DrawFn, every_kind: bool = False) -> RowSchema:
    some = st.lists(kinds() | nested(), min_size=1, max_size=5)
    types = [Type(k) for k in sorted(KINDS)] + [Type("decimal", 40, 7)] if every_kind else draw(some)
    names = draw(st.lists(NAMES, min_size=len(types), max_size=len(types), unique=True))
    ids = draw(st.permutations(range(1, len(types) + 1)))
    key = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    said = [draw(ATTRIBUTES) for _ in types]
    return RowSchema(tuple(Field(n, t, i, **a) for n, t, i, a in zip(names, types, ids, said, strict=True)), tuple(key))


HOLES = st.none() | st.lists(st.fixed_dictionaries({"image": TEXT, "field": TEXT, "why": TEXT}), max_size=2)


@st.composite
def events(draw: st.DrawFn, schema: RowSchema) -> dict[str, Any]:
    image = st.fixed_dictionaries({f.name: st.none() | values(f.type) for f in schema.fields})
    op = draw(st.sampled_from("cudr"))
    tx = draw(st.none() | st.tuples(TEXT, st.integers(0, 2**63 - 1), st.integers(0, 2**40)))
    return {
        "op": op,
        "before": draw(image if op in "ud" else st.none()),
        "after": draw(st.none() if op == "d" else image),
        "incarnation": draw(st.integers(0, 2**32 - 1)),
        "major": draw(st.integers(0, 2**64 - 1)),
        "minor": draw(st.integers(0, 2**32 - 1)),
        "ts_us": draw(LONG),
        "processed_us": draw(st.none() | LONG),
        "tx_id": draw(st.none() | TEXT) if tx is None else tx[0],
        "tx_order": None if tx is None else tx[1],
        "tx_table_order": None if tx is None else tx[2],
        "position": draw(TEXT),
        "snapshot": draw(st.sampled_from([None, "true", "incremental"])),
        "backfill": draw(st.none() | TEXT),
        "cause": draw(st.sampled_from([None, "backfill", "resend"])),
        "holes": draw(HOLES),
    }


@st.composite
def batches(draw: st.DrawFn, every_kind: bool = False) -> Batch:
    schema = draw(row_schemas(every_kind))
    rows = draw(st.lists(events(schema), max_size=5))
    return batch(TOPIC, schema, {f.name: pa.array([r[f.name] for r in rows], f.type) for f in columns(schema)}, schema_id=7)


def round_trip(given_batch: Batch) -> Batch:
    text = envelope.value_schema(given_batch.topic, given_batch.schema)
    datums = envelope.encode_values(given_batch, ORIGIN, "1.2.3")
    schema = envelope.row_schema(text, given_batch.schema.key)
    return envelope.decode_values(given_batch.topic, text, 7, schema, datums.data, datums.starts, datums.ends)


def check_same(back: Batch, sent: Batch) -> None:
    assert (back.topic, back.schema, back.schema_id, back.offsets) == (sent.topic, sent.schema, 7, None)
    assert back.rows.schema == sent.rows.schema
    back.rows.validate(full=True)
    for name in sent.rows.schema.names:
        assert back.column(name).equals(sent.column(name)), name


@MODEST
@given(batches())
def test_what_is_encoded_decodes_to_the_same_batch(sent):
    check_same(round_trip(sent), sent)


@settings(MODEST, max_examples=8)
@given(batches(every_kind=True))
def test_so_it_does_for_all_fifteen_types_together(sent):
    assert len({f.type.kind for f in sent.schema.fields}) == 15
    check_same(round_trip(sent), sent)


@settings(MODEST, max_examples=15)
@given(batches(), st.integers(0, 3), st.integers(0, 3))
def test_a_slice_of_a_batch_is_its_rows(sent, start, length):
    part = sent.slice(start, length)
    check_same(round_trip(part), part)


@settings(MODEST, max_examples=25)
@given(batches())
def test_fastavro_reads_the_same_events(sent):
    document = json.loads(envelope.value_schema(TOPIC, sent.schema))
    reader = fastavro.parse_schema(document)
    datums = envelope.encode_values(sent, ORIGIN, "1.2.3")
    for row, (start, end) in enumerate(zip(datums.starts, datums.ends, strict=True)):
        assert datums.data[start : start + 5] == b"\0\0\0\0\7"
        source = BytesIO(datums.data[start + 5 : end])
        event = fastavro.schemaless_reader(source, reader, None)
        assert source.read() == b""
        wanted = {name: sent.column(name)[row].as_py() for name in sent.rows.schema.names}
        for image in ("before", "after"):
            assert _plain(event[image]) == _plain(_on_the_wire(wanted[image], sent.schema.fields))
        tx = (
            None
            if wanted["tx_order"] is None
            else {"id": wanted["tx_id"], "total_order": wanted["tx_order"], "data_collection_order": wanted["tx_table_order"]}
        )
        assert event["transaction"] == tx
        assert event["op"] == wanted["op"]
        assert event["millstream"] == {
            "version": str(Version(*(wanted[n] for n in ("incarnation", "major", "minor")))),
            **{n: wanted[n] for n in ("backfill", "cause", "holes")},
        }
        assert event["source"] == {
            "version": "1.2.3", "connector": "postgres", "name": "studio",
            "ts_ms": wanted["ts_us"] // 1000, "ts_us": wanted["ts_us"], "ts_ns": _nanos(wanted["ts_us"]),
            "snapshot": wanted["snapshot"], "db": "studio_db", "sequence": None, "schema": "public", "table": "movie",
            "txId": wanted["tx_id"], "position": wanted["position"],
        }  # fmt: skip
        made = wanted["processed_us"]
        assert (event["ts_ms"], event["ts_us"], event["ts_ns"]) == (
            None if made is None else made // 1000,
            made,
            made if made is None else _nanos(made),
        )


def _nanos(micros: int) -> int:
    limit = (2**63 - 1) // 1000
    return max(-limit, min(limit, micros)) * 1000


def _on_the_wire(row: Any, fields: tuple[Field, ...]) -> Any:
    """A row under the Avro names of its columns, which the schema's text lists in their order."""
    if row is None:
        return None
    avro = json.loads(envelope.value_schema(TOPIC, RowSchema(fields, ())))["fields"][0]["type"][1]["fields"]

    def inside(value: Any, type_: Type) -> Any:
        if value is None or type_.kind not in ("list", "record"):
            return value
        return _on_the_wire(value, type_.fields) if type_.kind == "record" else [inside(v, type_.element) for v in value]

    return {a["name"]: inside(row[f.name], f.type) for a, f in zip(avro, fields, strict=True)}


def _plain(value: Any) -> Any:
    """fastavro gives UUID objects where a batch has text."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return str(value) if type(value).__name__ == "UUID" else value


@MODEST
@given(row_schemas())
def test_the_row_schema_comes_back_from_its_text(schema):
    text = envelope.value_schema(TOPIC, schema)
    assert envelope.row_schema(text, schema.key) == schema
    names = [f["name"] for f in json.loads(text)["fields"][0]["type"][1]["fields"]]
    assert len(set(names)) == len(names)
    fastavro.parse_schema(json.loads(text))
    fastavro.parse_schema(json.loads(envelope.key_schema(TOPIC, schema)))


def test_the_envelope_has_its_fields_in_order():
    schema = RowSchema((Field("id", Type("int64"), 3), Field("made at", Type("timestamptz"), 9)), ("id",))
    document = json.loads(envelope.value_schema("shop-1.order lines", schema))
    assert (document["namespace"], document["connect.name"]) == ("shop_1.order_lines", "shop_1.order_lines.Envelope")
    assert [f["name"] for f in document["fields"]] == [
        "before",
        "after",
        "source",
        "transaction",
        "op",
        "ts_ms",
        "ts_us",
        "ts_ns",
        "millstream",
    ]
    value = document["fields"][0]["type"][1]
    assert document["fields"][1]["type"] == ["null", "Value"]
    assert value["fields"][0] == {"name": "id", "field-id": 3, "type": ["null", "long"], "default": None}
    assert value["fields"][1]["name"] == "made_at"
    assert value["fields"][1]["millstream.name"] == "made at"
    assert value["fields"][1]["type"][1]["logicalType"] == "timestamp-micros"
    source = document["fields"][2]["type"]
    assert [f["name"] for f in source["fields"]] == [
        "version", "connector", "name", "ts_ms", "ts_us", "ts_ns", "snapshot", "db", "sequence", "schema", "table", "txId", "position",
    ]  # fmt: skip


def test_a_text_without_attributes_is_what_it_was_and_keys_have_none():
    """The hashes are of texts that registries hold: another byte would be another id, and a key's id is in every key."""
    pair = record_of(("a", Type("int32")), ("b b", Type("timestamptz")))
    fields = (Field("id", Type("int64"), 1), Field("naïve name", Type("text"), 7), Field("price", Type("decimal", 10, 2), 3))
    plain = RowSchema((*fields, Field("cast", list_of(pair), 4)), ("id",))
    said = RowSchema(tuple(replace(f, nullable=False, fill=Constant("7"), doc="x", tags=("pii",)) for f in plain.fields), ("id",))
    value, key = envelope.value_schema("shop.public.movie", plain), envelope.key_schema("shop.public.movie", plain)
    assert sha256(value.encode()).hexdigest() == "17041f932274625080e944c71687fcdac428556074747c572892c9e80add1d89"
    assert sha256(key.encode()).hexdigest() == "e63782d6b6cbb7c7a473911a25f04024de6b38ff296c7fde9483cc7d7a2b123b"
    assert envelope.key_schema("shop.public.movie", said) == key
    column = json.loads(envelope.value_schema("shop.public.movie", said))["fields"][0]["type"][1]["fields"][1]
    assert column == {
        "name": "na_ve_name", "field-id": 7, "millstream.name": "naïve name", "type": ["null", "string"], "default": None,
        "millstream.nullable": False, "millstream.fill": {"constant": "7"}, "doc": "x", "millstream.tags": ["pii"],
    }  # fmt: skip


def test_lists_and_records_have_names_of_their_own():
    name = record_of(("first name", Type("text")))
    credit = record_of(("person", name), ("as", name), ("prices", list_of(list_of(Type("decimal", 4, 2)))))
    schema = RowSchema((Field("id", Type("int64"), 1), Field("cast", list_of(credit), 2)), ("id",))
    cast = json.loads(envelope.value_schema("shop.movie", schema))["fields"][0]["type"][1]["fields"][1]
    item = cast["type"][1]["items"][1]
    assert (cast["type"][1]["type"], cast["type"][1]["items"][0], cast["default"]) == ("array", "null", None)
    assert (item["name"], item["namespace"], item["connect.name"]) == ("cast", "shop.movie.value", "shop.movie.value.cast")
    person, played, prices = item["fields"]
    assert person == {
        "name": "person",
        "field-id": 1,
        "type": [
            "null",
            {
                "type": "record",
                "name": "person",
                "namespace": "shop.movie.value.cast",
                "connect.name": "shop.movie.value.cast.person",
                "fields": [
                    {"name": "first_name", "field-id": 1, "millstream.name": "first name", "type": ["null", "string"], "default": None}
                ],
            },
        ],
        "default": None,
    }
    assert played["type"][1]["connect.name"] == "shop.movie.value.cast.as"
    assert prices["type"][1]["items"][1]["items"][1] == {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}


@pytest.mark.parametrize("text", ["nonsense", "{}", "[]", '{"type": "record", "name": "R", "fields": [{"name": "before", "type": "int"}]}'])
def test_another_schema_is_no_envelope(text):
    with pytest.raises(Refused) as caught:
        envelope.row_schema(text, ("id",))
    assert caught.value.code == "not_an_envelope"


def some(rows: int = 3, **given: Any) -> Batch:
    schema = RowSchema(
        (Field("id", Type("int64"), 1), Field("the title", Type("text"), 2), Field("price", Type("decimal", 6, 2), 3)), ("price", "id")
    )
    row = {"id": 1, "the title": "one", "price": Decimal("1.50")}
    start: dict[str, Any] = {
        "op": ["c"] * rows, "after": pa.array([row] * rows, schema.arrow), "incarnation": [1] * rows, "major": [2] * rows,
        "minor": range(rows),         "ts_us": [5] * rows, "position": ["p"] * rows,
    }  # fmt: skip
    return batch(TOPIC, schema, {**start, **given}, schema_id=7)


def test_keys_come_from_the_row_that_is_there():
    schema = some().schema
    images = [{"id": i, "the title": None, "price": Decimal(i)} for i in range(4)]
    before = pa.array([None, images[1], images[2], None], schema.arrow)
    after = pa.array([images[0], images[3], None, images[3]], schema.arrow)
    sent = some(4, op=list("cudr"), before=before, after=after)
    datums = envelope.encode_keys(sent, TOPIC, 258)
    reader = fastavro.parse_schema(json.loads(envelope.key_schema(TOPIC, schema)))
    read = []
    for start, end in zip(datums.starts, datums.ends, strict=True):
        assert datums.data[start : start + 5] == b"\0\0\0\1\2"
        read.append(fastavro.schemaless_reader(BytesIO(datums.data[start + 5 : end]), reader, None))
    assert read == [{"price": Decimal(i), "id": i} for i in (0, 3, 2, 3)]


def test_a_key_that_is_null_is_named():
    after = pa.array([{"id": 1, "price": Decimal(1)}, {"id": 2, "price": None}], some().schema.arrow)
    with pytest.raises(BadRecord, match="row 1 of the batch has no value in the key column price") as caught:
        envelope.encode_keys(some(2, after=after), TOPIC, 1)
    assert (caught.value.code, caught.value.where) == ("key_null", TOPIC)


def test_a_batch_without_an_id_cannot_be_framed():
    with pytest.raises(ValueError, match="no schema id"):
        envelope.encode_values(batch(TOPIC, some().schema, {n: some().column(n) for n in some().rows.schema.names}), ORIGIN, "1")


def test_an_order_that_is_not_whole_is_no_transaction():
    sent = some(2, tx_id=["a", "b"], tx_order=[1, None], tx_table_order=[1, 2])
    back = round_trip(sent)
    assert back.column("tx_id").to_pylist() == ["a", "b"]
    assert back.column("tx_order").to_pylist() == [1, None]
    assert back.column("tx_table_order").to_pylist() == [1, None]


def damaged(change: Any) -> BadRecord:
    sent = some()
    text = envelope.value_schema(TOPIC, sent.schema)
    datums = envelope.encode_values(sent, ORIGIN, "1.2.3")
    rows = [datums.data[s:e] for s, e in zip(datums.starts, datums.ends, strict=True)]
    rows[1] = change(rows[1])
    ends = np.cumsum([len(row) for row in rows])
    with pytest.raises(BadRecord) as caught:
        envelope.decode_values(TOPIC, text, 7, sent.schema, b"".join(rows), ends - [len(row) for row in rows], ends)
    assert (caught.value.code, caught.value.where) == ("avro_malformed", TOPIC)
    return caught.value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: b"\1" + row[1:], "the frame is not that of schema 7, at byte .* in row 1"),
        (lambda row: row[:4] + b"\x08" + row[5:], "the frame is not that of schema 7, at byte .* in row 1"),
        (lambda row: row[:4], "shorter than its frame"),
        (lambda row: row[:-1], "millstream.holes: the record ends .* in row 1"),
        (lambda row: row + b"\0", "1 bytes are left after the last field, .* in row 1"),
        (lambda row: row.replace(b"one", b"on\xff"), r"after\.the_title: text that is not UTF-8, at byte \d+ in row 1"),
        (lambda row: row.replace(b"\2c\0", b"\2x\0"), "op is 'x' in row 1"),
        (lambda row: row.replace(b"0000000000000002", b"000000000000000g"), "millstream.version"),
    ],
)
def test_damage_is_named(change, says):
    assert re.search(says, damaged(change).message), damaged(change).message


def test_an_empty_batch():
    check_same(round_trip(some().slice(0, 0)), some().slice(0, 0))


def test_many_events_of_every_operation():
    rows = 20_000
    schema = some().schema
    numbers = np.arange(rows)
    image = pa.StructArray.from_arrays(
        [
            pa.array(numbers),
            pa.array([f"title {n}" for n in numbers], mask=numbers % 5 == 0),
            pa.array(numbers % 9999).cast(pa.decimal128(21, 2)).cast(pa.decimal128(6, 2)),
        ],
        fields=list(schema.arrow),
    )
    ops = np.array(list("cudr"))[numbers % 4]
    absent = pa.nulls(rows, schema.arrow)
    before = pc.if_else(pa.array((ops == "u") | (ops == "d")), image, absent)
    after = pc.if_else(pa.array(ops != "d"), image, absent)
    sent = some(rows, op=pa.array(ops), before=before, after=after, minor=numbers.astype(np.uint32))
    check_same(round_trip(sent), sent)
