"""The join tree that the walk goes along, and the proof that a joined query has one row per row of its root.

Every table but the root must be joined on its whole key (each of its key columns equal to a column of an earlier table or to a
literal): then it adds at most one row, and the root's key stays a key.
"""

from __future__ import annotations

from collections import defaultdict

from millstream.pipelines.plan import Edge
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.query import Query

Place = tuple[str, str]  # alias, column


def prove_unique(query: Query, mistakes: Mistakes) -> None:
    """Notes every join that may give several rows for one row of the root."""
    for join in query.joins:
        bound = {e.left[1] for e in join.equalities} | join.fixed
        missing = [k for k in join.relation.schema.key if k not in bound]
        if not missing:
            continue
        name, root = join.relation.shown, query.root.shown
        key = ", ".join(join.relation.schema.key)
        message = (
            f"{name} may have several rows per {root}: it is joined on {', '.join(sorted(bound))}, its key is ({key}); "
            f"joining it would make several rows with one key"
        )
        cure = (
            f"join {name} on its whole key ({', '.join(missing)} is missing), or put {name} first, where each of its rows "
            f"is one row of the result"
        )
        mistakes.add(join.offset, "many_rows_per_key", message, cure)


def edges(query: Query) -> tuple[Edge, ...]:
    """One edge per joined table, from the root outwards: to the earlier table that it shares most columns with.

    Equalities are followed through: with w.origin = o.faa and o.faa = f.origin, w meets f by origin. A row that matches
    fulfils both, so the walk misses nothing, and finds fewer rows than it would by one column.
    """
    depth = {query.root.alias: 0}
    same: dict[Place, set[Place]] = defaultdict(set)  # columns of earlier tables that equal a column, where it is there at all
    tree = []
    for join in query.joins:
        alias = join.relation.alias
        for e in join.equalities:
            same[e.left] |= {e.right, *same[e.right]}
        shared: dict[str, dict[str, str]] = defaultdict(dict)  # earlier table → column of this one → its column
        for column in sorted({e.left[1] for e in join.equalities}):
            for parent, parent_column in sorted(same[alias, column]):
                shared[parent].setdefault(column, parent_column)
        # Among equals fewer hops mean fewer lookups; the alias makes the choice stable.
        parent = min(shared, key=lambda a: (-len(shared[a]), depth[a], a))
        depth[alias] = depth[parent] + 1
        tree.append(Edge(parent, alias, tuple(shared[parent].values()), tuple(shared[parent])))
    return tuple(tree)
