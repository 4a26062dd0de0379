"""A SELECT → its tables, joins, condition and columns, each typed; what is outside the subset is refused.

Nothing here knows of keys or plans: `joins.py` proves and orders, `compile.py` puts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from millstream.events.types import RowSchema, Type
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.infer import Inference
from millstream.pipelines.sql.mistakes import Mistakes, offset_of
from millstream.pipelines.sql.relations import NAME, RESERVED, Relation, Relations, quoted, table_name, unknown_table
from millstream.pipelines.sql.typed import Typed


@dataclass(frozen=True)
class Column:
    """An output column. `source`: the (alias, column) that it is, unless it is computed."""

    name: str
    sql: str
    type: Type
    nullable: bool
    source: tuple[str, str] | None
    offset: int


@dataclass(frozen=True)
class Equality:
    """ON left = right, both plain columns: (alias, column). `left` is of the joined table, `right` of an earlier one."""

    left: tuple[str, str]
    right: tuple[str, str]


@dataclass(frozen=True)
class Join:
    """`fixed` are the columns of the joined table that ON sets equal to a literal."""

    relation: Relation
    left: bool
    on: str
    equalities: tuple[Equality, ...]
    fixed: frozenset[str]
    offset: int


@dataclass(frozen=True)
class Query:
    root: Relation
    joins: tuple[Join, ...]
    where: str | None
    columns: tuple[Column, ...]
    offset: int

    @property
    def sql(self) -> str:
        """DuckDB text; each relation is a table named by its alias."""
        columns = ", ".join(f"{c.sql} AS {quoted(c.name)}" for c in self.columns)
        joins = "".join(f" {'LEFT' if j.left else 'INNER'} JOIN {quoted(j.relation.alias)} ON {j.on}" for j in self.joins)
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {columns} FROM {quoted(self.root.alias)}{joins}{where}"


_LATER = "make it behind the sink, or wait for the part of Millstream SQL that has it"
_CLAUSES: Mapping[str, tuple[str, str]] = {
    "with_": ("WITH", "make each WITH query a step of its own"),
    "distinct": ("DISTINCT", "a step has one row per key already: choose columns that hold the key"),
    "group": ("GROUP BY", _LATER),
    "having": ("HAVING", _LATER),
    "qualify": ("QUALIFY", _LATER),
    "windows": ("WINDOW", _LATER),
    "order": ("ORDER BY", "a topic has no order over keys; order where it is read"),
    "limit": ("LIMIT", "a row that comes would push another out; filter with WHERE"),
    "offset": ("OFFSET", "a row that comes would push another out; filter with WHERE"),
    "sample": ("SAMPLE", "filter by a key: WHERE id % 100 = 0"),
    "pivots": ("PIVOT", "write one CASE per column"),
    "laterals": ("LATERAL", "make it a step of its own and join it"),
    "into": ("INTO", "sinks say where rows go"),
}
_JOIN_CURE = "write FROM a [LEFT] JOIN b ON b.id = a.b_id"


def bind(select: exp.Select, known: Mapping[str, RowSchema], mistakes: Mistakes) -> Query | None:
    """The query over `known` inputs (topics and earlier steps, by name); None where there are mistakes."""
    _refuse_clauses(select, {"expressions", "from_", "joins", "where"}, mistakes)
    from_ = select.args.get("from_")
    if from_ is None:
        mistakes.add(
            select, "not_in_subset", "there is no FROM", "a step reads a topic or an earlier step: SELECT … FROM source.schema.table"
        )
        return None
    joins = select.args.get("joins") or []
    relations = Relations(qualified=bool(joins))
    infer = Inference(relations, mistakes)
    root = _relation(from_.this, known, relations, False, mistakes)
    bound = [_join(j, known, relations, infer, mistakes) for j in joins] if root else []
    if root is None or any(b is None for b in bound):
        return None
    where = select.args.get("where")
    condition = infer.condition(where.this, "WHERE").sql if where else None
    relations.not_null = frozenset(_never_null(where.this, relations)) if where else frozenset()
    columns = tuple(_columns(select, relations, infer, mistakes))
    _refuse_twice(columns, mistakes)
    return None if mistakes else Query(root, tuple(b for b in bound if b), condition, columns, offset_of(select))


# ---- FROM and JOIN ----------------------------------------------------------------------------------------------------
def _relation(
    node: exp.Expression, known: Mapping[str, RowSchema], relations: Relations, nullable: bool, mistakes: Mistakes
) -> Relation | None:
    if not isinstance(node, exp.Table) or not all(isinstance(p, exp.Identifier) for p in node.parts):
        what = "a subquery" if isinstance(node, exp.Subquery) else "anything but a table's name"
        mistakes.add(node, "not_in_subset", f"{what} in FROM is not part of Millstream SQL", "make it a step of its own and name that step")
        return None
    _refuse_clauses(node, {"this", "db", "catalog", "alias"}, mistakes)
    name, alias = table_name(node), node.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        mistakes.add(
            alias, "not_in_subset", "renaming columns in FROM is not part of Millstream SQL", "name columns with AS in the SELECT list"
        )
    schema = known.get(name)
    if schema is None:
        unknown_table(name, known, mistakes, node)
        return None
    given = alias.this.name if alias is not None else ""
    shown = given or node.name
    relation = Relation(given or RESERVED + shown, shown, name, schema, nullable)
    return relation if relations.add(relation, node, mistakes) else None


def _join(node: exp.Join, known: Mapping[str, RowSchema], relations: Relations, infer: Inference, mistakes: Mistakes) -> Join | None:
    side, kind, method = (str(node.args.get(a) or "").upper() for a in ("side", "kind", "method"))
    refused = _refused_join(node, side, kind, method)
    if refused:
        mistakes.add(node, "not_in_subset", f"{refused[0]} is not part of Millstream SQL", refused[1])
        return None
    _refuse_clauses(node, {"this", "side", "kind", "method", "on"}, mistakes)
    relation = _relation(node.this, known, relations, side == "LEFT", mistakes)
    if relation is None:
        return None
    on = node.args["on"]
    condition = infer.condition(on, "ON")
    if condition.type is None:
        return None
    equalities, fixed = _equalities(on, relation, infer)
    if not equalities:
        mine = f"{relation.shown}.{(relation.schema.key or ('id',))[0]}"
        cure = f"join by a column: ON {mine} = …; if a side is computed, make it a column of a step first"
        message = f"{relation.shown} is joined without an equality between a column of its own and one of an earlier table"
        mistakes.add(on, "join_without_equality", message, cure)
        return None
    return (
        None
        if _types_differ(on, equalities, relations, mistakes)
        else Join(relation, side == "LEFT", condition.sql, tuple(equalities), frozenset(fixed), offset_of(node))
    )


def _refused_join(node: exp.Join, side: str, kind: str, method: str) -> tuple[str, str] | None:
    if method:
        return f"{method} JOIN", _JOIN_CURE
    if side in ("RIGHT", "FULL"):
        return f"{side} JOIN", "put the table whose rows must all be there first, and LEFT JOIN the others"
    if kind not in ("", "INNER", "OUTER"):
        return f"{kind} JOIN", _JOIN_CURE
    if node.args.get("using"):
        return "JOIN … USING", "write ON a.x = b.x"
    if isinstance(node.this, exp.Lateral):
        return "LATERAL", "make it a step of its own and join it"
    if node.args.get("on") is None:
        return "a comma or a JOIN without ON", _JOIN_CURE
    return None


def _equalities(on: exp.Expression, relation: Relation, infer: Inference) -> tuple[list[Equality], set[str]]:
    """The conjuncts of ON that tie a column of `relation` to an earlier table's, and to a constant."""
    tied, fixed = [], set()
    for part in _conjuncts(on):
        if not isinstance(part, exp.EQ):
            continue
        sides = [(infer.typed(n), n) for n in (part.this, part.expression)]
        for (mine, _), (other, node) in (sides, sides[::-1]):
            if mine.column is None or mine.column[0] != relation.alias:
                continue
            if other.column is None:
                # Beside a float an integer becomes one, and several integers become the same float.
                if node.find(exp.Column) is None and other.type and other.type.kind not in t.FLOATS:
                    fixed.add(mine.column[1])
            elif other.column[0] != relation.alias:
                tied.append(Equality(mine.column, other.column))
                break
    return tied, fixed


