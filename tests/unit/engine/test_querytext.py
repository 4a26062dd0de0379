"""A query's text: what it reads and needs of each table, and everything that is not one SELECT refused."""

from __future__ import annotations

import pytest

from millstream.engine.querytext import understood
from millstream.errors import Refused

KNOWN = ("shop.public.orders", "large.large", "state.large.last large", "movie@1.movie")


def test_names_stand_for_tables_and_keep_their_aliases() -> None:
    query = understood("SELECT o.id, l.note FROM shop.public.orders o JOIN large.large l ON l.id = o.id WHERE o.id > 1", KNOWN)
    assert [(r.name, r.relation) for r in query.reads] == [("shop.public.orders", "r0"), ("large.large", "r1")]
    assert query.sql == 'SELECT o.id, l.note FROM "r0" AS o JOIN "r1" AS l ON l.id = o.id WHERE o.id > 1'
    assert all(r.where is None for r in query.reads)
    assert query.reads[0].words is not None and {"id", "note"} <= query.reads[0].words


@pytest.mark.parametrize("written", ["shop.public.orders", '"shop"."public"."orders"', '"shop.public.orders"'])
def test_a_table_without_an_alias_is_called_by_its_last_name(written: str) -> None:
    assert understood(f"SELECT 1 FROM {written}", KNOWN).reads[0].name == "shop.public.orders"
    assert understood("SELECT orders.id FROM shop.public.orders", KNOWN).sql == 'SELECT orders.id FROM "r0" AS "orders"'


def test_quoted_names_of_states_and_generations() -> None:
    query = understood('SELECT * FROM state.large."last large" UNION ALL SELECT * FROM "movie@1".movie', KNOWN)
    assert [r.name for r in query.reads] == ["state.large.last large", "movie@1.movie"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT * FROM large.large", None),
        ("SELECT l.* FROM large.large l", None),
        ("SELECT count(*) FROM large.large", set()),
        ("SELECT Note FROM large.large ORDER BY ID", {"note", "id"}),
        ("SELECT COLUMNS('n.*') FROM large.large", None),
        ("FROM large.large", None),
    ],
)
def test_the_columns_that_are_needed(text: str, words: set[str] | None) -> None:
    found = understood(text, KNOWN).reads[0].words
    assert found is None if words is None else found is not None and words <= found


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("SELECT * FROM large.large WHERE id = 3", "id = 3"),
        ("SELECT * FROM large.large l WHERE l.id = 3 AND note = 'x'", "id = 3 AND note = 'x'"),
        ("SELECT count(*) FROM large.large WHERE id IN (1, 2) GROUP BY note", "id IN (1, 2)"),
        ("SELECT * FROM large.large WHERE id = (SELECT max(id) FROM large.large)", None),
        ("SELECT * FROM (SELECT amount AS id FROM large.large) WHERE id = 3", None),
        ("WITH t AS (SELECT amount AS id FROM large.large) SELECT * FROM t WHERE id = 3", None),
        ("SELECT * FROM large.large l, unnest([1, 2]) u(id) WHERE u.id = 1", None),
        ("SELECT after.id FROM large.large WHERE after.id = 3", None),
        ("SELECT * FROM large.large TABLESAMPLE 10 ROWS WHERE id = 3", None),
        ("SELECT * FROM large.large LEFT JOIN large.large b USING (id) WHERE b.id IS NULL", None),
    ],
)
def test_a_condition_is_handed_down_only_where_it_filters_the_tables_own_rows(text: str, where: str | None) -> None:
    assert understood(text, KNOWN).reads[0].where == where


def test_a_common_table_expression_is_no_table() -> None:
    query = understood("WITH large AS (SELECT id FROM large.large) SELECT * FROM large", KNOWN)
    assert [r.name for r in query.reads] == ["large.large"]
    with pytest.raises(Refused) as caught:
        understood("SELECT * FROM (WITH t AS (SELECT 1) SELECT * FROM t), t", KNOWN)
    assert caught.value.code == "table_unknown"


def test_a_name_that_needs_quotes_is_said_with_them() -> None:
    for text in ("SELECT * FROM movie", "SELECT * FROM movie@2.movie"):
        with pytest.raises(Refused) as caught:
            understood(text, ["movie@2.movie"])
        assert '"movie@2".movie' in str(caught.value.cure)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "query_not_one"),
        ("SELECT 1; SELECT 2", "query_not_one"),
        ("SELEC 1", "query_unreadable"),
        ("SELECT FROM WHERE", "query_unreadable"),
        ("INSERT INTO large.large VALUES (1)", "query_not_select"),
        ("DELETE FROM large.large", "query_not_select"),
        ("CREATE TABLE x AS SELECT 1", "query_not_select"),
        ("COPY (SELECT 1) TO 'x'", "query_not_select"),
        ("ATTACH 'x.db'", "query_not_select"),
        ("PRAGMA database_list", "query_not_select"),
        ("SET threads = 4", "query_not_select"),
        ("SELECT * FROM 'file.csv'", "table_unknown"),
        ("SELECT * FROM read_csv('file.csv')", "table_function"),
        ("SELECT * FROM duckdb_settings()", "table_function"),
        ("SELECT * FROM glob('*')", "table_function"),
        ("SELECT * FROM range(5)", "table_function"),
        ("SELECT * FROM large.larg", "table_unknown"),
        ("SELECT * FROM meta", "table_unknown"),
        ("SELECT 1" + " " * 100_000, "query_too_long"),
        ("SELECT * FROM large.large WHERE id IN (SELECT a FROM read_text('x'))", "table_function"),
    ],
)
def test_everything_else_is_refused_with_a_cure(text: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        understood(text, KNOWN)
    assert caught.value.code == code
    assert caught.value.cure
