"""A DuckDB text of ours → what each of its columns is made of, and what decides which rows there are.

Read from the very text that runs, so that nothing can be said of a step that it does not do. Such a text quotes every name and
calls each relation by an alias that is one in the whole of it; calls stay names (`dialect.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import sqlglot
from sqlglot import exp

from millstream.events.types import RowSchema, Type
from millstream.pipelines.sql.aggregates import AGGREGATES
from millstream.pipelines.sql.dialect import MillstreamSql
from millstream.pipelines.sql.places import names_in, places_in

Kind = Literal["value", "derived", "key", "filter"]
"""It is that value (of a list: its items are); it is computed from it; its row is known by it; it, its row or its items are there
because of it."""

At = tuple[str, ...]
"""An alias, and the path of a column or of a member in it, through lists; the alias alone is its rows: which there are."""

Of = Mapping[At, Kind]
STRENGTH: Mapping[Kind, int] = {"value": 0, "derived": 1, "key": 2, "filter": 3}
_AGGREGATES = frozenset(a.name for a in AGGREGATES)
_PICKS = frozenset({"list", "first"})  # aggregates that hand on values of rows as they are


@dataclass(frozen=True)
class Made:
    """What a value is made of. Of a record or a list of records `of` is said of itself: whether it is there, which items it has;
    `members` are its parts."""

    of: Of = field(default_factory=dict)
    members: Mapping[str, Made] = field(default_factory=dict)

    def all(self) -> Of:
        """With what its members are made of."""
        return together(self.of, *(m.all() for m in self.members.values()))

    def at(self, path: Iterable[str]) -> Of:
        """What the member at `path` is made of; one that is not known by itself is computed from all of what holds it."""
        made = self
        for name in path:
            if name not in made.members:
                return derived(made.all())
            made = made.members[name]
        return made.of


@dataclass(frozen=True)
class Origins:
    """Of a query: its columns by name, and its rows."""

    columns: Mapping[str, Made]
    rows: Of


def origins(sql: str, inputs: Mapping[str, RowSchema]) -> Origins:
    """`inputs` are the relations by alias. A name without an alias is one of the only relation.

    Every column that the text names is told: one that changes nothing, such as that of a LEFT JOIN of which nothing is read, as
    deciding the rows, for without it the text would not run.
    """
    try:
        tree = sqlglot.parse_one(sql, dialect=MillstreamSql)
        found = _Select(tree, inputs).origins()
    except RecursionError:  # deeper than the parser goes: still sound, if coarse
        return _coarse(sql, inputs)
    said = together(found.rows, *(made.all() for made in found.columns.values()))
    alone = next(iter(inputs))
    named = {(c.table or alone, c.name) for c in tree.find_all(exp.Column)}
    idle = [at for at in named if at[0] in inputs and not any(told[:2] == at for told in said)]
    return Origins(found.columns, together(found.rows, filters(idle)))


def column(alias: str, name: str, type_: Type) -> Made:
    """A column of a relation, with its members."""
    return _whole((alias, name), type_)


def together(*parts: Of) -> Of:
    """Each place once, as the strongest of what is said of it."""
    found: dict[At, Kind] = {}
    for part in parts:
        for at, kind in part.items():
            if at not in found or STRENGTH[kind] < STRENGTH[found[at]]:
                found[at] = kind
    return found


def derived(of: Of) -> Of:
    return {at: "derived" if kind == "value" else kind for at, kind in of.items()}


def filters(of: Iterable[At]) -> Of:
    return dict.fromkeys(of, "filter")


def _whole(at: At, type_: Type) -> Made:
    while type_.element is not None:
        type_ = type_.element
    return Made({at: "value"}, {f.name: _whole((*at, f.name), f.type) for f in type_.fields})


def _coarse(sql: str, inputs: Mapping[str, RowSchema]) -> Origins:
    alone = next(iter(inputs))
    named = places_in(sql) or {(alone, name) for name in names_in(sql)}
    read = {(alias, name) for alias, name in named if alias in inputs and name in inputs[alias].names}
    every: Of = together(dict.fromkeys(read, "derived"), filters((alias,) for alias in inputs))
    return Origins(_Every(Made(every)), filters(every))


class _Every(dict[str, Made]):
    """One answer for every column."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self._made = made

    def __missing__(self, name: str) -> Made:
        return self._made

    def __contains__(self, name: object) -> bool:
        return True


