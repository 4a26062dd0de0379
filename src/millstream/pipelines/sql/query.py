"""A SELECT → its rows, how they are grouped or picked, and its columns, each typed; what is outside the subset is refused.

Nothing here knows of keys or plans: `pipelines/keys.py` proves what identifies a row, `pipelines/nodes.py` puts together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.sql.block import Block, Inputs, Statement, bind_block, refuse_clauses
from millstream.pipelines.sql.groups import By, Grouped, grouped_by
from millstream.pipelines.sql.infer import Inference
from millstream.pipelines.sql.mistakes import Mistakes, offset_of
from millstream.pipelines.sql.relations import NAME, RESERVED, Aliases, Relation, quoted
from millstream.pipelines.sql.subqueries import forms
from millstream.pipelines.sql.typed import Place, Typed
from millstream.pipelines.sql.windows import Top, top

_CLAUSES = {"expressions", "from_", "joins", "where", "group", "having", "qualify", "with_"}


@dataclass(frozen=True)
class Column:
    """An output column. `source`: the place that it is, unless it is computed. `literal`: it is this constant in every row."""

    name: str
    sql: str
    type: Type
    nullable: bool
    source: Place | None
    offset: int
    literal: str | None = None


@dataclass(frozen=True)
class Query:
    """`by` is what it is grouped by, or what the Top-N of `picked` is partitioned by."""

    block: Block
    columns: tuple[Column, ...]
    offset: int
    by: tuple[By, ...] = ()
    grouped: bool = False
    having: str | None = None
    picked: Top | None = None

    @property
    def root(self) -> Relation:
        assert self.block.root is not None
        return self.block.root

    @property
    def stateless(self) -> bool:
        """Whether each row of the input makes its row, or none, by itself."""
        return not (self.block.joins or self.block.inner or self.grouped or self.picked)

    @property
    def sql(self) -> str:
        """DuckDB text; each relation is a table named by its alias."""
        columns = ", ".join(f"{c.sql} AS {quoted(c.name)}" for c in self.columns)
        group = f" GROUP BY {', '.join(b.value.sql for b in self.by)}" if self.grouped else ""
        having = f" HAVING {self.having}" if self.having else ""
        qualify = f" QUALIFY {self.picked.condition}" if self.picked else ""
        return f"SELECT {columns}{self.block.text}{group}{having}{qualify}"


def bind(select: exp.Select, inputs: Inputs, mistakes: Mistakes) -> Query | None:
    """The query; None where there are mistakes."""
    group = select.args.get("group")
    refuse_clauses(select, _CLAUSES - (set() if group else {"having"}), mistakes)
    alone = not (select.args.get("joins") or group or select.args.get("qualify") or _subquery(select))
    block = bind_block(select, Statement(inputs, mistakes, Aliases(), forms), None, qualified=not alone)
    if block is None:
        return None
    if group is not None:
        return _groups(select, block, mistakes)
    picked = None
    if select.args.get("qualify"):
        if block.full:  # units are by the columns of USING there
            mistakes.refuse(select.args["qualify"], "qualify_over_full_join")
            return None
        picked = top(select, block)
        if picked is None:
            return None
        over = picked
        block.infer.admit(exp.Window, lambda n: over.typed(n, block))
    columns = tuple(_columns(select, block, block.infer, mistakes))
    _refuse_twice(columns, mistakes)
    by = picked.by if picked else ()
    return None if mistakes else Query(block, columns, offset_of(select), by, picked=picked)


def _subquery(select: exp.Select) -> bool:
    """Whether an expression of it holds a query."""
    parts = [*select.expressions, *([select.args["where"]] if select.args.get("where") else [])]
    return any(part.find(exp.Query) is not None for part in parts)


def _groups(select: exp.Select, block: Block, mistakes: Mistakes) -> Query | None:
    if select.args.get("qualify"):
        mistakes.refuse(select.args["qualify"], "qualify_over_groups")
    by = grouped_by(select, block)
    if not by and mistakes:
        return None
    infer = Grouped(block, by)
    columns = tuple(_columns(select, block, infer, mistakes))
    having = select.args.get("having")
    condition = infer.condition(having.this, "HAVING").sql if having else None
    _refuse_twice(columns, mistakes)
    return None if mistakes else Query(block, columns, offset_of(select), by, grouped=True, having=condition)


# ---- the SELECT list -----------------------------------------------------------------------------------------------------
def _columns(select: exp.Select, block: Block, infer: Inference, mistakes: Mistakes) -> Iterator[Column]:
    for node in select.expressions:
        starred = _starred(node, block, mistakes)
        if starred is not None:
            if isinstance(infer, Grouped) and starred:
                mistakes.refuse(node, "star_over_groups")
                continue
            for called, value in starred:
                if value.type is not None:
                    yield Column(called, value.sql, value.type, value.nullable, value.column, offset_of(node))
            continue
        value = infer.typed(node.this if isinstance(node, exp.Alias) else node)
        name = _name(node, value, mistakes)
        if value.null:
            mistakes.add(node, "null_literal", "a column that is always NULL has no type", "give it one: CAST(NULL AS TEXT) AS name")
        if name and value.type is not None:
            constant = str(value.constant) if value.constant is not None else value.literal
            yield Column(name, value.sql, value.type, value.nullable, value.column, offset_of(node), constant)


def _starred(node: exp.Expression, block: Block, mistakes: Mistakes) -> list[tuple[str, Typed]] | None:
    """The columns that `*` or `alias.*` stands for; None: it is no star."""
    star = node if isinstance(node, exp.Star) else node.this if isinstance(node, exp.Column) and isinstance(node.this, exp.Star) else None
    if star is None:
        return None
    if any(star.args.values()):
        mistakes.refuse(node, "star_except")
        return []
    scope = block.scope
    if star is node:
        once = [scope.merged[name.casefold()] for name in scope.met[0].schema.names if name.casefold() in scope.merged]
        names = [name for name in scope.met[0].schema.names if name.casefold() in scope.merged]
        return [*zip(names, once, strict=True)] + [
            (f.name, scope.typed(r, f)) for r in scope.met for f in r.schema.fields if f.name.casefold() not in scope.merged
        ]
    relation = scope.named(node.args["table"].name)
    if relation is None or relation not in scope.met:
        shown = ", ".join(r.shown for r in scope.met)
        mistakes.add(node, "unknown_table", f"no table is called {node.args['table'].name} here", f"known tables: {shown}")
        return []
    return [(f.name, scope.typed(relation, f)) for f in relation.schema.fields]


def _name(node: exp.Expression, value: Typed, mistakes: Mistakes) -> str | None:
    if not isinstance(node, exp.Alias):
        if value.column is not None:
            return value.column[1]
        if isinstance(node, exp.Column) and value.type is not None and NAME.fullmatch(node.name):
            return str(node.name)
        if value.type is not None:
            mistakes.add(node, "no_name", "a computed column needs a name", "write … AS name")
        return None
    name = str(node.alias)
    if not NAME.fullmatch(name) or name.casefold().startswith(RESERVED):
        cure = f"use letters, digits and _, not first a digit, not {RESERVED}…"
        mistakes.add(node.args["alias"], "bad_name", f"{name!r} cannot name a column", cure)
        return None
    return name


def _refuse_twice(columns: tuple[Column, ...], mistakes: Mistakes) -> None:
    seen: set[str] = set()
    for c in columns:
        if c.name.casefold() in seen:
            mistakes.add(c.offset, "column_twice", f"two columns are called {c.name}", "name the columns and give one another name with AS")
        seen.add(c.name.casefold())
