"""Subqueries: EXISTS and IN stay what they are; a subquery whose item is an aggregate becomes a grouped table, joined once.

(SELECT count(*) FROM c WHERE c.a = m.id) is LEFT JOIN (SELECT c.a, count(*) … GROUP BY c.a) ON … = m.id: DuckDB scans a whole table
for a correlated scalar subquery. Over no rows a count is 0, a list is empty and the rest is null.
"""

from __future__ import annotations

from sqlglot import exp

from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.block import Block, Forms, bind_block, refuse_clauses
from millstream.pipelines.sql.groups import Grouped, calls
from millstream.pipelines.sql.joins import Keyed, Tie
from millstream.pipelines.sql.relations import RESERVED, quoted
from millstream.pipelines.sql.shape import Aggregate
from millstream.pipelines.sql.typed import UNKNOWN, Typed

_ROWS = {"expressions", "from_", "joins", "where"}


def forms(block: Block) -> Forms:
    """What expressions of a block may hold beside plain ones."""
    return {
        exp.Subquery: lambda n: _scalar(n, block),
        exp.Exists: lambda n: _exists(n.this, block),
        exp.In: lambda n: _within(n, block) if n.args.get("query") else block.infer.membership(n),
    }


def _bound(node: exp.Expression, outer: Block, alone: bool) -> tuple[exp.Select, Block] | None:
    """The rows of a subquery, tied to those around it."""
    mistakes = outer.statement.mistakes
    while isinstance(node, exp.Subquery) and not node.args.get("alias"):
        node = node.this
    if not isinstance(node, exp.Select):
        mistakes.refuse(node, "union_inside")
        return None
    if not refuse_clauses(node, _ROWS, mistakes):
        return None
    inner = bind_block(node, outer.statement, outer, qualified=True, alone=alone)
    if inner is None:
        return None
    own = {r.alias for r in inner.scope.met}
    if inner.full:
        mistakes.refuse(node, "full_join_inside")
        return None
    if not any((t.left[0] in own) != (t.right[0] in own) for t in inner.ties if t.of is None):
        mistakes.refuse(node, "uncorrelated", column=f"{inner.scope.met[0].shown}.x")
        return None
    outer.inner.append(inner)
    return node, inner


def _exists(node: exp.Expression, block: Block) -> Typed:
    bound = _bound(node, block, alone=False)
    return Typed(f"EXISTS (SELECT 1{bound[1].text})", t.BOOLEAN) if bound else UNKNOWN


def _within(node: exp.In, block: Block) -> Typed:
    """x IN (SELECT y …) as EXISTS (SELECT 1 … WHERE y = x): the same where null counts as false, so it stands there only."""
    mistakes = block.statement.mistakes
    if not _null_is_false(node):
        mistakes.refuse(node, "in_as_value")
        return UNKNOWN
    inside = node.args["query"]
    while isinstance(inside, exp.Subquery):
        inside = inside.this
    if not isinstance(inside, exp.Select):
        mistakes.refuse(inside, "union_inside")
        return UNKNOWN
    if len(inside.expressions) != 1 or inside.expressions[0].find(exp.Star):
        mistakes.refuse(inside, "in_several")
        return UNKNOWN
    item = inside.expressions[0]
    hidden = {str(x.alias_or_name).casefold() for x in _in_from(inside)} & {str(c.table).casefold() for c in node.this.find_all(exp.Column)}
    if hidden - {""}:
        mistakes.refuse(node, "in_hidden", table=sorted(hidden - {""})[0])
        return UNKNOWN
    equal = exp.EQ(this=(item.this if isinstance(item, exp.Alias) else item).copy(), expression=_outside(node.this, block))
    where = inside.args.get("where")
    rows = inside.copy()
    rows.set("where", exp.Where(this=exp.and_(where.this.copy(), equal, copy=False) if where else equal))
    rows.parent = node.parent
    return _exists(rows, block)


