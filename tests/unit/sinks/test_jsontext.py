"""JSON text of Arrow columns, against Python's own JSON, value by value."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.events.types import Field, Type, list_of, record_of
from millstream.sinks.jsontext import iso, lists, named, objects, quoted, values

texts = st.text(st.characters(codec="utf-8"), max_size=20)


def read(column: pa.Array) -> list:
    return [None if t is None else json.loads(t) for t in column.to_pylist()]


@given(st.lists(st.none() | texts))
def test_strings_read_back(given_texts: list[str | None]) -> None:
    assert read(quoted(pa.array(given_texts, pa.string()))) == given_texts


@given(st.lists(st.none() | st.floats()))
def test_floats_read_back_to_the_last_bit(numbers: list[float | None]) -> None:
    shown = values(pa.array(numbers, pa.float64(), from_pandas=False), Type("float64")).to_pylist()
    for number, text in zip(numbers, shown, strict=True):
        if number is None:
            assert text is None
        elif math.isfinite(number):
            found = json.loads(text)
            assert isinstance(found, float)
            assert (found, math.copysign(1, found)) == (number, math.copysign(1, number))
        else:
            assert text == {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}[str(number)]


@given(st.lists(st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_short_floats_are_the_shortest_text_of_theirs(numbers: list[float | None]) -> None:
    shown = values(pa.array(numbers, pa.float32()), Type("float32")).to_pylist()
    assert [None if t is None else np.float32(t) for t in shown] == [None if n is None else np.float32(n) for n in numbers]


@given(st.lists(st.none() | st.decimals(-(10**20), 10**20, places=12)))
def test_decimals_are_plain_text_at_their_scale(numbers: list[Decimal | None]) -> None:
    shown = read(values(pa.array(numbers, pa.decimal128(38, 12)), Type("decimal", 38, 12)))
    assert shown == [None if n is None else format(n, ".12f") for n in numbers]


@given(st.lists(st.none() | st.binary(max_size=20)))
def test_bytes_are_base64(given_bytes: list[bytes | None]) -> None:
    shown = read(values(pa.array(given_bytes, pa.binary()), Type("bytes")))
    assert [None if t is None else base64.b64decode(t, validate=True) for t in shown] == given_bytes


@given(st.lists(st.none() | st.datetimes()), st.lists(st.none() | st.dates()), st.lists(st.none() | st.times()))
def test_times_are_iso(moments: list, days: list, times: list) -> None:
    assert [t and dt.datetime.fromisoformat(t) for t in read(values(pa.array(moments, pa.timestamp("us")), Type("timestamp")))] == moments
    assert [t and dt.date.fromisoformat(t) for t in read(values(pa.array(days, pa.date32()), Type("date")))] == days
    shown = read(values(pa.array(times, pa.time64("us")), Type("time")))
    assert [None if t is None else dt.time.fromisoformat(t) for t in shown] == times
    instants = [m and m.replace(tzinfo=dt.UTC) for m in moments]
    shown = read(values(pa.array(instants, pa.timestamp("us", "UTC")), Type("timestamptz")))
    assert [t and dt.datetime.fromisoformat(t) for t in shown] == instants
    assert all(t is None or t.endswith("Z") for t in shown)


def test_years_beyond_four_digits_are_still_years() -> None:
    days = pa.array([0, None, 200_000_000, -1_000_000], pa.int32()).cast(pa.date32())
    assert iso(days, "date").to_pylist() == ["1970-01-01", None, str(np.datetime64(200_000_000, "D")), str(np.datetime64(-1_000_000, "D"))]
    instants = pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us", "UTC"))
    assert iso(instants, "timestamptz").to_pylist()[1] == f"{np.datetime64(2**62, 'us')}Z"


FIELDS = (Field('a "b"', Type("text"), 1), Field("n", Type("int64"), 2))


@given(st.lists(st.none() | st.fixed_dictionaries({'a "b"': st.none() | texts, "n": st.none() | st.integers(-(2**63), 2**63 - 1)})))
def test_objects_read_back_also_out_of_a_slice(rows: list[dict | None]) -> None:
    image = pa.array(rows, pa.struct([(f.name, f.type.arrow) for f in FIELDS]))
    assert read(objects(image, FIELDS)) == rows
    assert read(objects(image.slice(1), FIELDS)) == rows[1:]


@given(st.lists(st.tuples(texts, st.integers(0, 3)), min_size=2, max_size=6))
def test_two_keys_have_one_text_only_if_they_are_equal(keys: list[tuple[str, int]]) -> None:
    image = pa.array([dict(zip(('a "b"', "n"), k, strict=True)) for k in keys], pa.struct([(f.name, f.type.arrow) for f in FIELDS]))
    shown = lists(image, FIELDS).to_pylist()
    assert [tuple(json.loads(t)) for t in shown] == keys
    assert len(set(shown)) == len(set(keys))


@pytest.mark.parametrize("rows", [0, 3])
def test_no_columns_are_empty_objects(rows: int) -> None:
    assert named([], [], rows).to_pylist() == ["{}"] * rows


CREDIT = record_of(("the name", Type("text")), ("pay", Type("decimal", 6, 2)), ("scores", list_of(Type("float64"))))
credits = st.fixed_dictionaries(
    {
        "the name": st.none() | texts,
        "pay": st.none() | st.decimals(0, 9999, places=2),
        "scores": st.none() | st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    }
)


@given(st.lists(st.none() | st.lists(st.none() | credits, max_size=3), max_size=4), st.integers(0, 2))
def test_lists_and_records_are_arrays_and_objects_also_out_of_a_slice(rows: list, start: int) -> None:
    column = pa.array(rows, list_of(CREDIT).arrow).slice(start)
    expected = [r and [c and {**c, "pay": None if c["pay"] is None else format(c["pay"], ".2f")} for c in r] for r in rows[start:]]
    shown = values(column, list_of(CREDIT)).to_pylist()
    assert [None if t is None else json.loads(t) for t in shown] == expected
