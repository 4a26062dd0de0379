"""What `jsontext` wrote and a JSON reader read is the column that it was."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.events.types import Type
from millstream.sinks import jsontext
from millstream.sinks.jsonvalues import column
from millstream.testing.sink_events import every_type, nested


def again(told: pa.Array, type_: Type) -> pa.Array:
    return column([None if t is None else json.loads(t) for t in jsontext.values(told, type_).to_pylist()], type_)


@pytest.mark.parametrize("batch", [every_type(), nested()], ids=["every type", "nested"])
def test_every_type_reads_back(batch) -> None:
    for f, told in zip(batch.schema.fields, batch.column("after").flatten(), strict=True):
        found = again(told, f.type)
        assert found.type == f.type.arrow
        assert found.equals(told), f.name


@given(st.lists(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), max_size=5))
def test_days_of_any_year_read_back(days: list[int | None]) -> None:
    told = pa.array(days, pa.int32()).cast(pa.date32())
    assert again(told, Type("date")).equals(told)


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False), st.just(float("inf"))), max_size=5))
def test_floats_read_back_to_the_last_bit(numbers: list[float | None]) -> None:
    told = pa.array(numbers, pa.float64())
    assert again(told, Type("float64")).equals(told)


def test_numbers_of_a_narrower_type_are_taken() -> None:
    assert column([7, "1.5", None], Type("decimal", 6, 2)).cast(pa.string()).to_pylist() == ["7.00", "1.50", None]
    assert column([7, None], Type("numeric")).to_pylist() == ["7", None]


@pytest.mark.parametrize("value", [[1], {"a": 1}, "x"], ids=str)
@pytest.mark.parametrize("type_", [Type("int32"), Type("decimal", 6, 2), Type("date"), Type("boolean")], ids=str)
def test_what_jsontext_never_wrote_is_an_error(value: object, type_: Type) -> None:
    with pytest.raises((ValueError, TypeError, ArithmeticError, pa.ArrowException)):
        column([value], type_)
