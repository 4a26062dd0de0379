"""What the catalogue lets be said of old rows, look by look."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from millstream.events.types import UNKNOWN, Constant, Type
from millstream.sources.names import TableName
from millstream.sources.postgres.describe import Attribute, Described
from millstream.sources.postgres.fills import Fills

INTEGER = Type("int32")


def column(number: int, **more: object) -> Attribute:
    return replace(Attribute(number, f"c{number}", False, False, INTEGER, "integer"), **more)


def table(*columns: Attribute, files: str = "1:1", first: bool = True) -> Described:
    return Described(TableName.parse("t"), 1, "r", "p", "f", columns, (1,), False, 0, 0, (), files, first)


def again(fills: Fills) -> Fills:
    """As after a restart."""
    return Fills(json.loads(json.dumps(fills.stored)))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_column_is_told_by_what_lies_between_two_looks(restarted: bool) -> None:
    fills = Fills({})
    assert fills.look(table(column(1), files="1:9", first=False)) == {1: UNKNOWN}, "nothing is known of before the first look"
    fills = again(fills) if restarted else fills
    assert fills.look(table(column(1), column(2), column(3, missing="5"), files="1:9", first=False)) == {
        1: UNKNOWN,
        2: None,
        3: Constant("5"),
    }
    fills = again(fills) if restarted else fills
    rewritten = [column(n) for n in (1, 2, 3, 4)]
    found = fills.look(table(*rewritten, files="1:10", first=False))
    assert (found[3], found[4]) == (UNKNOWN, UNKNOWN), "what the catalogue kept is gone; the new one came with the rewrite, or before"


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_unknown_stays_so_and_what_was_kept_is_not_taken_for_null(restarted: bool) -> None:
    fills = Fills({})
    fills.look(table(column(1), files="1:9", first=False))
    fills.look(table(column(1), column(2), column(3, missing="5"), files="1:9", first=False))
    for files in ("1:10", "1:10", "1:11"):
        fills = again(fills) if restarted else fills
        assert fills.look(table(column(1), column(2), column(3), files=files, first=False))[3] is UNKNOWN


def test_a_table_never_rewritten_needs_no_earlier_look() -> None:
    assert Fills({}).look(table(column(1), column(2, missing="5"))) == {1: None, 2: Constant("5")}


@pytest.mark.parametrize(("files", "fill"), [("1:1", None), ("1:2", UNKNOWN)])
def test_a_converted_column_is_unknown_where_rows_were_rewritten(files: str, fill: object) -> None:
    fills = Fills({})
    fills.look(table(column(1), column(2)))
    wider = column(2, sql_type="bigint", type=Type("int64"))
    assert fills.look(table(column(1), wider, files=files, first=False))[2] == fill


@pytest.mark.parametrize("kept", ["NaN", "seven", "infinity"])
def test_what_the_type_cannot_hold_is_unknown(kept: str) -> None:
    assert Fills({}).look(table(column(1), column(2, missing=kept)))[2] is UNKNOWN


def test_partitions_that_keep_different_values() -> None:
    assert Fills({}).look(table(column(1), column(2, missing="5", missing_differs=True)))[2] is UNKNOWN
    assert Fills({}).look(table(column(1), column(2, missing_differs=True)))[2] is UNKNOWN


def test_what_is_stored_is_short() -> None:
    fills = Fills({})
    fills.look(table(*(column(n) for n in (1, 2, 3, 7)), files="1:9", first=False))
    assert fills.stored == {"1": ["1:9", 7, "1-3,7"]}
    assert again(fills).stored == fills.stored
