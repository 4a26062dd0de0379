"""FROM, JOIN … ON and WHERE of one SELECT, at any depth → its relations, what its equalities say, and DuckDB text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlglot import exp

from millstream.events.types import RowSchema
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.infer import Inference
from millstream.pipelines.sql.joins import Keyed, Part, Proof, Tie
from millstream.pipelines.sql.mistakes import Mistakes, offset_of
from millstream.pipelines.sql.relations import RESERVED, Aliases, Relation, Relations, quoted
from millstream.pipelines.sql.typed import Place, Typed

Forms = Mapping[type, Callable[[Any], Typed]]


class Inputs(Protocol):
    """What can stand in FROM: both give the input's name and schema, or None and a mistake (or nothing, where that was told)."""

    def table(self, node: exp.Table) -> tuple[str, RowSchema] | None: ...

    def derived(self, node: exp.Subquery) -> tuple[str, RowSchema] | None: ...


@dataclass(frozen=True)
class Statement:
    """What all SELECTs of one statement share. `forms` gives what expressions of a block may hold beside plain ones."""

    inputs: Inputs
    mistakes: Mistakes
    aliases: Aliases
    forms: Callable[[Block], Forms]


@dataclass(frozen=True)
class Join:
    relation: Relation
    kind: str  # INNER, LEFT, FULL
    on: str
    offset: int


