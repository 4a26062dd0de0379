"""What may be concluded from the ON of a LEFT JOIN: nothing where its table's row is not there."""

from __future__ import annotations

import re

import pytest

from millstream.pipelines.nodes import StepNodes
from millstream.pipelines.plan import Edge, Node, Stateful
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistake, Mistakes

from .queries import TABLES


def compiled(sql: str) -> tuple[list[Node], list[Mistake]]:
    mistakes = Mistakes()
    tree = parse(sql, mistakes)
    assert tree is not None
    return StepNodes("s", TABLES, mistakes).build(tree, None, ()) or [], mistakes.found


@pytest.mark.parametrize(("side", "accepted"), [("", True), ("LEFT ", False)])
def test_rows_without_a_joined_row_are_not_told_apart_by_its_columns(side: str, accepted: bool) -> None:
    sql = f"SELECT coalesce(a.x, 0) AS g, list(a.y ORDER BY c.id) AS l FROM a {side}JOIN c ON c.ref = a.id GROUP BY 1"
    nodes, mistakes = compiled(sql)
    assert bool(nodes) == accepted
    assert [(m.code, m.cure) for m in mistakes] == ([] if accepted else [("order_not_total", "add a.id to its ORDER BY")])


def test_the_walk_goes_by_no_table_that_may_be_missing_unless_the_query_does() -> None:
    both = "SELECT a.id, c1.x, c2.x AS other FROM a JOIN b ON b.k = a.id AND b.n = 1"
    both += " LEFT JOIN c c1 ON c1.id = a.x AND c1.ref = b.x AND c1.x > 2"
    nodes, _ = compiled(f"{both} LEFT JOIN c c2 ON c2.id = a.x AND c2.ref = b.x")
    (step,) = nodes
    assert isinstance(step, Stateful)
    assert [(e.parent, e.child) for e in step.edges] == [("__ms_a", "__ms_b"), ("__ms_a", "c1"), ("__ms_a", "c2")]
    nodes, _ = compiled(f"{both} LEFT JOIN c c2 ON c2.id = c1.id AND c2.ref = c1.ref")
    (step,) = nodes
    assert isinstance(step, Stateful)
    assert step.edges[-1] == Edge("c1", "c2", ("id", "ref"), ("id", "ref"))


def test_a_nested_aggregate_is_a_table_of_its_own() -> None:
    """No text inside it reads the query around it: DuckDB would scan the whole table for each row."""
    inner = "(SELECT count(*) FROM b WHERE b.k = c.id AND b.n = a.id)"
    nodes, _ = compiled(
        f"SELECT a.id, (SELECT list({{v: c.x, n: {inner}}} ORDER BY c.id) FROM c WHERE c.ref = a.id AND c.x > a.id) AS l FROM a"
    )
    (step,) = nodes
    assert isinstance(step, Stateful)
    derived = re.search(r"LEFT JOIN \((.*)\) AS \"__ms_nested\" ON", step.sql)
    assert derived is not None
    assert "__ms_a" not in derived[1]
