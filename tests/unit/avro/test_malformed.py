"""Bytes that are not what the schema says: an error that names field, row and byte, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.avro import Codec
from millstream.errors import BadRecord

_spec = importlib.util.spec_from_file_location("avro_shapes", Path(__file__).with_name("shapes.py"))
shapes: Any = importlib.util.module_from_spec(_spec)
sys.modules["avro_shapes"] = shapes
_spec.loader.exec_module(shapes)


def record(*fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": avro} for name, avro in fields]}


def decode(schema: Any, *data: bytes, fields: Any = None) -> list[Any]:
    ends = np.array(shapes.ends_of(list(data)), np.int64)
    starts = ends - np.array([len(d) for d in data])
    return Codec(json.dumps(schema)).decode(b"".join(data), starts, ends, fields).to_pylist()


AFTER = record(
    ("id", "int"), ("after", ["null", {"type": "record", "name": "V", "fields": [{"name": "title", "type": ["null", "string"]}]}])
)
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 0}
ITEMS = {"type": "array", "items": {"type": "record", "name": "H", "fields": [{"name": "why", "type": "string"}]}}

# schema, a sound datum, the bad one after it, what the error says, the byte of the bad datum that it names
CASES = [
    pytest.param(record(("a", "long")), b"\x02", b"", "a: the record ends inside a long", 0, id="nothing at all"),
    pytest.param(record(("a", "long")), b"\x02", b"\x80", "a: the record ends inside a long", 0, id="truncated varint"),
    pytest.param(
        record(("a", "long")), b"\x02", b"\xff" * 10 + b"\x01", "a: a long is longer than a 64-bit integer", 0, id="varint of 11 bytes"
    ),
    pytest.param(
        record(("a", "long")), b"\x02", b"\xff" * 9 + b"\x02", "a: a long is longer than a 64-bit integer", 0, id="varint of 65 bits"
    ),
    pytest.param(record(("a", "int")), b"\x02", b"\x80\x80\x80\x80\x10", "a: 2147483648 is no 32-bit integer", 0, id="int out of range"),
    pytest.param(record(("a", "boolean")), b"\x01", b"\x02", "a: a boolean of 2", 0, id="boolean of 2"),
    pytest.param(record(("a", "double")), b"\0" * 8, b"\0" * 7, "a: the record ends inside a double", 0, id="truncated double"),
    pytest.param(record(("a", "float")), b"\0" * 4, b"\0" * 3, "a: the record ends inside a float", 0, id="truncated float"),
    pytest.param(
        record(("a", "int"), ("s", "string")), b"\0\2x", b"\0\1", "s: a length of -1 where 0 bytes are left", 1, id="negative length"
    ),
    pytest.param(record(("s", "bytes")), b"\2x", b"\4x", "s: a length of 2 where 1 bytes are left", 0, id="length past the end"),
    pytest.param(
        record(("s", "string")),
        b"\2x",
        b"\xfe" + b"\xff" * 8 + b"\1",
        "s: a length of 9223372036854775807 where 0 bytes",
        0,
        id="huge length",
    ),
    pytest.param(record(("s", "string")), b"\2x", b"\4\xc3\x28", "s: text that is not UTF-8", 0, id="not UTF-8"),
    pytest.param(record(("s", ["null", "string"])), b"\2\2x", b"\2\4\xc3\x28", "s: text that is not UTF-8", 1, id="null or not UTF-8"),
    pytest.param(record(("s", ["null", "string"])), b"\0", b"\4", "s: there is no branch 2 in a union of 2", 0, id="branch out of range"),
    pytest.param(record(("s", ["null", "string"])), b"\0", b"\1", "s: there is no branch -1 in a union of 2", 0, id="negative branch"),
    pytest.param(record(("s", ["null", "string"])), b"\0", b"", "s: the record ends inside a union's branch", 0, id="no branch"),
    pytest.param(record(("s", ["null", "int", "string"])), b"\0", b"\6", "s: there is no branch 3 in a union of 3", 0, id="wide union"),
    pytest.param(AFTER, b"\0\2\2\2x", b"\0\2\2\xc8\1abc", r"after\.title: a length of 100 where 3 bytes are left", 3, id="inside a record"),
    pytest.param(
        AFTER, b"\0\0", b"\0\2\2\xc8\1abc", r"after\.title: a length of 100 where 3 bytes are left", 3, id="inside one record of two"
    ),
    pytest.param(AFTER, b"\0\0", b"\0\0\0", "record: 1 bytes are left after the last field", 2, id="bytes left over"),
    pytest.param(record(("d", DECIMAL)), b"\2\x63", b"\2\x64", "d: a decimal of more than 2 digits", 0, id="decimal too large"),
    pytest.param(
        record(("d", DECIMAL)), b"\2\x63", b"\x50" + b"\1" * 40, "d: a decimal of more than 2 digits", 0, id="decimal of 40 bytes"
    ),
    pytest.param(
        record(("l", ITEMS)),
        b"\0",
        b"\xfe\xff\xff\xff\x0f\0",
        "l: a block of 2147483647 items is larger than the record",
        5,
        id="huge block",
    ),
    pytest.param(record(("l", ITEMS)), b"\0", b"\2\4x\0", "l: the record ends inside a block's count", 4, id="item takes the end"),
    pytest.param(record(("l", ITEMS)), b"\0", b"\2\2x", "l: the record ends inside a block's count", 3, id="no last block"),
    pytest.param(record(("l", ITEMS)), b"\0", b"\2\3x\0", r"l\[\]\.why: a length of -2", 1, id="item of negative length"),
    pytest.param(
        record(("m", {"type": "map", "values": "int"})), b"\0", b"\2\2\xff\2\0", r"m\[\]\.key: text that is not UTF-8", 1, id="map key"
    ),
    pytest.param(
        record(("e", {"type": "enum", "name": "E", "symbols": ["A"]})),
        b"\0",
        b"\2",
        "e: there is no symbol 1 in an enum of 1",
        0,
        id="enum",
    ),
    pytest.param(
        record(("f", {"type": "fixed", "name": "F", "size": 3})),
        b"abc",
        b"ab",
        "f: the record ends inside a fixed of 3 bytes",
        0,
        id="fixed",
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad", "says", "byte"), CASES)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_the_error_names_field_row_and_byte(schema, good, bad, says, byte, before):
    assert len(decode(schema, good)) == 1
    with pytest.raises(BadRecord, match=says) as caught:
        decode(schema, *[good] * before, bad, good, good)
    assert caught.value.code == "avro_malformed"
    assert caught.value.message.endswith(f"at byte {before * len(good) + byte} in row {before} of the batch"), caught.value.message


@pytest.mark.parametrize(
    ("schema", "good", "bad", "says", "byte"), [case for case in CASES if "length" in str(case.id) or "left" in str(case.id)]
)
def test_skipped_fields_are_checked_for_their_lengths(schema, good, bad, says, byte):
    with pytest.raises(BadRecord, match=says):
        decode(schema, good, bad, fields=[])


def test_longer_than_needed_varints_are_read_as_other_readers_do():
    schema = record(("s", ["null", "string"]), ("n", "long"))
    datum = b"\x82\x00\x82\x80\x00x\x86\x80\x80\x00"
    assert (
        decode(schema, datum, b"\0\0")
        == [shapes.read_back(schema, datum), {"s": None, "n": 0}]
        == [{"s": "x", "n": 3}, {"s": None, "n": 0}]
    )


def test_sign_bytes_more_than_needed_are_no_digits():
    assert decode(record(("d", DECIMAL)), b"\x50" + b"\xff" * 40, b"\x50" + b"\0" * 39 + b"\x63", b"\0") == [{"d": -1}, {"d": 99}, {"d": 0}]


def test_ranges_outside_the_data_are_a_mistake_of_the_caller():
    codec = Codec(json.dumps(record(("a", "long"))))
    for starts, ends in (([0], [2]), ([-1], [1]), ([1], [0]), ([0, 0], [1, 1]), ([0], [1, 1])):
        with pytest.raises(ValueError, match=r"ranges|starts"):
            codec.decode(b"\2", np.array(starts), np.array(ends))


def test_no_length_makes_it_allocate():
    schema = record(
        ("s", "string"), ("l", {"type": "array", "items": "long"}), ("b", ["null", {"type": "fixed", "name": "F", "size": 1 << 30}])
    )
    codec = Codec(json.dumps(schema))
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\x07"
    tracemalloc.start()
    for datum in (huge, b"\0" + huge, b"\0\0\2abc"):
        with pytest.raises(BadRecord):
            codec.decode(datum, np.array([0]), np.array([len(datum)]))
    assert codec.decode(b"\0\0\0" * 1000, np.arange(0, 3000, 3), np.arange(3, 3003, 3)).field("b").null_count == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def _plain(avro: Any) -> Any:
    """The same schema with no logical types, so that fastavro takes every value of the bytes."""
    if isinstance(avro, list):
        return [_plain(a) for a in avro]
    if isinstance(avro, dict):
        return {k: _plain(v) for k, v in avro.items() if k != "logicalType"}
    return avro


@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(shapes.tables(rows_max=3), st.data())
def test_damaged_bytes_are_an_error_or_what_fastavro_reads(table, data):
    shape, rows = table
    schema = _plain(shape.avro)
    datums = shapes.written(shape.avro, rows)
    if not datums:
        return
    row = data.draw(st.integers(0, len(datums) - 1))
    sound = datums[row]
    damage = data.draw(st.sampled_from(["cut", "change", "add", "other"]))
    place = data.draw(st.integers(0, max(0, len(sound) - 1)))
    datums[row] = {
        "cut": sound[:place],
        "change": sound[:place] + bytes([data.draw(st.integers(0, 255))]) + sound[place + 1 :],
        "add": sound + data.draw(st.binary(min_size=1, max_size=3)),
        "other": data.draw(st.binary(max_size=30)),
    }[damage]
    try:
        back = decode(schema, *datums)
    except BadRecord as error:
        assert error.code == "avro_malformed"
        assert f"in row {row} of the batch" in error.message
        return
    if not _tells_branches_or_entries(schema):
        assert shapes.same(back[row], shapes.read_back(schema, datums[row]))


def _tells_branches_or_entries(schema: Any) -> bool:
    """Whether it has wide unions or maps, of which fastavro's values do not say which branch, or what stood twice."""
    if isinstance(schema, list):
        return len(schema) > 2 or "null" not in schema or any(_tells_branches_or_entries(branch) for branch in schema)
    if isinstance(schema, dict):
        return (
            schema["type"] == "map"
            or any(_tells_branches_or_entries(f["type"]) for f in schema.get("fields", []))
            or _tells_branches_or_entries(schema.get("items"))
        )
    return False