@dataclass
class Block:
    """One SELECT's rows before they are grouped or projected. `inner` are the blocks of its subqueries, `grouped` the LEFT JOINs that
    its nested aggregates became. `conditions` are the parts that every row fulfils (of a LEFT JOIN: where its table's row is there).
    """

    statement: Statement
    scope: Relations
    offset: int
    outer: Block | None = None
    root: Relation | None = None
    joins: list[Join] = field(default_factory=list)
    where: str | None = None
    ties: list[Tie] = field(default_factory=list)
    fixed: set[tuple[Place, str | None]] = field(default_factory=set)
    inner: list[Block] = field(default_factory=list)
    grouped: list[str] = field(default_factory=list)
    keyed: list[Keyed] = field(default_factory=list)
    correlation: list[tuple[Place, Typed]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.infer = Inference(self.scope, self.statement.mistakes, self.statement.forms(self))

    @property
    def text(self) -> str:
        """FROM … JOIN … WHERE: each relation is a table named by its alias."""
        assert self.root is not None
        joins = "".join(f" {j.kind} JOIN {quoted(j.relation.alias)} ON {j.on}" for j in self.joins)
        where = f" WHERE {self.where}" if self.where else ""
        return f" FROM {quoted(self.root.alias)}{joins}{''.join(self.grouped)}{where}"

    @property
    def full(self) -> bool:
        return any(j.kind == "FULL" for j in self.joins)

    @property
    def proof(self) -> Proof:
        own = [Keyed(r.alias, r.schema.key) for r in self.scope.met]
        return Proof((*own, *self.keyed), tuple(self.ties), frozenset(self.fixed))

    @property
    def part(self) -> Part:
        """For the forest: with the ties of the queries around it, which hold wherever a row of this one counts."""
        ties, at = list(self.ties), self.outer
        while at is not None:
            ties, at = ties + at.ties, at.outer
        return Part(tuple(r.alias for r in self.scope.met), tuple(ties), tuple(b.part for b in self.inner))


def bind_block(select: exp.Select, statement: Statement, outer: Block | None, qualified: bool, alone: bool = False) -> Block | None:
    """The rows of `select`. `alone`: it becomes a table of its own, so outer columns count only where an equality ties them to one
    of its own. None where nothing more can be said of it.
    """
    mistakes = statement.mistakes
    from_ = select.args.get("from_")
    if from_ is None:
        mistakes.refuse(select, "no_from")
        return None
    scope = Relations(qualified, outer.scope if outer else None, replaces={} if alone else None)
    block = Block(statement, scope, offset_of(select), outer)
    joins = select.args.get("joins") or []
    if not _relations(block, from_.this, joins):
        return None
    conditions = [(j, j.args.get("on")) for j in joins]
    where = select.args.get("where")
    if alone:
        _correlate(block, [*(on for j, on in conditions if on is not None and not j.args.get("side")), *([where.this] if where else [])])
    if not _ons(block, joins):
        return None
    if where is not None:
        block.infer.aggregates = "aggregate_in_where"
        block.where = block.infer.condition(where.this, "WHERE").sql
        block.infer.aggregates = "aggregate_without_group"
    _conclude(block, where.this if where else None, joins)
    return block


# ---- tables -----------------------------------------------------------------------------------------------------------
def _relations(block: Block, first: exp.Expression, joins: list[exp.Join]) -> bool:
    root = _relation(block, first, False)
    bound = True
    for node in joins if root else []:
        kind = _kind(node, block.statement.mistakes)
        relation = _relation(block, node.this, kind in ("LEFT", "FULL")) if kind else None
        if kind is None or relation is None:
            bound = False
            continue
        block.joins.append(Join(relation, kind, "", offset_of(node)))
    block.root = root
    if block.full:  # each side may be missing
        last = max(i for i, j in enumerate(block.joins, 1) if j.kind == "FULL")
        block.scope.met[: last + 1] = [_replaced(r, nullable=True) for r in block.scope.met[: last + 1]]
    return root is not None and bound


def _replaced(r: Relation, nullable: bool) -> Relation:
    return Relation(r.alias, r.shown, r.input, r.schema, nullable)


def _relation(block: Block, node: exp.Expression, nullable: bool) -> Relation | None:
    mistakes = block.statement.mistakes
    alias = node.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        mistakes.refuse(alias, "renamed_columns")
        return None
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
        refuse_clauses(node, {"this", "alias"}, mistakes)
        found = block.statement.inputs.derived(node)
        name = ""
    elif isinstance(node, exp.Table) and all(isinstance(p, exp.Identifier) for p in node.parts):
        refuse_clauses(node, {"this", "db", "catalog", "alias"}, mistakes)
        found = block.statement.inputs.table(node)
        name = node.name
    else:
        mistakes.refuse(node, "lateral" if isinstance(node, exp.Lateral) else "not_a_table")
        return None
    if found is None:
        return None
    given = alias.this.name if alias is not None else ""
    shown = given or name or "subquery"
    relation = Relation(block.statement.aliases.take(given or RESERVED + shown), shown, found[0], found[1], nullable)
    return relation if block.scope.add(relation, node, mistakes) else None


def _kind(node: exp.Join, mistakes: Mistakes) -> str | None:
    """INNER, LEFT or FULL; None and a mistake for every other JOIN."""
    side, kind, method = (str(node.args.get(a) or "").upper() for a in ("side", "kind", "method"))
    using, on = node.args.get("using"), node.args.get("on")
    refused = None
    if isinstance(node.this, exp.Lateral):
        refused = "lateral"
    elif method:
        refused = {"NATURAL": "natural_join", "ASOF": "asof_join"}.get(method, "positional_join")
    elif side == "RIGHT":
        refused = "right_join"
    elif kind not in ("", "INNER", "OUTER"):
        refused = {"CROSS": "cross_join", "SEMI": "semi_join", "ANTI": "anti_join"}.get(kind, "positional_join")
    elif side == "FULL" and not using:
        refused = "full_join_on"
    elif using and side != "FULL":
        refused = "using"
    elif on is None and not using:
        refused = "comma"
    if refused:
        mistakes.refuse(node, refused)
        return None
    refuse_clauses(node, {"this", "side", "kind", "method", "on", "using"}, mistakes)
    return side or "INNER"


# ---- ON ---------------------------------------------------------------------------------------------------------------
def _ons(block: Block, joins: list[exp.Join]) -> bool:
    """Types each ON, in which the tables so far can be named; notes what it ties. Whether all could be."""
    met, sound = list(block.scope.met), True
    for i, node in enumerate(joins):
        join = block.joins[i]
        block.scope.met = met[: i + 2]
        on = _using(block, node, met[i + 1]) if join.kind == "FULL" else _on(block, node.args["on"], met[i + 1])
        sound = sound and on is not None
        block.joins[i] = Join(met[i + 1], join.kind, on or "", join.offset)
    block.scope.met = met
    return sound


def _on(block: Block, on: exp.Expression, relation: Relation) -> str | None:
    mistakes = block.statement.mistakes
    block.infer.aggregates = "aggregate_in_where"
    inside = on.find(exp.Query)
    if inside is not None:
        mistakes.refuse(inside, "subquery_in_on")
        return None
    condition = block.infer.condition(on, "ON")
    block.infer.aggregates = "aggregate_without_group"
    if condition.type is None:
        return None
    ties: list[tuple[Typed, Typed]] = []
    differ: list[tuple[Typed, Typed]] = []
    for left, right in _equal(on, block):
        if (left.column or ("",))[0] != (right.column or ("",))[0] and relation.alias in (left.column[0], right.column[0]):  # type: ignore[index]
            (ties if left.type == right.type else differ).append((left, right))
    if differ:
        left, right = differ[0]
        mine, other = (left, right) if left.column and left.column[0] == relation.alias else (right, left)
        mistakes.refuse(on, "join_types", left=_shown(block, mine), mine=str(mine.type), right=_shown(block, other), other=str(other.type))
        return None
    if not ties:
        column = f"{relation.shown}.{(relation.schema.key or ('id',))[0]}"
        mistakes.refuse(on, "join_without_equality", table=relation.shown, column=column)
        return None
    return condition.sql


def _shown(block: Block, value: Typed) -> str:
    assert value.column is not None
    at: Relations | None = block.scope
    while at is not None:
        for r in at.met:
            if r.alias == value.column[0]:
                return f"{r.shown}.{value.column[1]}"
        at = at.outer
    return value.column[1]


def _using(block: Block, node: exp.Join, relation: Relation) -> str | None:
    """FULL JOIN … USING: the columns become one each, of whichever side is there."""
    mistakes, scope = block.statement.mistakes, block.scope
    names = [n.name for n in node.args["using"]]
    earlier = scope.met[:-1]
    before = block.joins[: len(earlier) - 1]
    if any(j.kind != "FULL" for j in before) or (scope.merged and sorted(scope.merged) != sorted(n.casefold() for n in names)):
        mistakes.refuse(node, "full_join_after")
        return None
    conditions = []
    for name, identifier in zip(names, node.args["using"], strict=True):
        sides = [Relations(True, met=[r]).find(identifier) for r in scope.met]
        if any(s is None for s in sides):
            lacking = next(r.shown for r, s in zip(scope.met, sides, strict=True) if s is None)
            mistakes.add(identifier, "unknown_column", f"there is no column {name} in {lacking}", "USING names columns of both tables")
            return None
        found = [s for s in sides if s]
        if len({s.type for s in found}) > 1:
            shown = [f"{r.shown}.{name}" for r in scope.met]
            types = [str(s.type) for s in found]
            mistakes.refuse(identifier, "join_types", left=shown[-1], mine=types[-1], right=shown[0], other=types[0])
            return None
        left = found[0].sql if len(found) == 2 else f"coalesce({', '.join(s.sql for s in found[:-1])})"
        conditions.append(f"({left} = {found[-1].sql})")
        scope.merged[name.casefold()] = Typed(f"coalesce({', '.join(s.sql for s in found)})", found[0].type)
    for r in scope.met:
        if sorted(k.casefold() for k in r.schema.key) != sorted(scope.merged):
            mistakes.refuse(node, "full_join_key", table=r.shown, key=", ".join(r.schema.key), using=", ".join(names))
            return None
    return " AND ".join(conditions)


# ---- what the equalities say ---------------------------------------------------------------------------------------------
def conjuncts(node: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(node, exp.Paren):
        yield from conjuncts(node.this)
    elif isinstance(node, exp.And):
        for part in node.flatten():
            yield from conjuncts(part)
    else:
        yield node


def _equal(node: exp.Expression, block: Block) -> Iterator[tuple[Typed, Typed]]:
    """The equalities between two plain columns that `node` demands."""
    for part in conjuncts(node):
        if isinstance(part, exp.EQ):
            left, right = (_plain(side, block) for side in (part.this, part.expression))
            if left is not None and right is not None and left.column != right.column:
                yield left, right


def _plain(node: exp.Expression, block: Block) -> Typed | None:
    if not isinstance(node, exp.Column):
        return None
    value = block.scope.column(node, Mistakes())
    return value if value.column else None


def _fixed(node: exp.Expression, block: Block) -> Iterator[Place]:
    """The columns that `node` sets equal to a literal."""
    for part in conjuncts(node):
        if isinstance(part, exp.EQ):
            for side, other in ((part.this, part.expression), (part.expression, part.this)):
                column = _plain(side, block)
                if column is None or column.column is None or other.find(exp.Column, exp.Query) is not None:
                    continue
                value = Inference(block.scope, Mistakes(portable=block.statement.mistakes.portable), {}).typed(other)
                # Beside a float an integer becomes one, and several integers become the same float.
                if value.type and value.type.kind not in t.FLOATS:
                    yield column.column


def _correlate(block: Block, conditions: list[exp.Expression]) -> None:
    """Finds own column = outer column, by which a subquery that becomes a table is joined; the outer column is replaced by it."""
    scope, outer = block.scope, block.scope.outer
    assert outer is not None
    assert scope.replaces is not None
    order = {r.alias: i for i, r in enumerate(scope.met)}
    for part in (p for c in conditions for p in conjuncts(c)):
        if not isinstance(part, exp.EQ):
            continue
        for mine, other in ((part.this, part.expression), (part.expression, part.this)):
            own = scope.owns(mine)
            if own is None or not isinstance(other, exp.Column) or scope.owns(other) is not None:
                continue
            theirs = outer.column(other, Mistakes())
            if theirs.column is None:
                continue
            value = scope.column(mine, Mistakes())
            if value.type != theirs.type:
                left, right = _shown(block, value), _shown(block, theirs)
                block.statement.mistakes.refuse(part, "join_types", left=left, mine=str(value.type), right=right, other=str(theirs.type))
            block.correlation.append((own, theirs))
            block.ties.append(Tie(own, theirs.column, None))
            earlier = scope.replaces.get(theirs.column)
            if earlier is None or order[own[0]] < order[(earlier.column or own)[0]]:  # more tables' ON can name it
                scope.replaces[theirs.column] = value


def _conclude(block: Block, where: exp.Expression | None, joins: list[exp.Join]) -> None:
    """Which relations are there in every row, which columns are never null there, and what is tied to what."""
    scope = block.scope
    never_null = set(_never_null(where, block)) if where is not None else set()
    required = {r.alias for r in scope.met if not r.nullable} | {p[0] for p in never_null}
    conditions = {j.relation.alias: node.args["on"] for j, node in zip(block.joins, joins, strict=True) if j.kind != "FULL"}
    for join in reversed(block.joins):  # what a table that is there is joined by is there too
        alias = join.relation.alias
        if alias in required and alias in conditions:
            places = set(_never_null(conditions[alias], block))
            never_null |= places
            required |= {p[0] for p in places}
    scope.not_null, scope.required = frozenset(never_null), frozenset(required)
    parts = [(None if alias in required else alias, on) for alias, on in conditions.items()]
    for of, condition in [*parts, *([(None, where)] if where is not None else [])]:
        pairs = [(left, right) for left, right in _equal(condition, block) if left.type == right.type]
        block.ties += [Tie(left.column, right.column, of) for left, right in pairs if left.column and right.column]
        block.fixed |= {(place, of) for place in _fixed(condition, block)}


def _never_null(condition: exp.Expression, block: Block) -> Iterator[Place]:
    """Own columns that a row passing the condition holds: c IS NOT NULL, or c compared with something."""
    for part in conjuncts(condition):
        named = []
        if isinstance(part, exp.Not) and isinstance(part.this, exp.Is) and isinstance(part.this.expression, exp.Null):
            named = [part.this.this]
        elif isinstance(part, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE):
            named = [part.this, part.expression]
        elif isinstance(part, exp.In | exp.Between | exp.Like | exp.ILike):
            named = [part.this]
        for node in named:
            place = block.scope.owns(node)
            if place:
                yield place


# ---- clauses ------------------------------------------------------------------------------------------------------------
_CLAUSES = {
    "distinct": "distinct", "order": "order_by", "limit": "limit", "offset": "offset", "fetch": "limit", "sample": "sample",
    "pivots": "pivot", "laterals": "lateral", "windows": "named_window", "having": "having_without_group", "with_": "with_inside",
    "qualify": "qualify_inside", "group": "group_inside",
}  # fmt: skip


def refuse_clauses(node: exp.Expression, allowed: set[str], mistakes: Mistakes) -> bool:
    """Notes every clause of `node` that is not among `allowed`. Whether there are none."""
    before = len(mistakes.found)
    for name, value in node.args.items():
        if name in allowed or not value:
            continue
        at = value[0] if isinstance(value, list) else value
        at = at if isinstance(at, exp.Expression) else node
        shown = name.strip("_").upper().replace("_", " ")
        refusal = _CLAUSES.get(name, "clause")
        mistakes.refuse(at, refusal, **({"name": shown} if refusal == "clause" else {}))
    return len(mistakes.found) == before
