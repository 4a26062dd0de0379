"""The codec beside fastavro: the same bytes from the same rows, the same rows from the same bytes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.avro import Codec
from millstream.errors import BadRecord, Refused

_spec = importlib.util.spec_from_file_location("avro_shapes", Path(__file__).with_name("shapes.py"))
shapes: Any = importlib.util.module_from_spec(_spec)
sys.modules["avro_shapes"] = shapes
_spec.loader.exec_module(shapes)

MODEST = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def bounds(data: list[bytes], gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    ends = np.array(shapes.ends_of(data), np.int64) + gap * np.arange(1, len(data) + 1)
    return ends - np.array([len(d) for d in data], np.int64), ends


def check_both_ways(shape: Any, rows: list[Any]) -> None:
    codec = Codec(json.dumps(shape.avro))
    data = shapes.written(shape.avro, rows)
    plain = [shape.plain(row) for row in rows]

    starts, ends = bounds(data)
    assert shapes.same(codec.decode(b"".join(data), starts, ends).to_pylist(), plain)

    datums = codec.encode(pa.array(plain, codec.arrow_type), len(rows))
    assert datums.data == b"".join(data)
    assert datums.ends.tolist() == ends.tolist()


@MODEST
@given(shapes.tables("rows"))
def test_rows_of_columns_and_records_equal_fastavro(table):
    check_both_ways(*table)


@MODEST
@given(shapes.tables("nested"))
def test_lists_and_records_in_one_another_equal_fastavro(table):
    check_both_ways(*table)


@MODEST
@given(shapes.tables())
def test_every_shape_equals_fastavro(table):
    check_both_ways(*table)


@settings(MODEST, max_examples=25)
@given(shapes.tables() | shapes.tables("nested"), st.integers(0, 7), st.integers(1, 7))
def test_slices_are_their_rows(table, start, length):
    shape, rows = table
    codec = Codec(json.dumps(shape.avro))
    whole = pa.array([shape.plain(row) for row in rows], codec.arrow_type)
    part = whole.slice(start, length)
    expected = shapes.written(shape.avro, rows[start : start + length])
    assert codec.encode(part, len(part)).data == b"".join(expected)
    # As columns cut one by one, too, as a batch's columns are.
    columns = {field.name: whole.field(field.name).slice(start, length) for field in whole.type}
    assert codec.encode(columns, len(part)).data == b"".join(expected)


@settings(MODEST, max_examples=25)
@given(shapes.tables(), st.integers(0, 4))
def test_datums_may_have_other_bytes_between_them(table, gap):
    shape, rows = table
    data = shapes.written(shape.avro, rows)
    starts, ends = bounds(data, gap)
    framed = b"".join(b"\xff" * gap + d for d in data)
    codec = Codec(json.dumps(shape.avro))
    assert shapes.same(codec.decode(framed, starts, ends).to_pylist(), [shape.plain(row) for row in rows])
    datums = codec.encode(pa.array([shape.plain(row) for row in rows], codec.arrow_type), len(rows), b"\xff" * gap)
    assert (datums.data, datums.ends.tolist()) == (framed, ends.tolist())


@settings(MODEST, max_examples=25)
@given(shapes.tables(), st.data())
def test_chosen_fields_are_those_of_the_whole(table, data):
    shape, rows = table
    names = [field["name"] for field in shape.avro["fields"]]
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    datums = shapes.written(shape.avro, rows)
    some = Codec(json.dumps(shape.avro)).decode(b"".join(datums), *bounds(datums), fields=chosen)
    expected = [{n: v for n, v in shape.plain(row).items() if n in chosen} for row in rows]
    assert shapes.same(some.to_pylist(), expected)


NESTED = {
    "type": "record",
    "name": "Outer",
    "fields": [
        {
            "name": "a",
            "type": {
                "type": "record",
                "name": "Pair",
                "fields": [{"name": "x", "type": "string"}, {"name": "y", "type": ["null", "long"]}],
            },
        },
        {"name": "b", "type": ["null", "Pair"]},
        {"name": "c", "type": ["null", "string"]},
    ],
}


def test_nested_fields_are_chosen_by_path():
    rows = [{"a": {"x": "p", "y": 1}, "b": None, "c": None}, {"a": {"x": "q", "y": None}, "b": {"x": "r", "y": 7}, "c": "s"}]
    data = shapes.written(NESTED, rows)
    codec = Codec(json.dumps(NESTED))
    some = codec.decode(b"".join(data), *bounds(data), fields=["a.y", "b.x"])
    assert some.to_pylist() == [{"a": {"y": 1}, "b": None}, {"a": {"y": None}, "b": {"x": "r"}}]
    assert codec.decode(b"", np.zeros(0, np.int64), np.zeros(0, np.int64), fields=["a.y", "b.x"]).type == some.type
    with pytest.raises(ValueError, match="no field 'z'"):
        codec.decode(b"", np.zeros(0, np.int64), np.zeros(0, np.int64), fields=["a.z"])


def test_scalars_mappings_and_structs_say_the_same():
    codec = Codec(json.dumps(NESTED))
    rows = [{"a": {"x": "é", "y": y}, "b": None, "c": "same"} for y in (1, None, 3)]
    columns = {
        "a": {"x": pa.scalar("é"), "y": pa.array([1, None, 3])},
        "b": pa.scalar(None, codec.arrow_type.field("b").type),
        "c": pa.scalar("same"),
    }
    assert codec.encode(columns, 3).data == codec.encode(pa.array(rows, codec.arrow_type), 3).data == b"".join(shapes.written(NESTED, rows))
    constant = {
        "a": pa.scalar({"x": "k", "y": 5}),
        "b": {"x": pa.scalar("v"), "y": pa.scalar(None, pa.int64())},
        "c": pa.scalar(None, pa.string()),
    }
    datums = codec.encode(constant, 2, b"\0\0\0\0\7")
    one = b"\0\0\0\0\7" + shapes.written(NESTED, [{"a": {"x": "k", "y": 5}, "b": {"x": "v", "y": None}, "c": None}])[0]
    assert (datums.data, datums.ends.tolist()) == (one * 2, [len(one), 2 * len(one)])


def test_what_lies_under_nulls_leaves_no_trace():
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {
                "name": "r",
                "type": [
                    "null",
                    {
                        "type": "record",
                        "name": "I",
                        "fields": [
                            {"name": "n", "type": ["null", "long"]},
                            {"name": "s", "type": "string"},
                            {
                                "name": "l",
                                "type": {
                                    "type": "array",
                                    "items": {"type": "record", "name": "J", "fields": [{"name": "t", "type": "string"}]},
                                },
                            },
                        ],
                    },
                ],
            }
        ],
    }
    codec = Codec(json.dumps(schema))
    mask = np.array([False, True, False])
    inner = pa.StructArray.from_arrays(
        [pa.array([1, 2**62, 3]), pa.array(["a", "hidden", "c"]), pa.array([[{"t": "u"}], [{"t": "hidden"}] * 2, []])],
        names=["n", "s", "l"],
        mask=pa.array(mask),
    )
    rows = [{"r": {"n": 1, "s": "a", "l": [{"t": "u"}]}}, {"r": None}, {"r": {"n": 3, "s": "c", "l": []}}]
    assert codec.encode({"r": inner}, 3).data == b"".join(shapes.written(schema, rows))


def test_many_rows_go_through_in_chunks():
    rows = 40_000
    codec = Codec(json.dumps(NESTED))
    numbers = np.arange(rows)
    texts = pa.array([f"text {n}" for n in numbers])
    columns = {
        "a": {"x": texts, "y": pa.array(numbers * 10**11, mask=numbers % 7 == 0)},
        "b": pa.nulls(rows, codec.arrow_type.field("b").type),
        "c": texts,
    }
    datums = codec.encode(columns, rows, b"frame")
    back = codec.decode(datums.data, datums.starts + 5, datums.ends)
    assert back.field("c").equals(texts)
    assert back.field("a").field("y").equals(columns["a"]["y"])
    for row in (0, 16_383, 16_384, rows - 1):
        expected = {"a": {"x": f"text {row}", "y": None if row % 7 == 0 else row * 10**11}, "b": None, "c": f"text {row}"}
        assert datums.data[datums.starts[row] : datums.ends[row]] == b"frame" + shapes.written(NESTED, [expected])[0]
    damaged = bytearray(datums.data)
    damaged[datums.starts[20_000] + 5] = 1  # a length of -1
    with pytest.raises(BadRecord, match=r"^a\.x: a length of -1 .* in row 20000 of the batch"):
        codec.decode(bytes(damaged), datums.starts + 5, datums.ends)


def test_blocks_with_sizes_and_several_blocks_are_read():
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "l", "type": {"type": "array", "items": "string"}}, {"name": "z", "type": "int"}],
    }
    codec = Codec(json.dumps(schema))
    data = [b"\x02\x02a\x04\x02b\x02c\x00\x02", b"\x03\x08\x02d\x02e\x00\x04", b"\x00\x06", b"\x01\x02\x00\x02\x02f\x00\x08"]
    for datum, row in zip(data, [["a", "b", "c"], ["d", "e"], [], ["", "f"]], strict=True):
        assert shapes.read_back(schema, datum)["l"] == row
    assert codec.decode(b"".join(data), *bounds(data)).to_pylist() == [
        {"l": ["a", "b", "c"], "z": 1}, {"l": ["d", "e"], "z": 2}, {"l": [], "z": 3}, {"l": ["", "f"], "z": 4},
    ]  # fmt: skip
    assert codec.decode(b"".join(data), *bounds(data), fields=["z"]).to_pylist() == [{"z": 1}, {"z": 2}, {"z": 3}, {"z": 4}]


TREE = {
    "type": "record",
    "name": "Node",
    "namespace": "n",
    "fields": [
        {"name": "value", "type": "string"},
        {"name": "next", "type": ["null", "Node"]},
        {"name": "children", "type": {"type": "array", "items": "n.Node"}},
    ],
}


def test_a_recursive_record_is_carried_as_its_bytes():
    leaf = {"value": "leaf", "next": None, "children": []}
    middle = {"value": "middle", "next": leaf, "children": [leaf, leaf]}
    rows = [{"value": "root", "next": middle, "children": [leaf]}, leaf]
    data = shapes.written(TREE, rows)
    codec = Codec(json.dumps(TREE))
    back = codec.decode(b"".join(data), *bounds(data))
    assert back.field("next").to_pylist() == [shapes.written(TREE, [middle])[0], None]
    assert back.field("children").to_pylist() == [shapes.written(TREE, [leaf]), []]
    assert codec.encode(back, 2).data == b"".join(data)
    with pytest.raises(BadRecord, match="more bytes than one record"):
        codec.encode({"value": pa.array(["x"]), "next": pa.array([data[1] + b"\0"]), "children": pa.array([[]], pa.list_(pa.binary()))}, 1)


def test_a_recursion_without_end_is_refused_in_time():
    data = b"\0\2" * 100_000 + b"\0\0\0"
    with pytest.raises(BadRecord, match="nested more than 200 deep"):
        Codec(json.dumps(TREE)).decode(data, np.array([0]), np.array([len(data)]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": pa.array([1, 2]), "b": pa.array(["x", None])}, "b is null in row 1"),
        ({"a": pa.array([1, 2])}, "b has no column"),
        ({"a": pa.array(["one", "two"]), "b": pa.array(["x", "y"])}, "a is given string values that are not int64"),
        ({"a": pa.scalar(None, pa.int64()), "b": pa.array(["x", "y"])}, "a is null in row 0"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns, message):
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]}
    with pytest.raises(BadRecord, match=message) as caught:
        Codec(json.dumps(schema)).encode(columns, 2)
    assert caught.value.code == "avro_unwritable"


def test_a_column_of_another_length_is_a_mistake():
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}
    with pytest.raises(ValueError, match="column a has 2 values, the batch 3 rows"):
        Codec(json.dumps(schema)).encode({"a": pa.array([1, 2])}, 3)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense", '"string"', "[]", '{"type": "record"}', '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "Missing"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "bytes", "logicalType": "decimal", "precision": 77}}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": ["int", "int"]}]}',
    ],
)  # fmt: skip
def test_what_is_no_records_schema_is_refused(text):
    with pytest.raises(Refused) as caught:
        Codec(text)
    assert caught.value.code == "avro_schema"


def test_a_decimal_in_fixed_bytes():
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": {"type": "fixed", "name": "F", "size": 2, "logicalType": "decimal", "precision": 4, "scale": 1}}],
    }
    codec = Codec(json.dumps(schema))
    values = pa.array([1, -1, 9999, -9999, 0]).cast(pa.decimal128(38, 0)).to_pylist()
    column = pa.array([v.scaleb(-1) for v in values], pa.decimal128(4, 1))
    datums = codec.encode({"a": column}, 5)
    assert datums.data == b"".join(v.to_bytes(2, "big", signed=True) for v in (1, -1, 9999, -9999, 0))
    assert codec.decode(datums.data, datums.starts, datums.ends).field("a").equals(column)
