"""Aggregates: where a SELECT may hold them, what they are typed as, and that their order is total.

`Grouped` types the SELECT list and HAVING of a query with GROUP BY, and the item of a nested aggregate: there a column stands only
inside an aggregate, unless it is grouped by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from millstream.pipelines.sql import subset
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.aggregates import text
from millstream.pipelines.sql.block import Block
from millstream.pipelines.sql.infer import Inference
from millstream.pipelines.sql.mistakes import Mistakes, offset_of
from millstream.pipelines.sql.places import places_in
from millstream.pipelines.sql.shape import Aggregate
from millstream.pipelines.sql.typed import UNKNOWN, Place, Typed


@dataclass(frozen=True)
class By:
    """An expression of GROUP BY or PARTITION BY; `column`: the plain column that it is."""

    node: exp.Expression
    value: Typed
    offset: int

    @property
    def column(self) -> Place | None:
        return self.value.column

    @property
    def places(self) -> set[Place]:
        return {self.column} if self.column else places_in(self.value.sql)


def grouped_by(select: exp.Select, block: Block) -> tuple[By, ...]:
    """The expressions of GROUP BY, also where they are said as the number or the name of an item of the SELECT list."""
    mistakes, group = block.statement.mistakes, select.args["group"]
    for name, value in group.args.items():
        if name != "expressions" and value:
            mistakes.refuse(
                group if name == "all" else value[0] if isinstance(value, list) else group,
                "grouping_sets" if name != "all" else "group_by_all",
            )
            return ()
    found = []
    block.infer.aggregates = "aggregate_in_where"
    for written in group.expressions:
        if isinstance(written, exp.GroupingSets | exp.Rollup | exp.Cube):
            mistakes.refuse(written, "grouping_sets")
            continue
        node = _meant(written, select, block)
        if node.find(exp.Query) is not None:
            mistakes.refuse(written, "group_by_subquery")
            continue
        value = block.infer.typed(node)
        if value.type is not None and value.column is None and not places_in(value.sql):
            mistakes.refuse(written, "group_by_constant")
        elif value.type is not None:
            found.append(By(node, value, offset_of(written)))
    block.infer.aggregates = "aggregate_without_group"
    return tuple(found)


def _meant(node: exp.Expression, select: exp.Select, block: Block) -> exp.Expression:
    items = select.expressions
    if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdigit() and 1 <= int(str(node.this)) <= len(items):
        item = items[int(str(node.this)) - 1]
        return item.this if isinstance(item, exp.Alias) else item
    if isinstance(node, exp.Column) and len(node.parts) == 1 and block.scope.find(node.this) is None:
        for item in items:
            if isinstance(item, exp.Alias) and item.alias.casefold() == node.name.casefold():
                return item.this
    return node


class Grouped(Inference):
    """Types expressions over groups of a block's rows. `by`: what is grouped by. `made` turns an aggregate into what stands for it."""

    def __init__(self, block: Block, by: Sequence[By], made: Callable[[Typed, Aggregate], Typed] | None = None) -> None:
        super().__init__(block.scope, block.statement.mistakes, {})
        self._block, self._by, self._made = block, by, made
        self._rows = Inference(block.scope, block.statement.mistakes, block.statement.forms(block))
        self._rows.aggregates = "nested_aggregate"

    def typed(self, node: exp.Expression) -> Typed:
        part = self._grouped(node)
        if part is not None:
            return part
        mistakes = self._block.statement.mistakes
        if isinstance(node, exp.Column):
            value = self._rows.typed(node)
            if value.type is not None:
                mistakes.refuse(node, "not_grouped" if self._by else "not_aggregated", name=node.sql("duckdb"))
            return UNKNOWN
        if isinstance(node, exp.Subquery | exp.Exists) or (isinstance(node, exp.In) and node.args.get("query")):
            mistakes.refuse(node, "subquery_over_groups")
            return UNKNOWN
        call = _call(node)
        return self._aggregate(node, *call) if call else super().typed(node)

    def _grouped(self, node: exp.Expression) -> Typed | None:
        for by in self._by:
            if type(node) is not type(by.node) or isinstance(node, exp.Literal):
                continue
            quiet = Mistakes(portable=self._block.statement.mistakes.portable)
            if node == by.node or Inference(self._block.scope, quiet, {}).typed(node).sql == by.value.sql:
                return replace(by.value, literal=None, constant=None)
        return None

    # ---- calls ----------------------------------------------------------------------------------------------------------
    def _aggregate(self, node: exp.Expression, call: exp.Anonymous, filter_: exp.Expression | None, found: Aggregate) -> Typed:
        mistakes = self._block.statement.mistakes
        nodes, distinct, order = _arguments(call)
        starred = [n for n in nodes if isinstance(n, exp.Star)]
        if starred and (found.name != "count" or len(nodes) != 1 or distinct):
            mistakes.refuse(starred[0], "star_in_aggregate")
            return UNKNOWN
        nodes = [n for n in nodes if not isinstance(n, exp.Star)]
        if not len(found.arguments) - found.optional <= len(nodes) <= len(found.arguments):
            mistakes.add(node, "type_clash", f"{found.name} has {len(nodes)} arguments", f"it is {found.signature}")
            return UNKNOWN
        if distinct and not found.distinct:
            mistakes.refuse(node, "distinct_in_aggregate", name=found.name)
            return UNKNOWN
        values = [self._argument_of(found, n, i) for i, n in enumerate(nodes)]
        condition = self._rows.condition(filter_, "FILTER") if filter_ is not None else None
        ordering = [(self._rows.typed(o.this), o) for o in order]
        if any(v is None or v.type is None for v in [*values, *(v for v, _ in ordering), *([condition] if condition else [])]):
            return UNKNOWN
        sound = [v for v in values if v is not None]
        if found.ordered and not self._total(call, sound, [v for v, _ in ordering]):
            return UNKNOWN
        if order and not found.ordered:
            mistakes.refuse(order[0], "order_in_aggregate", name=found.name)
            return UNKNOWN
        types = [v.type for v in sound if v.type]
        result = found.result(types)
        sql = text(
            found.duckdb, [v.sql for v in sound], types, t.duckdb_name, result,
            order=", ".join(ordered(v, o) for v, o in ordering), distinct=distinct, filter_=condition.sql if condition else "",
        )  # fmt: skip
        always = found.over_none != "null"
        nullable = not always and (condition is not None or any(v.nullable for v in sound))
        value = Typed(sql, result, nullable)
        return self._made(value, found) if self._made else value

    def _argument_of(self, found: Aggregate, node: exp.Expression, i: int) -> Typed | None:
        mistakes, expected = self._block.statement.mistakes, found.arguments[i]
        value = self._rows.typed(node)
        if value.null:
            mistakes.add(node, "null_literal", f"{found.name} of NULL has no type", "leave it out, or CAST(NULL AS …)")
            return None
        if value.type is None:
            return None
        if expected.form == "quoted" and value.literal is None:
            mistakes.add(node, "type_clash", f"{found.name}: {expected.name} must be a text written out", f"it is {found.signature}")
            return None
        if value.type.kind not in expected.kinds:
            if value.type.kind in t.FLOATS and found.cure:
                mistakes.refuse(node, "float_sum", name=found.name, type=str(value.type))
                return None
            kinds = " or ".join(sorted(expected.kinds))
            cure = found.cure or f"CAST it; it is {found.signature}"
            mistakes.add(node, "type_clash", f"{found.name}: {expected.name} is {value.type}, it must be {kinds}", cure)
            return None
        return value if expected.to is None else replace(value, sql=t.cast(value.sql, value.type, expected.to), type=expected.to)

    def _total(self, call: exp.Anonymous, values: Sequence[Typed], ordering: Sequence[Typed]) -> bool:
        """Whether rows that are equal in the order are equal in what is aggregated; else says what to add to ORDER BY."""
        by = {p for b in self._by for p in ([b.column] if b.column else [])} | {p for p, _ in self._block.correlation}
        missing = untold(self._block, by, ordering, values)
        if not missing:
            return True
        name, columns = str(call.this), ", ".join(missing)
        refusal = "order_missing" if not ordering else "order_not_total"
        self._block.statement.mistakes.refuse(call, refusal, name=name, columns=columns)
        return False


