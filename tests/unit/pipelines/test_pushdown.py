"""What of a first step a source is asked to do: never more than the step leaves out itself."""

from __future__ import annotations

import pytest

from millstream.events.types import Type
from millstream.pipelines import pushdown
from millstream.pipelines.pushdown import leading
from millstream.sources import filters


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("", ""),
        ("year >= 2000", '("year" >= 2000)'),
        ("2000 <= m.year AND released", '(2000 <= "year") AND ("released")'),
        ("(year > -5 AND NOT (title = 'it''s')) AND length(title) > 3", "(\"year\" > -5) AND (NOT ((\"title\" = 'it''s')))"),
        ("length(title) > 3", ""),
        ("length(title) > 3 OR year > 1", ""),
        ("year IN (1, 2) OR title IS NOT NULL", '(("year" IN (1, 2)) OR (NOT ("title" IS NULL)))'),
        ('"Year" BETWEEN 1 AND 2 AND released = true', '("Year" BETWEEN 1 AND 2) AND ("released" = true)'),
        ("year > rev AND year <> 7", '("year" <> 7)'),
        ("year IN (1, rev)", ""),
        ("title LIKE 'a%' AND title IS NULL", '("title" IS NULL)'),
        ("year > 1e1 AND year < 2000.5 AND rev <> -2E3", '("year" < 2000.5)'),
        ("year IN (1, 2e0) OR year BETWEEN -1e1 AND 5", ""),
        ("CASE WHEN year > 1 THEN true ELSE false END", ""),
    ],
)
def test_the_parts_of_a_condition_that_a_source_knows(where: str, wanted: str) -> None:
    found = leading(f"SELECT m.id, title FROM shop.public.movie m{' WHERE ' + where if where else ''}")
    assert (found.table, found.where) == ("shop.public.movie", wanted)
    assert found.columns is not None and {"id", "title"} <= set(found.columns)
    if wanted:
        assert set(filters.columns_of(filters.parse(found.where))) == {name for name, _ in found.compared}


def test_all_columns_that_a_step_names_are_read() -> None:
    found = leading('SELECT id AS key, upper(Title) || "Note" AS t FROM s.t WHERE length(other) > rev')
    assert found.columns == ("Note", "id", "other", "rev", "title")
    assert leading("SELECT *, 1 AS one FROM s.t WHERE id > 1").columns is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.id FROM s.t a JOIN s.u b ON b.id = a.id",
        "SELECT id, count(*) AS n FROM s.t GROUP BY id",
        "SELECT id FROM s.t UNION ALL SELECT id FROM s.u",
        "WITH x AS (SELECT id FROM s.t) SELECT id FROM x",
        "SELECT id FROM (SELECT id FROM s.t) AS x",
        "SELECT id FROM s.t WHERE EXISTS (SELECT 1 FROM s.u WHERE u.id = t.id)",
        "SELECT id FROM s.t QUALIFY row_number() OVER (PARTITION BY a ORDER BY id) <= 2",
        "SELECT DISTINCT id FROM s.t",
    ],
)
def test_more_than_rows_and_columns_of_one_table_stays_where_it_is(sql: str) -> None:
    with pytest.raises(pushdown._NoneSuch):
        leading(sql)


def test_columns_that_may_be_compared_otherwise_are_named() -> None:
    types = {"f": Type("float64"), "d": Type("decimal", 5, 2), "n": Type("int64")}
    assert list(pushdown.unlike([("n", True), ("d", False), ("gone", False)], types)) == []
    assert list(pushdown.unlike([("f", False), ("d", True)], types)) == ["f is float64", "d is decimal(5,2)"]
