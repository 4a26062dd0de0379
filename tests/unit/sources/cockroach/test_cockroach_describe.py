"""What older rows have in a column, as it was when the column came; and what of it survives a restart."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.events.types import UNKNOWN, Constant
from millstream.sources.cockroach.describe import Column, Past, Shape, trades_names
from millstream.sources.cockroach.hlc import Hlc


def column(
    number: int, name: str, sql_type: str = "STRING", default: str | None = None, computed: str = "", hidden: bool = False
) -> Column:
    return Column(number, name, sql_type, True, hidden, computed, default, "")


def shape(*columns: Column, key: tuple[str, ...] = ("id",)) -> Shape:
    return Shape(104, "public", "movie", (column(1, "id", "INT8"), *columns), key, frozenset())


class History:
    """A catalogue that knows what the table was from each moment on."""

    def __init__(self, *moments: tuple[int, Shape]) -> None:
        self.moments = moments
        self.asked = 0

    def shapes(self, oids: Sequence[int], at: Hlc | None) -> dict[int, Shape]:
        self.asked += 1
        assert at is not None
        return {104: [s for wall, s in self.moments if wall <= at.wall][-1]}


def past(history: History, stored: dict[str, dict[str, list[str]]] | None = None) -> Past:
    return Past(history, stored or {})  # type: ignore[arg-type]


def test_columns_that_were_there_are_no_news() -> None:
    looks = past(History())
    looks.begin(shape(column(2, "a", default="'x'")), Hlc(100, 0))
    assert looks.look(shape(column(2, "a", default="'x'")), Hlc(200, 0)) == {}
    assert looks.stored == {}


def test_a_constant_default_is_what_old_rows_have() -> None:
    before, after = shape(), shape(column(2, "a", default="'x':::STRING"))
    looks = past(History((0, before), (150, after)))
    looks.begin(before, Hlc(100, 0))
    assert looks.look(after, Hlc(200, 0)) == {2: Constant("x")}


def test_a_default_that_came_after_its_column_left_old_rows_null() -> None:
    before, bare, after = shape(), shape(column(2, "a")), shape(column(2, "a", default="'x'"))
    looks = past(History((0, before), (1_000_000_150, bare), (1_000_000_151, after)))
    looks.begin(before, Hlc(100, 0))
    assert looks.look(after, Hlc(3_000_000_000, 0)) == {2: None}


def test_a_default_that_was_changed_since_is_the_first_one_for_old_rows() -> None:
    before, first, after = shape(), shape(column(2, "a", default="'one'")), shape(column(2, "a", default="'two'"))
    looks = past(History((0, before), (150, first), (190, after)))
    looks.begin(before, Hlc(100, 0))
    assert looks.look(after, Hlc(200, 0)) == {2: Constant("one")}
    assert looks.look(shape(column(2, "a", default="'three'")), Hlc(300, 0)) == {2: Constant("one")}


def test_volatile_defaults_and_computed_columns_are_told_again_by_the_server() -> None:
    before = shape()
    after = shape(column(2, "a", default="now()"), column(3, "b", computed="stored"))
    looks = past(History((0, before), (150, after)))
    looks.begin(before, Hlc(100, 0))
    described = looks.described(after, "public.movie", Hlc(200, 0))
    assert [(c.name, c.fill, c.retold) for c in described.columns] == [("id", None, False), ("a", None, True), ("b", None, True)]


def test_a_converted_type_leaves_old_rows_unknown_and_a_wider_text_does_not() -> None:
    looks = past(History())
    looks.begin(shape(column(2, "a", "INT8"), column(3, "b", "STRING")), Hlc(100, 0))
    assert looks.look(shape(column(2, "a", "STRING"), column(3, "b", "VARCHAR(200)")), Hlc(200, 0)) == {2: UNKNOWN}


def test_what_was_said_is_said_again_after_a_restart() -> None:
    before, after = shape(column(3, "n", "INT8")), shape(column(2, "a", default="'x'"), column(3, "n", "STRING"))
    looks = past(History((0, before), (150, after)))
    looks.begin(before, Hlc(100, 0))
    told = looks.look(after, Hlc(200, 0))
    again = past(History((0, after)), looks.stored)
    again.begin(after, Hlc(200, 0))
    assert again.look(after, Hlc(300, 0)) == told == {2: Constant("x"), 3: UNKNOWN}


def test_shards_and_virtual_columns_are_in_no_row() -> None:
    found = shape(
        column(2, "v", "INT8", computed="virtual"),
        column(3, "crdb_internal_id_shard_16", "INT4", computed="virtual", hidden=True),
        key=("crdb_internal_id_shard_16", "id"),
    )
    described = past(History()).described(found, "public.movie", Hlc(1, 0))
    assert [c.name for c in described.columns] == ["id"]
    assert (described.key, described.key_width) == ((1,), 2)
    assert [k.name for k in found.reading] == ["crdb_internal_id_shard_16", "id"]


def outline(*names: str) -> tuple[tuple[str, ...], ...]:
    return (*(("movie", str(i), name, "20") for i, name in enumerate(names, 1) if name), ("key", "[1]"))


def test_columns_trade_names_where_one_has_what_was_anothers() -> None:
    assert trades_names(outline("id", "a", "b"), outline("id", "b", "a"))
    assert trades_names(outline("id", "a"), outline("id", "", "a")), "dropped, and made again"
    assert not trades_names(outline("id", "a", "b"), outline("id", "c", "b", "d"))
    assert not trades_names((), outline("id"))


def test_so_does_a_key_of_as_many_others() -> None:
    table = outline("id", "a")[:-1]
    assert trades_names((*table, ("key", "[1]")), (*table, ("key", "[2]")))
    assert not trades_names((*table, ("key", "[1]")), (*table, ("key", "[1, 2]"))), "the width of the rows' keys shows it"
    assert not trades_names((*table, ("key", "[1]")), (*table, ("key", "[1]")))