def untold(block: Block, by: set[Place], ordering: Sequence[Typed], values: Sequence[Typed] | None) -> list[str]:
    """The columns that an ORDER BY lacks to be total over rows that share `by`, shown as a person would write them.

    Only `values` matter where they are given: rows that are equal in the order and in all that these read may change places.
    """
    proof = block.proof
    told = by | {v.column for v in ordering if v.column and v.type and v.type.kind not in t.FLOATS}
    places, aliases = proof.identified(told)
    read = {p for v in values for p in places_in(v.sql)} if values is not None else None
    if read is not None and all(p in places or p[0] in aliases for p in read):
        return []
    shown = {r.alias: r.shown for r in block.scope.met}
    return [f"{shown[alias]}.{column}" for alias, column in proof.completed(told) if alias in shown]


def ordered(value: Typed, node: exp.Ordered) -> str:
    """An item of ORDER BY: where its nulls go is always said."""
    direction = "DESC" if node.args.get("desc") else "ASC"
    return f"{value.sql} {direction} NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"


def _call(node: exp.Expression) -> tuple[exp.Anonymous, exp.Expression | None, Aggregate] | None:
    inner, condition = (node.this, node.expression.this) if isinstance(node, exp.Filter) else (node, None)
    found = subset.aggregate(str(inner.this)) if isinstance(inner, exp.Anonymous) else None
    return (inner, condition, found) if found is not None else None


def _arguments(call: exp.Anonymous) -> tuple[list[exp.Expression], bool, list[exp.Ordered]]:
    """What is aggregated, whether each value once, and in which order: f([DISTINCT] x, … [ORDER BY …])."""
    nodes, order, distinct = list(call.expressions), [], False
    if nodes and isinstance(nodes[-1], exp.Order):
        order = list(nodes[-1].expressions)
        nodes[-1] = nodes[-1].this
    if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
        distinct, nodes = True, list(nodes[0].expressions)
    return nodes, distinct, order


def calls(node: exp.Expression) -> Iterator[exp.Expression]:
    """The aggregates in `node`, those in subqueries left out."""
    for n in node.walk(prune=lambda n: isinstance(n, exp.Query)):
        if _call(n):
            yield n
