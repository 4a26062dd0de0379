"""The walk: which output keys a change may affect, and the rows that re-evaluating them needs. Design §5.4.

Affected keys: from each changed row's old and new image, at each occurrence of its table, along the equalities of the
join tree to the root. Nothing else takes part, no WHERE and no other condition, and every join on the way counts as
inner: losing a filter only adds keys, and comparing with the last output takes them out again. Old images come from
the copy before the batch is applied; the walk runs on the copies after it.

Re-evaluation goes the same edges the other way: the root's rows by key, then each child's rows by its parents'
values. The query over these rows alone gives what it gives for these keys over everything, since every joined row is reached by an
equality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from millstream.pipelines.plan import Edge, Root, Stateful

Lookup = Callable[[str, Sequence[str], pa.Table, Sequence[str]], pa.Table]
"""lookup(occurrence, columns, keys, wanted): the rows of an occurrence's table whose columns equal one of keys."""


@dataclass(frozen=True)
class Reach:
    """Units by what leads to them: those of the rows of `root` whose `columns` equal one of `keys`; or, where `columns` is
    the root's own, `keys` as they are (their rows may be gone). So a row under millions of documents stays small here."""

    root: Root
    columns: tuple[str, ...]
    keys: pa.Table


def affected(step: Stateful, occurrence: str, images: pa.Table, lookup: Lookup) -> Reach:
    """The units that `images` (old and new rows at `occurrence`) may affect.

    `images` has at least the columns that lead towards the root. Raises nothing of its own.
    """
    roots = {r.alias: r for r in step.roots}
    at, rows = occurrence, images
    while at not in roots:
        edge = _edge_to_parent(step, at)
        keys = distinct(rows.select(edge.child_columns))
        if edge.parent in roots:
            return Reach(roots[edge.parent], edge.parent_columns, keys)
        rows = lookup(edge.parent, edge.parent_columns, keys, _edge_to_parent(step, edge.parent).child_columns)
        at = edge.parent
    return Reach(roots[at], roots[at].columns, distinct(rows.select(roots[at].columns)))


def closure(step: Stateful, keys: pa.Table, lookup: Lookup, wanted: Mapping[str, Sequence[str]]) -> dict[str, pa.Table]:
    """The rows of every occurrence that the root rows of `keys` (units) can join with; `wanted` names the columns of each."""
    rows = {r.alias: lookup(r.alias, r.columns, keys, wanted[r.alias]) for r in step.roots}
    for edge in step.edges:
        values = distinct(rows[edge.parent].select(edge.parent_columns))
        rows[edge.child] = lookup(edge.child, edge.child_columns, values, wanted[edge.child])
    return rows


def columns_read(step: Stateful, occurrence: str, in_sql: frozenset[str]) -> list[str]:
    """What a closure must fetch of an occurrence: what the SQL reads and what leads on to other occurrences."""
    leads = {c for e in step.edges if e.parent == occurrence for c in e.parent_columns}
    leads |= {c for e in step.edges if e.child == occurrence for c in e.child_columns}
    leads |= {c for r in step.roots if r.alias == occurrence for c in r.columns}
    return sorted(in_sql | leads)


def indexes(step: Stateful) -> dict[str, set[tuple[str, ...]]]:
    """The column lists by which each occurrence is looked up (its input's key has an index anyway)."""
    wanted: dict[str, set[tuple[str, ...]]] = {o.alias: set() for o in step.occurrences}
    for r in step.roots:
        wanted[r.alias].add(r.columns)
    for e in step.edges:
        wanted[e.parent].add(e.parent_columns)
        wanted[e.child].add(e.child_columns)
    return wanted


def distinct(rows: pa.Table) -> pa.Table:
    """Each row once, without rows that hold a null: an equality never finds those."""
    whole = None
    for name in rows.column_names:
        valid = pc.is_valid(rows.column(name))
        whole = valid if whole is None else pc.and_(whole, valid)
    return rows.filter(whole).group_by(rows.column_names, use_threads=False).aggregate([])


def _edge_to_parent(step: Stateful, occurrence: str) -> Edge:
    return next(e for e in step.edges if e.child == occurrence)
