"""UNION ALL: the rows of several SELECTs, told apart by a literal in the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.block import refuse_clauses
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.query import Column, Query


def branches(tree: exp.SetOperation, mistakes: Mistakes) -> list[exp.Select] | None:
    """The SELECTs in order; None and a mistake where it is not UNION ALL of SELECTs alone."""
    found: list[exp.Select] = []
    waiting: list[exp.Expression] = [tree]
    while waiting:
        node = waiting.pop()
        while isinstance(node, exp.Subquery):
            refuse_clauses(node, {"this"}, mistakes)
            node = node.this
        if isinstance(node, exp.Select):
            found.append(node)
        elif isinstance(node, exp.Union) and not node.args.get("distinct") and not node.args.get("by_name"):
            refuse_clauses(node, {"this", "expression", "with_"}, mistakes)
            waiting += [node.expression, node.this]
        else:
            distinct = isinstance(node, exp.Union) and not node.args.get("by_name")
            other = "union_by_name" if isinstance(node, exp.Union) else "intersect_except"
            mistakes.refuse(getattr(node, "expression", node), "union" if distinct else other)
            return None
    return found


def aligned(queries: Sequence[Query], mistakes: Mistakes) -> list[Query] | None:
    """The branches with the first one's column names and each column cast to the type that all share."""
    first = queries[0]
    for q in queries[1:]:
        if len(q.columns) != len(first.columns):
            mistakes.refuse(q.offset, "union_columns", count=str(len(q.columns)), first=str(len(first.columns)))
            return None
    shared = [t.common_of([q.columns[i].type for q in queries]) for i in range(len(first.columns))]
    for i, type_ in enumerate(shared):
        if type_ is None:
            other = next(q.columns[i] for q in queries if q.columns[i].type != first.columns[i].type)
            mistakes.refuse(
                other.offset, "union_types", column=first.columns[i].name, type=str(other.type), first=str(first.columns[i].type)
            )
    if None in shared:
        return None
    return [replace(q, columns=tuple(_as(c, f.name, s) for c, f, s in zip(q.columns, first.columns, shared, strict=True))) for q in queries]


def _as(column: Column, name: str, type_: Type | None) -> Column:
    assert type_ is not None
    return replace(column, name=name, sql=t.cast(column.sql, column.type, type_), type=type_)


def telling(queries: Sequence[Query]) -> list[str]:
    """The columns that are a literal in each branch, and another one in each."""
    names = [c.name for c in queries[0].columns]
    literals = [[q.columns[i].literal for q in queries] for i in range(len(names))]
    return [n for n, values in zip(names, literals, strict=True) if None not in values and len(set(values)) == len(values)]
