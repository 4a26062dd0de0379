"""The SQL texts: where AS OF SYSTEM TIME stands, and which rows come after a key."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.sources.cockroach import statements
from millstream.sources.cockroach.names import feed_topics, literal
from millstream.sources.cockroach.options import Options
from millstream.sources.cockroach.statements import KeyColumn
from millstream.sources.names import TableName

MOVIE = TableName.parse("movie")
AT = "1795386334952285922.0000000001"


def test_a_feed() -> None:
    text = statements.feed([MOVIE, TableName.parse('shop."Odd.Name"')], AT, json_nulls=False)
    assert text == (
        'CREATE CHANGEFEED FOR TABLE "public"."movie", "shop"."Odd.Name" WITH updated, mvcc_timestamp, diff, resolved=\'1s\', '
        f"min_checkpoint_frequency='1s', full_table_name, cursor='{AT}'"
    )
    assert f"full_table_name, {statements.JSON_NULLS}, cursor" in statements.feed([MOVIE], AT, json_nulls=True)


def test_a_chunk() -> None:
    key = [KeyColumn("id", "INT8")]
    text = statements.chunk(MOVIE, [("id", False), ("j", True)], key, AT, within=[statements.beyond(key, ["7"])], rows=10)
    assert text == (
        "SELECT json_build_object('id', \"id\", 'j', CASE WHEN \"j\" = 'null'::JSONB THEN '{\"__crdb_json_null__\": true}'::JSONB "
        f'ELSE "j" END)::STRING, "id"::STRING FROM "public"."movie" AS OF SYSTEM TIME \'{AT}\' WHERE "id" > \'7\'::INT8 '
        'ORDER BY "id" ASC LIMIT 10'
    )


@pytest.mark.parametrize("build", [statements.outlines, statements.columns, statements.keys])
def test_the_time_stands_after_the_last_table(build: object) -> None:
    text = build([104, 105], AT)  # type: ignore[operator]
    head, tail = text.split(f" AS OF SYSTEM TIME '{AT}'")
    assert "JOIN" in head and "JOIN" not in tail and tail.strip().startswith("WHERE") and "IN (104, 105)" in tail
    assert "AS OF" not in build([104], None)  # type: ignore[operator]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), unique=True),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_beyond_is_the_order_in_which_a_table_is_read(
    rows: list[tuple[int, int, int]],
    key: tuple[int, int, int],
    falls: tuple[bool, bool, bool],
    width: int,
    backward: bool,
    inclusive: bool,
) -> None:
    columns = [KeyColumn(name, "INT8", fall) for name, fall in zip("abc", falls, strict=True)][:width]
    condition = statements.beyond(columns, [str(k) for k in key[:width]], backward=backward, inclusive=inclusive)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    found = connection.execute(f"SELECT * FROM t WHERE {condition}".replace("::INT8", " + 0")).fetchall()

    def place(row: tuple[int, ...]) -> list[int]:
        return [-v if fall else v for v, fall in zip(row[:width], falls, strict=False)]

    at = place(key)
    wanted = [r for r in rows if (place(r) < at if backward else place(r) > at) or (inclusive and place(r) == at)]
    assert sorted(found) == sorted(wanted)


def test_a_literal_keeps_backslashes_and_quotes() -> None:
    assert literal("it's \\x00") == "'it''s \\x00'"


@pytest.mark.parametrize(
    ("written", "topics"),
    [
        ("movie", ("shop.public.movie",)),
        ("s2.ck", ("shop.s2.ck",)),
        ('"Mixed Case.tbl"', ("shop.public.Mixed Case.tbl", 'shop.public."Mixed Case.tbl"')),
    ],
)
def test_how_a_feed_may_name_a_table(written: str, topics: tuple[str, ...]) -> None:
    assert feed_topics(TableName.parse(written), "shop") == topics


def test_a_table_is_named_once() -> None:
    with pytest.raises(ValueError, match="named twice"):
        Options(url="postgresql://h/d", tables=("movie", "public.movie"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql_type", "cast"),
    [
        ("VARCHAR(5)", "VARCHAR"),
        ("CHAR(5)", "STRING"),
        ("BIT(4)", "VARBIT"),
        ("DECIMAL(10,2)", "DECIMAL"),
        ("STRING(9) COLLATE de", "STRING COLLATE de"),
        ("TIMESTAMPTZ(0)", "TIMESTAMPTZ"),
        ("INT8[]", "INT8[]"),
        ('public."Odd (7)"', 'public."Odd (7)"'),
    ],
)
def test_a_key_is_not_cut_to_its_columns_bounds(sql_type: str, cast: str) -> None:
    assert statements.beyond([KeyColumn("k", sql_type)], ["x"]) == f"\"k\" > 'x'::{cast}"
