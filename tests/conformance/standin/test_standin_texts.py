"""Values in and out as text: calendars against Python's where it has one, and every type's text read back to the same value."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.testing.cockroach import calendar, documents, jsontext, shapes, values
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.types import SqlType, array_of, named

EPOCH = datetime(1970, 1, 1)


@given(st.dates())
def test_a_date_is_that_of_pythons_calendar(day: date) -> None:
    days = (day - date(1970, 1, 1)).days
    assert calendar.days_of(day.year, day.month, day.day) == days
    assert calendar.date_of(days) == (day.year, day.month, day.day)
    assert calendar.date_text(days) == day.isoformat()


@given(st.integers(-2_000_000, 100_000_000))
def test_every_day_has_one_date(days: int) -> None:
    assert calendar.days_of(*calendar.date_of(days)) == days
    assert calendar.parse_date(calendar.date_text(days)) == days
    assert calendar.date_of(days) < calendar.date_of(days + 1)


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
def test_a_timestamp_is_that_of_pythons_calendar(at: datetime, east: int) -> None:
    micros = (at - EPOCH) // timedelta(microseconds=1)
    assert calendar.parse_timestamp(at.isoformat(sep=" "), zoned=False) == micros
    shown = f"{at.isoformat()}{'-' if east < 0 else '+'}{abs(east) // 60:02}:{abs(east) % 60:02}"
    assert calendar.parse_timestamp(shown, zoned=True) == micros - east * 60_000_000
    assert datetime.fromisoformat(calendar.timestamp_json(micros, "Z")) == at.replace(tzinfo=UTC)
    assert calendar.parse_timestamp(calendar.timestamp_text(micros, ""), zoned=False) == micros


@given(
    st.datetimes(datetime(1000, 1, 1), datetime(3000, 1, 1)), st.integers(-50, 50), st.integers(-900, 900), st.integers(-(10**12), 10**12)
)
def test_an_interval_added_keeps_the_day_or_a_months_last(at: datetime, months: int, days: int, micros: int) -> None:
    moved = calendar.add_interval((at - EPOCH) // timedelta(microseconds=1), (months, days, micros))
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    last = (date(year + (month == 11), (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    there = at.replace(year=year, month=month + 1, day=min(at.day, last)) + timedelta(days=days, microseconds=micros)
    assert EPOCH + timedelta(microseconds=moved) == there


@pytest.mark.parametrize(
    ("value", "sql", "in_json"),
    [(1.0, "1", "1"), (10.0, "10", "1E+1"), (0.1, "0.1", "0.1"), (1e300, "1e+300", "1E+300"), (1e-7, "1e-07", "1E-7"), (-0.0, "-0", "-0"),
     (1e6, "1e+06", "1E+6"), (123456789.5, "1.234567895e+08", "123456789.5"), (100000.5, "100000.5", "100000.5"),
     (0.0001, "0.0001", "0.0001"), (math.inf, "Infinity", '"Infinity"'), (math.nan, "NaN", '"NaN"')],
)  # fmt: skip
def test_floats(value: float, sql: str, in_json: str) -> None:
    assert (values.float_text(value), documents.floating(value)) == (sql, in_json)


@given(st.floats(allow_nan=False))
def test_a_float_reads_back(value: float) -> None:
    assert values.parse(values.float_text(value), SqlType("float", 8)) == value
    if math.isfinite(value):
        assert float(documents.floating(value)) == value


INTERVALS = st.tuples(st.integers(-500, 500), st.integers(-500, 500), st.integers(-(10**13), 10**13))
KINDS: dict[str, st.SearchStrategy[object]] = {
    "int8": st.integers(-(2**63), 2**63 - 1), "bool": st.booleans(), "string": st.text(), "bytes": st.binary(), "uuid": st.uuids().map(str),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False), "date": st.integers(-700_000, 3_000_000),
    "timestamp": st.integers(-(10**17), 10**17), "timestamptz": st.integers(-(10**17), 10**17), "time": st.integers(0, calendar.DAY),
    "timetz": st.tuples(st.integers(0, calendar.DAY), st.integers(-800, 800).map(lambda m: m * 60)), "interval": INTERVALS,
    "varbit": st.text("01"), "oid": st.integers(0, 2**32 - 1), "inet": st.ip_addresses().map(str),
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(KINDS)), st.sampled_from(["26.1", "22.1"]))
def test_a_value_and_an_array_of_it_read_back_from_their_text(data: st.DataObject, word: str, version: str) -> None:
    kind, held = named(word), data.draw(KINDS[word])
    assert kind is not None
    back = values.parse(values.text(held, kind, version), kind)
    assert (back, str(back)) == (held, str(held))
    many = tuple(data.draw(st.lists(st.one_of(st.none(), KINDS[word]), max_size=3)))
    assert values.parse(values.text(many, array_of(kind), version), array_of(kind)) == many
    documents.load(jsontext.value(array_of(kind), many, version))


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.text(), st.decimals(allow_nan=False, allow_infinity=False)), lambda inner:
       st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3))))  # fmt: skip
def test_a_document_is_canonical_once_and_for_all(value: object) -> None:
    text = documents.dump(value)
    assert documents.load(text) == value
    assert documents.canonical(text) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [("1.5", "int8"), ("", "int8"), ("٣", "int8"), ("1e", "decimal"), ("2023-02-29", "date"), ("2024-13-01", "date"), ("25:00", "time"),
     ("x", "uuid"),
     ("{1,2", "interval"), ("1 fortnight", "interval"), ("{", "jsonb"), ("NaN", "jsonb"), ("2", "varbit"),
     ("1.2.3", "inet"), ("maybe", "bool"),
     ("POINT(1)", "geometry"), ("[1,", "vector"), ("a..b", "ltree")],
)  # fmt: skip
def test_what_is_no_value_is_refused(text: str, word: str) -> None:
    kind = named(word)
    assert kind is not None
    with pytest.raises(SqlError):
        values.parse(text, kind)


def test_shapes() -> None:
    point = shapes.ewkb("POINT(1 2)", 0)
    assert shapes.ewkb(point, 0) == point == "0101000000000000000000F03F0000000000000040"
    assert (
        shapes.geojson(shapes.ewkb("SRID=4326;LINESTRING(0 0, 10.5 -1)", 0))
        == '{"coordinates": [[0, 0], [10.5, -1]], "type": "LineString"}'
    )
    ring = "POLYGON((0 0, 1 0, 1 1, 0 0))"
    assert shapes.geojson(shapes.ewkb(ring, 0)) == '{"coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]], "type": "Polygon"}'
    assert (shapes.tsvector("fat:2 cat:3,4A"), shapes.tsquery("!(a|'b') & c")) == ("'cat':3,4A 'fat':2", "!('a' | 'b') & 'c'")


def test_decimals_are_fitted_half_up() -> None:
    kind = named("decimal", (4, 2))
    assert kind is not None
    assert [str(values.fit(Decimal(t), kind)) for t in ("1", "1.005", "-1.005", "0", "1e1")] == ["1.00", "1.01", "-1.01", "0.00", "10.00"]
    with pytest.raises(SqlError, match="22003"):
        values.fit(Decimal("99.995"), kind)
    assert str(uuid.UUID(values.parse("00000000-0000-0000-0000-00000000ABCD", SqlType("uuid")))).endswith("abcd")