def _types_differ(on: exp.Expression, equalities: list[Equality], relations: Relations, mistakes: Mistakes) -> bool:
    """A join key must have one type on both sides: it is looked up as it is, never cast."""
    schemas = {r.alias: (r.shown, r.schema) for r in relations.met}
    differ = False
    for e in equalities:
        (shown, schema), (other_shown, other) = schemas[e.left[0]], schemas[e.right[0]]
        mine, theirs = schema[e.left[1]].type, other[e.right[1]].type
        if mine != theirs:
            message = f"join keys of different types: {shown}.{e.left[1]} is {mine}, {other_shown}.{e.right[1]} is {theirs}"
            mistakes.add(on, "type_clash", message, f"make it a step: CAST {e.right[1]} to {mine} there, and join that step")
            differ = True
    return differ


def _conjuncts(node: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(node, exp.Paren):
        yield from _conjuncts(node.this)
    elif isinstance(node, exp.And):
        for part in node.flatten():
            yield from _conjuncts(part)
    else:
        yield node


# ---- WHERE and the SELECT list ----------------------------------------------------------------------------------------
def _never_null(where: exp.Expression, relations: Relations) -> Iterator[tuple[str, str]]:
    """Columns that a row passing the condition holds: c IS NOT NULL, or c compared with something."""
    quiet = Mistakes()
    for part in _conjuncts(where):
        named = []
        if isinstance(part, exp.Not) and isinstance(part.this, exp.Is) and isinstance(part.this.expression, exp.Null):
            named = [part.this.this]
        elif isinstance(part, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE):
            named = [part.this, part.expression]
        elif isinstance(part, exp.In | exp.Between | exp.Like | exp.ILike):
            named = [part.this]
        for node in named:
            place = relations.column(node, quiet).column if isinstance(node, exp.Column) else None
            if place:
                yield place


def _columns(select: exp.Select, relations: Relations, infer: Inference, mistakes: Mistakes) -> Iterator[Column]:
    for node in select.expressions:
        starred = _starred(node, relations, mistakes)
        if starred is not None:
            for relation in starred:
                for f in relation.schema.fields:
                    value = relations.typed(relation, f)
                    if value.type is not None:
                        yield Column(f.name, value.sql, value.type, value.nullable, value.column, offset_of(node))
            continue
        value = infer.typed(node.this if isinstance(node, exp.Alias) else node)
        name = _name(node, value, mistakes)
        if value.null:
            mistakes.add(node, "null_literal", "a column that is always NULL has no type", "give it one: CAST(NULL AS TEXT) AS name")
        if name and value.type is not None:
            yield Column(name, value.sql, value.type, value.nullable, value.column, offset_of(node))


def _starred(node: exp.Expression, relations: Relations, mistakes: Mistakes) -> list[Relation] | None:
    """The relations whose columns `*` or `alias.*` stands for; None: it is no star."""
    star = node if isinstance(node, exp.Star) else node.this if isinstance(node, exp.Column) and isinstance(node.this, exp.Star) else None
    if star is None:
        return None
    if any(star.args.values()):
        mistakes.add(node, "not_in_subset", "* EXCLUDE, REPLACE and RENAME are not part of Millstream SQL", "name the columns")
        return []
    if star is node:
        return relations.met
    relation = relations.named(node.args["table"].name)
    if relation is None:
        names = ", ".join(r.shown for r in relations.met)
        mistakes.add(node, "unknown_table", f"no table is called {node.args['table'].name} here", f"known tables: {names}")
        return []
    return [relation]


def _name(node: exp.Expression, value: Typed, mistakes: Mistakes) -> str | None:
    if not isinstance(node, exp.Alias):
        if value.column is not None:
            return value.column[1]
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


def _refuse_clauses(node: exp.Expression, allowed: set[str], mistakes: Mistakes) -> None:
    for name, value in node.args.items():
        if name in allowed or not value:
            continue
        what, cure = _CLAUSES.get(name, (name.strip("_").upper().replace("_", " "), "leave it out"))
        at = value[0] if isinstance(value, list) else value
        mistakes.add(at if isinstance(at, exp.Expression) else node, "not_in_subset", f"{what} is not part of Millstream SQL", cure)
