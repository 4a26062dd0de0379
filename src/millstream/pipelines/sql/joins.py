"""What the equalities of a query say: which columns identify its rows, and the forest that the walk goes along.

A row is identified by some columns when each table's row is: its whole key is among them, equal to one of them, or to a literal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from millstream.pipelines.plan import Edge
from millstream.pipelines.sql.typed import Place


@dataclass(frozen=True)
class Tie:
    """left = right, both plain columns. It holds where a row of `of` is there (ON of a LEFT JOIN); None: in every row."""

    left: Place
    right: Place
    of: str | None

    def other(self, place: Place) -> Place | None:
        return self.right if place == self.left else self.left if place == self.right else None


@dataclass(frozen=True)
class Keyed:
    """A relation as far as the proof goes: `alias`, the columns of its key."""

    alias: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """Of one query: its relations, its ties, and the columns that a literal fixes (with the `of` of a tie)."""

    relations: tuple[Keyed, ...]
    ties: tuple[Tie, ...]
    fixed: frozenset[tuple[Place, str | None]]

    def identified(self, by: Iterable[Place]) -> tuple[set[Place], set[str]]:
        """Whatever has one value wherever the columns `by` have one: further columns, and whole rows of relations (aliases)."""
        places, aliases = set(by), set[str]()
        places |= {p for p, of in self.fixed if of is None}
        while True:
            size = len(places) + len(aliases)
            for tie in self.ties:
                if tie.of is None:
                    for here, there in ((tie.left, tie.right), (tie.right, tie.left)):
                        if here in places or here[0] in aliases:
                            places.add(there)
            for r in self.relations:
                if r.alias not in aliases and not self.missing(r, places, aliases):
                    aliases.add(r.alias)
            if len(places) + len(aliases) == size:
                return places, aliases

    def missing(self, relation: Keyed, places: Collection[Place], aliases: Collection[str]) -> list[str]:
        """The columns of the relation's key that nothing known fixes."""
        return [c for c in relation.key if not self._bound((relation.alias, c), places, aliases)]

    def _bound(self, place: Place, places: Collection[Place], aliases: Collection[str]) -> bool:
        if place in places or any(p == place and of in (None, place[0]) for p, of in self.fixed):
            return True
        others = [t.other(place) for t in self.ties if t.of in (None, place[0])]
        return any(o is not None and (o in places or o[0] in aliases) for o in others)

    def completed(self, by: Iterable[Place]) -> list[Place]:
        """What must be added to the columns `by` to identify a whole row: columns of keys, in the order of FROM."""
        added: list[Place] = []
        places, aliases = self.identified(by)
        for r in self.relations:
            if r.alias not in aliases:
                added += [(r.alias, c) for c in self.missing(r, places, aliases)]
                places, aliases = self.identified([*by, *added])
        return added

    def equal(self, place: Place) -> set[Place]:
        """The places that have the same value in every row, itself among them."""
        return _follow(place, [t for t in self.ties if t.of is None])


@dataclass(frozen=True)
class Part:
    """The occurrences of one SELECT with its own and the outer queries' ties; `inner` are the SELECTs inside it."""

    aliases: tuple[str, ...]
    ties: tuple[Tie, ...]
    inner: tuple[Part, ...]


def forest(roots: Sequence[str], part: Part) -> tuple[list[Edge], list[str]]:
    """Edges from the roots outwards, outer queries first, and the aliases that no equality reaches.

    Each occurrence hangs on the one it shares most columns with. Equalities are followed through: with w.origin = o.faa and
    o.faa = f.origin, w meets f by origin. A row that matches fulfils both, so the walk misses nothing, and finds fewer rows than
    it would by one column.
    """
    depth = dict.fromkeys(roots, 0)
    edges: list[Edge] = []
    lost: list[str] = []
    _grow(part, depth, edges, lost)
    return edges, lost


def _grow(part: Part, depth: dict[str, int], edges: list[Edge], lost: list[str]) -> None:
    waiting = [a for a in part.aliases if a not in depth]
    while waiting:
        found = next((e for a in waiting for e in [_edge(a, part.ties, depth)] if e), None)
        if found is None:
            lost += waiting
            break
        edges.append(found)
        depth[found.child] = depth[found.parent] + 1
        waiting.remove(found.child)
    for inner in part.inner:
        _grow(inner, depth, edges, lost)


def _edge(alias: str, ties: Sequence[Tie], depth: dict[str, int]) -> Edge | None:
    shared: dict[str, dict[str, str]] = defaultdict(dict)  # possible parent → column of this one → its column
    own = sorted({p[1] for t in ties if t.of in (None, alias) for p in (t.left, t.right) if p[0] == alias})
    for column in own:
        for parent, parent_column in sorted(_follow((alias, column), ties)):
            # Two columns equal to one of the parent's: one of them leads there, and the query demands the other.
            if parent != alias and parent in depth and parent_column not in shared[parent].values():
                shared[parent].setdefault(column, parent_column)
    if not any(shared.values()):
        return None
    # Among equals fewer hops mean fewer lookups; the alias makes the choice stable.
    parent = min(shared, key=lambda a: (-len(shared[a]), depth[a], a))
    return Edge(parent, alias, tuple(shared[parent].values()), tuple(shared[parent]))


def _follow(place: Place, ties: Sequence[Tie]) -> set[Place]:
    """The places equal to `place` in every row that has a row of its relation: an equality says that both of its sides are there."""
    reached, front = {place}, [place]
    while front:
        here = front.pop()
        for tie in ties:
            there = tie.other(here)
            if there is not None and there not in reached and tie.of in (None, here[0]):
                reached.add(there)
                front.append(there)
    return reached
