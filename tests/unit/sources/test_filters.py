"""Conditions of derived tables: what can be written, and that each means the same here as in a database that evaluates it as SQL."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.events.types import Field, RowSchema, Type
from millstream.sources import filtering, filters
from millstream.sources.filtering import Cells
from millstream.sources.names import quoted
from millstream.testing.cockroach.store import Store

UUIDS = ("00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000000")
VALUES: dict[str, tuple[str, list[str]]] = {
    "n": ("INT8", ["0", "-1", "3", "9007199254740993"]),
    "s": ("INT4", ["0", "7"]),
    "d": ("DECIMAL(6,2)", ["1.50", "-0.01", "'NaN'", "'Infinity'", "'-Infinity'"]),
    "u": ("DECIMAL", ["1.5", "1.50", "1E+20", "'NaN'", "-3"]),
    "t": ("STRING", ["''", "'a'", "'a '", "'B'", "'é'", "'it''s'"]),
    "b": ("BOOL", ["true", "false"]),
    "i": ("UUID", [f"'{u}'" for u in UUIDS]),
}
LITERALS = {
    "n": ["0", "3", "-1", "9007199254740992"],
    "s": ["7", "4294967296"],
    "d": ["1.5", "1.501", "0", "-1e-2", "99999999"],
    "u": ["1.50", "-3", "1e20", "0"],
    "t": ["'a'", "''", "'é'", "'it''s'"],
    "b": ["true", "false"],
    "i": [f"'{UUIDS[0]}'", f"'{UUIDS[1].upper()}'"],
}
SCHEMA = RowSchema(
    tuple(
        Field(name, type_, i)
        for i, (name, type_) in enumerate(
            {
                "id": Type("int64"),
                "n": Type("int64"),
                "s": Type("int32"),
                "d": Type("decimal", 6, 2),
                "u": Type("numeric"),
                "t": Type("text"),
                "b": Type("boolean"),
                "i": Type("uuid"),
            }.items(),
            1,
        )
    ),
    ("id",),
)


@st.composite
def leaf(draw: Any) -> str:
    column = draw(st.sampled_from(list(VALUES)))
    value = st.sampled_from(LITERALS[column])
    op = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
    negated = draw(st.sampled_from(["", "NOT "]))
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return f"{column} IS {negated}NULL"
    if kind == 1:
        return f"{column} {negated}IN ({', '.join(draw(st.lists(value, min_size=1, max_size=3)))})"
    if kind == 2:
        return f"{column} {negated}BETWEEN {draw(value)} AND {draw(value)}"
    if kind == 3:
        return f"{negated}b"
    return f'"{column}" {draw(op)} {draw(value)}' if kind == 4 else f"{draw(value)} {draw(op)} {column}"


def conditions() -> st.SearchStrategy[str]:
    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, st.sampled_from(["AND", "OR", "and", "or"]), inner).map(lambda p: f"{p[0]} {p[1]} {p[2]}"),
            inner.map(lambda c: f"NOT ({c})"),
            inner.map(lambda c: f"({c})"),
        )

    return st.recursive(leaf(), more, max_leaves=5)


Rows = list[tuple[str | None, ...]]
rows = st.lists(st.tuples(*(st.one_of(st.none(), st.sampled_from(held)) for _, held in VALUES.values())), min_size=1, max_size=8)


@given(rows, conditions())
@settings(max_examples=30, deadline=None)
def test_a_condition_means_here_what_it_means_as_sql(given: Rows, text: str) -> None:
    means_the_same(given, text)


@pytest.mark.long
@given(rows, conditions())
@settings(max_examples=1000, deadline=None)
def test_many_conditions_mean_here_what_they_mean_as_sql(given: Rows, text: str) -> None:
    means_the_same(given, text)


def means_the_same(given: Rows, text: str) -> None:
    condition = filters.parse(text)
    filtering.fits(condition, SCHEMA, lambda _: True)
    session = Store("26.1").session()
    session.execute(f"CREATE TABLE x (id INT8 PRIMARY KEY, {', '.join(f'{n} {t}' for n, (t, _) in VALUES.items())})")
    for i, row in enumerate(given):
        session.execute(f"INSERT INTO x VALUES ({i}, {', '.join(v or 'NULL' for v in row)})")
    found = filtering.true(condition, SCHEMA, lambda name: cells(given, name), len(given))
    for written in (text, filters.sql(condition, quoted)):
        meant = [int(id_ or 0) for (id_,) in session.execute(f"SELECT id FROM x WHERE {written} ORDER BY id").rows]
        assert [i for i, is_true in enumerate(found) if is_true] == meant, written
    assert filters.parse(filters.sql(condition, quoted)) == condition


def cells(given: Rows, name: str) -> Cells:
    """As a decoder gives them: of a decimal, what no decimal is, as a hole."""
    place, kind = list(VALUES).index(name), SCHEMA[name].type
    values: list[Any] = []
    holes: dict[int, str] = {}
    for i, row in enumerate(given):
        text = row[place]
        plain = None if text is None else text.strip("'").replace("''", "'") if text.startswith("'") else text
        if plain in ("NaN", "Infinity", "-Infinity") and kind.kind == "decimal":
            holes[i], plain = plain.lower(), None
        values.append(None if plain is None else _made(kind.kind, plain))
    return Cells(pa.array(values, kind.arrow), holes)


def _made(kind: str, text: str) -> Any:
    match kind:
        case "int64" | "int32":
            return int(text)
        case "decimal":
            return Decimal(text)
        case "boolean":
            return json.loads(text)
    return text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at its end"),
        ("n", "stands where a condition must"),
        ("n > ", "here stands a literal"),
        ("n = NULL", "write IS NULL"),
        ("n > m", "here stands a literal"),
        ("lower(t) = 'a'", r"cannot be read at '\('"),
        ("n > 5 AND", "cannot be read"),
        ("n > 5 n < 7", "cannot be read at 'n'"),
        ("n > 5; DROP TABLE x", "cannot be read at ';"),
        ("t = 'a", "cannot be read at"),
        ("n IN ()", "here stands a literal"),
        ("n IN (SELECT 1)", "here stands a literal"),
        ("n > 1.5", "n is int64, and 1.5 is not a whole number"),
        ("n > '1'", "is not a whole number"),
        ("t > 5", "t is text, and 5 is not a 'string'"),
        ("b = 1", "1 is not true or false"),
        ("i = 'x'", "'x' is not"),
        ("z = 1", "there is no column z"),
        ("n = 9223372036854775808", "not a whole number of 64 bits"),
        ("d < 1e39", "at most 38 digits"),
    ],
)
def test_what_cannot_be_written_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        filtering.fits(filters.parse(text), SCHEMA, lambda _: True)


@pytest.mark.parametrize(
    ("kind", "text", "good"),
    [
        ("date", "v >= '2026-01-31'", True),
        ("date", "v >= '20260131'", False),
        ("date", "v >= '2026-02-31'", False),
        ("timestamp", "v < '2026-01-31T12:00:00'", True),
        ("timestamp", "v < '2026-01-31T12:00:00Z'", False),
        ("timestamptz", "v < '2026-01-31 12:00:00+01:00'", True),
        ("timestamptz", "v < '2026-01-31 12:00:00'", False),
        ("json", "v IS NULL", True),
        ("json", "v = '{}'", False),
        ("bytes", "v = 'a'", False),
        ("float64", "v <= 1.5", True),
    ],
)
def test_types_that_are_compared_here(kind: Any, text: str, good: bool) -> None:
    schema = RowSchema((Field("v", Type(kind), 1),), ())
    if good:
        filtering.fits(filters.parse(text), schema, lambda _: True)
        return
    with pytest.raises(ValueError, match="v is"):
        filtering.fits(filters.parse(text), schema, lambda _: True)


def test_text_with_an_order_of_its_own_is_only_compared_for_equality() -> None:
    filtering.fits(filters.parse("t = 'a' AND t IN ('b') AND t IS NULL"), SCHEMA, lambda _: False)
    with pytest.raises(ValueError, match="order of its own"):
        filtering.fits(filters.parse("t BETWEEN 'a' AND 'b'"), SCHEMA, lambda _: False)


@pytest.mark.parametrize(
    ("kind", "values", "text", "true"),
    [
        ("float64", [1.0, float("nan"), None, 3.0, float("inf")], "v < 2", [0, 1]),
        ("float32", [1.5, float("nan"), float("-inf")], "v >= 1.5", [0]),
        ("date", [date(2026, 1, 1), None, date(2026, 2, 1)], "v > '2026-01-15'", [2]),
    ],
)
def test_what_only_we_compare(kind: Any, values: list[Any], text: str, true: list[int]) -> None:
    schema = RowSchema((Field("v", Type(kind), 1),), ())
    array = Cells(pa.array(values, Type(kind).arrow), {})
    assert filtering.true(filters.parse(text), schema, lambda _: array, len(values)).nonzero()[0].tolist() == true


def test_a_value_that_no_event_can_carry_is_not_null_and_beyond_all_others_where_that_is_known() -> None:
    schema = RowSchema((Field("v", Type("date"), 1),), ())
    array = Cells(pa.array([None] * 4, pa.date32()), {0: "infinity", 1: "-infinity", 2: "out_of_range"})

    def true(text: str) -> list[int]:
        return filtering.true(filters.parse(text), schema, lambda _: array, 4).nonzero()[0].tolist()

    assert true("v IS NULL") == [3]
    assert true("v > '2026-01-01'") == [0]
    assert true("v < '2026-01-01'") == [1]
    assert true("NOT v = '2026-01-01'") == [0, 1]


@pytest.mark.parametrize("kind", ["decimal", "numeric"])
def test_nan_comes_before_every_number_and_infinities_where_they_belong(kind: str) -> None:
    given: Rows = [tuple(held if name in "du" else None for name in VALUES) for held in ("'NaN'", "'-Infinity'", "-3", "'Infinity'", None)]
    for text, meant in (("< -1000", [0, 1]), ("> 1000", [3]), ("<> 0", [0, 1, 2, 3]), ("IS NULL", [4])):
        condition = filters.parse(f"{kind[0].replace('n', 'u')} {text}")
        assert filtering.true(condition, SCHEMA, lambda name: cells(given, name), 5).nonzero()[0].tolist() == meant, text
