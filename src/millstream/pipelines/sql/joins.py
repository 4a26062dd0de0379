"""The join tree that the walk goes along, and the proof that a joined query has one row per row of its root.

Every table but the root must be joined on its whole key (each of its key columns equal to a column of an earlier table or to a
literal): then it adds at most one row, and the root's key stays a key.
"""

from __future__ import annotations

from collections import defaultdict

from millstream.pipelines.plan import Edge
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.query import Join, Query


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
    """One edge per joined table, from the root outwards: to the earlier table that most of its equalities name."""
    depth = {query.root.alias: 0}
    tree = []
    for join in query.joins:
        parent = _parent(join, depth)
        depth[join.relation.alias] = depth[parent] + 1
        pairs = sorted({(e.right[1], e.left[1]) for e in join.equalities if e.right[0] == parent})
        tree.append(Edge(parent, join.relation.alias, tuple(p for p, _ in pairs), tuple(c for _, c in pairs)))
    return tuple(tree)


def _parent(join: Join, depth: dict[str, int]) -> str:
    ties: dict[str, int] = defaultdict(int)
    for e in join.equalities:
        ties[e.right[0]] += 1
    # Fewer hops mean fewer lookups; the alias makes the choice stable.
    return min(ties, key=lambda alias: (-ties[alias], depth[alias], alias))