def _in_from(select: exp.Select) -> list[exp.Expression]:
    from_ = select.args.get("from_")
    return [*([from_.this] if from_ else []), *(j.this for j in select.args.get("joins") or [])]


def _outside(node: exp.Expression, block: Block) -> exp.Expression:
    """`node` with each column said by its table's name, so that a subquery's own columns do not take its place."""
    node = node.copy()
    for column in [node] if isinstance(node, exp.Column) else list(node.find_all(exp.Column)):
        if len(column.parts) == 1:
            found = block.scope.find(column.this)
            if found is not None and found.column is not None:
                shown = next((r.shown for r in block.scope.met if r.alias == found.column[0]), None)
                if shown:
                    column.set("table", exp.to_identifier(shown, quoted=True))
    return node


def _null_is_false(node: exp.Expression) -> bool:
    """Whether `node` only lets rows through: from it up to WHERE there is AND, OR and parentheses alone."""
    at = node.parent
    while isinstance(at, exp.And | exp.Or | exp.Paren):
        at = at.parent
    return isinstance(at, exp.Where)


# ---- nested aggregates ------------------------------------------------------------------------------------------------------
def _scalar(node: exp.Subquery, block: Block) -> Typed:
    mistakes = block.statement.mistakes
    inside = node.this
    while isinstance(inside, exp.Subquery):
        inside = inside.this
    if isinstance(inside, exp.Select) and inside.args.get("limit"):
        mistakes.refuse(inside.args["limit"], "limit_inside")
        return UNKNOWN
    if isinstance(inside, exp.Select) and not any(True for e in inside.expressions for _ in calls(e)):
        mistakes.refuse(node, "scalar_subquery")
        return UNKNOWN
    bound = _bound(node, block, alone=True)
    if bound is None:
        return UNKNOWN
    select, inner = bound
    if len(select.expressions) != 1:
        mistakes.refuse(node, "subquery_of_several")
        return UNKNOWN
    name = block.statement.aliases.take(RESERVED + "nested")
    made: list[str] = []

    def column(value: Typed, aggregate: Aggregate) -> Typed:
        """The aggregate as a column of the grouped table, and what it is where that has no row."""
        made.append(value.sql)
        assert value.type is not None
        place = f"{quoted(name)}.{quoted(f'{RESERVED}v{len(made)}')}"
        match aggregate.over_none:
            case "zero":
                return Typed(f"coalesce({place}, CAST(0 AS {t.duckdb_name(value.type)}))", value.type)
            case "empty list":
                return Typed(f"coalesce({place}, CAST([] AS {t.duckdb_name(value.type)}))", value.type)
        return Typed(place, value.type, nullable=True)

    item = select.expressions[0]
    value = Grouped(inner, (), column).typed(item.this if isinstance(item, exp.Alias) else item)
    if value.type is None:
        return UNKNOWN
    _join(block, inner, name, made)
    return value


def _join(block: Block, inner: Block, name: str, made: list[str]) -> None:
    pairs = list({theirs.column: (own, theirs) for own, theirs in reversed(inner.correlation)}.values())
    keys = [f"{quoted(own[0])}.{quoted(own[1])}" for own, _ in pairs]
    named = [f"{RESERVED}k{i}" for i in range(1, len(keys) + 1)]
    columns = [f"{sql} AS {quoted(n)}" for sql, n in zip(keys, named, strict=True)]
    columns += [f"{sql} AS {quoted(f'{RESERVED}v{i}')}" for i, sql in enumerate(made, 1)]
    on = " AND ".join(f"({quoted(name)}.{quoted(n)} = {theirs.sql})" for n, (_, theirs) in zip(named, pairs, strict=True))
    block.grouped.append(f" LEFT JOIN (SELECT {', '.join(columns)}{inner.text} GROUP BY {', '.join(keys)}) AS {quoted(name)} ON {on}")
    block.keyed.append(Keyed(name, tuple(named)))
    block.ties += [Tie((name, n), theirs.column, name) for n, (_, theirs) in zip(named, pairs, strict=True) if theirs.column]