class _Select:
    """One SELECT at any depth. `decides` is what its rows, before they are grouped, are there by; `repeats` what may give one of them
    several times; `presence` what decides which row of an outer joined relation stands beside the others."""

    def __init__(self, select: exp.Select, inputs: Mapping[str, RowSchema], outer: _Select | None = None) -> None:
        self._select, self._inputs, self._outer = select, inputs, outer
        self._relations: dict[str, Mapping[str, Made]] = {}
        self._presence: dict[str, Of] = {}
        self.decides: Of = self._relation(select.args["from_"].this)
        self._repeats: Of = {}
        for join in select.args.get("joins") or ():
            self._join(join)
        if where := select.args.get("where"):
            self.decides = together(self.decides, self._condition(where.this))

    def origins(self) -> Origins:
        rows = self.decides
        for clause in ("having", "qualify"):
            if condition := self._select.args.get(clause):
                rows = together(rows, self._condition(condition.this))
        return Origins({str(item.alias): self.made(item.this) for item in self._select.expressions}, rows)

    # ---- relations ------------------------------------------------------------------------------------------------------
    def _relation(self, node: exp.Expression) -> Of:
        """Takes a relation of FROM or JOIN in; gives what its rows are there by."""
        alias = str(node.alias_or_name)
        if isinstance(node, exp.Subquery):  # a nested aggregate: a row for each of what it is grouped by
            inner = _Select(node.this, self._inputs).origins()
            self._relations[alias] = inner.columns
            return inner.rows
        self._relations[alias] = {f.name: _whole((alias, f.name), f.type) for f in self._inputs[alias].fields}
        return {(alias,): "filter"}

    def _join(self, join: exp.Join) -> None:
        earlier = list(self._relations)
        rows = self._relation(join.this)
        on = together(rows, self._condition(join.args["on"]))
        alias = str(join.this.alias_or_name)
        if join.side == "FULL":
            for one in (*earlier, alias):
                self._presence[one] = together(self._presence.get(one, {}), on, self.decides)
        elif join.side == "LEFT":
            self._presence[alias] = on
            if not self._finds_one(join, alias):
                self._repeats = together(self._repeats, on)
            return
        self.decides = together(self.decides, on)

    def _finds_one(self, join: exp.Join, alias: str) -> bool:
        """Whether a LEFT JOIN puts one row of the relation, or none, beside another: by its whole key."""
        if isinstance(join.this, exp.Subquery):
            return True
        equal = [e for e in _conjuncts(join.args["on"]) if isinstance(e, exp.EQ)]
        sides = [pair for e in equal for pair in ((e.this, e.expression), (e.expression, e.this))]
        told = {own.name for own, other in sides if _is_of(own, alias) and not any(_is_of(c, alias) for c in other.find_all(exp.Column))}
        return set(self._inputs[alias].key) <= told

    def _column(self, node: exp.Column) -> Made:
        at: _Select | None = self
        while at is not None:
            alias = node.table or (next(iter(at._relations)) if len(at._relations) == 1 else "")
            if alias in at._relations:
                made = at._relations[alias][node.name]
                return Made(together(made.of, at._presence.get(alias, {})), made.members)
            at = at._outer
        raise KeyError(f"{node.table}.{node.name}")

    # ---- expressions ----------------------------------------------------------------------------------------------------
    def _condition(self, node: exp.Expression) -> Of:
        return filters(self.made(node).all())

    def _all(self, nodes: Iterable[exp.Expression]) -> Of:
        return together(*(self.made(n).all() for n in nodes))

    def made(self, node: exp.Expression) -> Made:
        match node:
            case exp.Column():
                return self._column(node)
            case exp.Paren():
                return self.made(node.this)
            case exp.DataType() | exp.Literal() | exp.Star():
                return Made()
            case exp.Struct():
                return Made({}, {str(p.this.name): self.made(p.expression) for p in node.expressions})
            case exp.Array():
                return _merged([self.made(n) for n in node.expressions])
            case exp.Case():
                return self._case(node)
            case exp.Exists():
                return Made(filters(_Select(node.this, self._inputs, self).decides))
            case exp.Filter():
                return self._call(node.this, self._condition(node.expression.this))
            case exp.Window():
                parts = [*(node.args.get("partition_by") or ()), *(o.this for o in node.args["order"].expressions)]
                return Made(together(derived(self._all(parts)), filters(self.decides), filters(self._repeats)))
            case exp.Anonymous():
                return self._call(node, {})
        return Made(derived(self._all(_children(node))))

    def _case(self, node: exp.Case) -> Made:
        """A record that is there or not keeps its members; everything else is computed."""
        branches = [branch.args["true"] for branch in node.args["ifs"]] + ([node.args["default"]] if node.args.get("default") else [])
        tests = self._all([*([node.this] if node.this else []), *(branch.this for branch in node.args["ifs"])])
        values = [made for made in map(self.made, branches) if made.of or made.members]
        if len(values) == 1 and values[0].members:
            return Made(together(values[0].of, filters(tests)), values[0].members)
        return Made(derived(together(tests, *(v.all() for v in values))))

    def _call(self, node: exp.Anonymous, condition: Of) -> Made:
        name, arguments = str(node.this).casefold(), list(node.expressions)
        if name == "struct_extract":
            whole = self.made(arguments[0])
            member = whole.members.get(str(arguments[1].this))
            return Made(derived(whole.all())) if member is None else Made(together(member.of, filters(whole.of)), member.members)
        if name == "list_slice" or (name == "coalesce" and len(arguments) == 2 and _is_empty_list(arguments[1])):
            return self.made(arguments[0])
        if name in _AGGREGATES:
            return self._aggregate(name, arguments, condition)
        return Made(derived(self._all(arguments)))

    def _aggregate(self, name: str, arguments: list[exp.Expression], condition: Of) -> Made:
        """Made of its rows: what decides which those are, and in which order they stand, is part of it."""
        order: list[exp.Expression] = []
        if arguments and isinstance(arguments[-1], exp.Order):
            order, arguments = [o.this for o in arguments[-1].expressions], [*arguments[:-1], arguments[-1].this]
        by = together(condition, filters(self._all(order)), filters(self.decides), filters(self._repeats))
        if name in _PICKS:
            item = self.made(arguments[0])
            return Made(together(item.of, by), item.members)
        return Made(together(derived(self._all(arguments)), by))


def _merged(values: list[Made]) -> Made:
    names = {n for v in values for n in v.members}
    members = {n: _merged([v.members[n] for v in values if n in v.members]) for n in names}
    return Made(together(*(v.of for v in values)), members)


def _conjuncts(node: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(node, exp.Paren):
        yield from _conjuncts(node.this)
    elif isinstance(node, exp.And):
        yield from _conjuncts(node.this)
        yield from _conjuncts(node.expression)
    else:
        yield node


def _is_of(node: exp.Expression, alias: str) -> bool:
    return isinstance(node, exp.Column) and node.table == alias


def _is_empty_list(node: exp.Expression) -> bool:
    return isinstance(node, exp.Cast) and isinstance(node.this, exp.Array) and not node.this.expressions


def _children(node: exp.Expression) -> Iterator[exp.Expression]:
    yield from (n for n in node.iter_expressions() if not isinstance(n, exp.Identifier))
