"""Terms: they sort as values do, whole columns give what single values give, and the value can be read back."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from functools import cmp_to_key

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.events.types import Type
from millstream.queries.values import FAMILIES, below, comparable, number, same
from millstream.sinks.jsontext import values
from millstream.sinks.search.terms import ABOVE, LETTERS, shown, term, terms

decimals = st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(-1000, 1000, places=2)
numbers = st.integers() | decimals | st.integers(-(10**500), 10**500).map(Decimal)
by_family = {
    "number": numbers.filter(lambda v: not v or abs(Decimal(v).adjusted()) < 200_000),
    "float": st.floats().map(lambda v: v + 0.0),
    "text": st.text(max_size=300) | st.text("ab", min_size=250, max_size=260),
    "boolean": st.booleans(),
    "instant": st.integers(-(2**60) // 2, 2**59),
}


@pytest.mark.parametrize("family", by_family)
@settings(max_examples=40)
@given(data=st.data())
def test_terms_sort_as_values_do(family: str, data) -> None:
    a, b = data.draw(by_family[family]), data.draw(by_family[family])
    (x, x_whole), (y, y_whole) = term(family, a), term(family, b)
    assert x.startswith(LETTERS[family])
    assert x < LETTERS[family] + ABOVE
    if x_whole or y_whole:
        assert (x < y) == below(a, b)
        assert (x == y) == same(a, b)
    else:
        assert x <= y or not below(a, b)


_DAY, _TIME = st.dates(), st.times()
COLUMNS = {
    "int32": (Type("int32"), st.integers(-(2**31), 2**31 - 1)),
    "int64": (Type("int64"), st.integers(-(2**63), 2**63 - 1)),
    "decimal": (Type("decimal", 30, 6), st.decimals(-(10**23), 10**23, places=6)),
    "numeric": (Type("numeric"), decimals.map(str) | st.sampled_from(["1e400", "-0.000", "no number", "1" + "0" * 500, "-1" + "2" * 500])),
    "float32": (Type("float32"), st.floats(width=32)),
    "float64": (Type("float64"), st.floats()),
    "text": (Type("text"), st.text() | st.text("é", min_size=125, max_size=135)),
    "boolean": (Type("boolean"), st.booleans()),
    "date": (Type("date"), st.dates()),
    "time": (Type("time"), st.times()),
    "timestamp": (Type("timestamp"), st.datetimes()),
    "timestamptz": (Type("timestamptz"), st.datetimes(timezones=st.just(dt.UTC))),
}


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_column_gives_what_its_documents_values_give(kind: str, data) -> None:
    type_, value = COLUMNS[kind]
    column = pa.array(data.draw(st.lists(value | st.none(), max_size=8)), type_.arrow)
    found = terms(column, kind).to_pylist()
    texts = values(column, type_).to_pylist()
    for there, text in zip(found, texts, strict=True):
        if text is None:
            assert there is None
            continue
        value = comparable(FAMILIES[kind], json.loads(text))
        assert there == ("r" if value is None else term(FAMILIES[kind], value)[0])
        if value is not None and not there.endswith(ABOVE) and "!" not in there:
            back = comparable(FAMILIES[kind], shown(there))
            assert same(back, value)


def test_numbers_are_exact() -> None:
    assert term("number", 2**53 + 1) != term("number", 2**53)
    assert term("number", number("1.10")) == term("number", number("1.1"))
    assert term("number", 0) == term("number", number("-0.00"))
    assert term("float", math.nan)[0] > term("float", math.inf)[0]
    assert [shown(term("number", number(n))[0]) for n in ("-12.50", "0", "100", "0.001")] == ["-12.5", 0, 100, "0.001"]


def test_sorting_many_numbers() -> None:
    values_ = [
        number(t) for t in ("-1e5", "-12.34", "-12.3", "-12", "-0.5", "-0.05", "0", "1e-9", "0.05", "0.5", "9", "10", "10.01", "1e30")
    ]
    assert sorted(values_, key=lambda v: term("number", v)[0]) == sorted(values_, key=cmp_to_key(lambda a, b: (a > b) - (a < b)))
