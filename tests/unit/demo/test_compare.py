"""The judge of the demo can say no: every way in which rows may differ is counted."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from demo.compare import compare, from_json
from demo.flights.truth import arrow_type
from hypothesis import given, settings
from hypothesis import strategies as st

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("lat", pa.decimal128(10, 7)), ("at", pa.timestamp("us", "UTC"))])
AT = datetime(2013, 1, 1, 10, 0, tzinfo=UTC)
ROWS = [
    {"id": 1, "name": "a", "lat": Decimal("40.6925000"), "at": AT},
    {"id": 2, "name": None, "lat": None, "at": AT},
    {"id": 3, "name": "", "lat": Decimal("-1.0000000"), "at": None},
]


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def test_equal_rows_in_another_order_do_not_differ() -> None:
    verdict = compare(table(ROWS), table(ROWS[::-1]), "id")
    assert (verdict.rows, verdict.differing, verdict.examples) == (3, 0, ())


@pytest.mark.parametrize(
    "found",
    [
        ROWS[:2],
        [*ROWS, {"id": 4, "name": "d", "lat": None, "at": None}],
        [*ROWS[:2], ROWS[1], ROWS[2]],
        [{**ROWS[0], "name": None}, *ROWS[1:]],
        [*ROWS[:2], {**ROWS[2], "name": None}],
        [{**ROWS[0], "lat": Decimal("40.6925001")}, *ROWS[1:]],
        [{**ROWS[0], "at": datetime(2013, 1, 1, 10, 0, 0, 1, UTC)}, *ROWS[1:]],
    ],
    ids=["lost", "too many", "twice", "null for a value", "null for an empty string", "a digit", "a microsecond"],
)
def test_one_difference_is_one(found: list[dict]) -> None:
    assert compare(table(ROWS), table(found), "id").differing == 1


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 20), st.integers(0, 3)), st.dictionaries(st.integers(0, 20), st.integers(0, 3)))
def test_the_count_is_of_keys_that_differ(expected: dict[int, int], found: dict[int, int]) -> None:
    def columns(rows: dict[int, int]) -> pa.Table:
        return pa.table({"id": pa.array(list(rows), pa.int64()), "v": pa.array(list(rows.values()), pa.int64())})

    differing = sum(expected.get(k) != found.get(k) for k in expected.keys() | found.keys())
    assert compare(columns(expected), columns(found), "id").differing == differing


def test_a_column_that_is_missing_or_of_another_type_spoils_every_row() -> None:
    assert compare(table(ROWS), table(ROWS).drop_columns(["lat"]), "id").differing == 3
    assert compare(table(ROWS), table(ROWS).set_column(2, "lat", table(ROWS)["lat"].cast(pa.float64())), "id").differing == 3


def test_documents_are_read_exactly() -> None:
    documents = [
        {"id": 1, "name": "a", "lat": "40.6925", "at": "2013-01-01T10:00:00Z"},
        {"id": 2, "at": "2013-01-01T10:00:00+00:00"},
        {"id": 3, "name": "", "lat": "-1", "at": None},
    ]
    assert compare(table(ROWS), from_json(documents, SCHEMA), "id").differing == 0
    with pytest.raises(TypeError):
        from_json([{"id": 1.5}], SCHEMA)
    with pytest.raises(pa.ArrowInvalid):
        from_json([{"id": 1, "lat": "40.69250001"}], SCHEMA)


def test_types_are_those_of_postgres() -> None:
    assert arrow_type("numeric(10,7)") == pa.decimal128(10, 7)
    assert arrow_type("timestamp with time zone") == pa.timestamp("us", "UTC")
    with pytest.raises(KeyError):
        arrow_type("numeric")
