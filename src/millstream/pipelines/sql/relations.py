"""The tables of one query: which input each mention is, and which column a name means.

A query inside another sees the outer one's tables too. A subquery that becomes a grouped table of its own cannot: there an outer
column is replaced by the column of its own that is equal to it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from millstream.events.types import Field, RowSchema
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes, nearest, suggestion
from millstream.pipelines.sql.typed import UNKNOWN, Place, Typed

RESERVED = "__ms_"  # begins every name that Millstream makes; no name of a user's does
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Relation:
    """One mention of an input. `shown` is what the query calls it, `alias` what DuckDB does; `nullable`: LEFT JOINed."""

    alias: str
    shown: str
    input: str
    schema: RowSchema
    nullable: bool


class Aliases:
    """Names for the relations of a statement, each once in all of its parts: then alias and column alone name a place."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """`wanted`, or where that is taken, a reserved name like it."""
        name, count = wanted, 1
        while name.casefold() in self._taken:
            count += 1
            name = f"{RESERVED}{wanted.removeprefix(RESERVED)}_{count}"
        self._taken.add(name.casefold())
        return name


@dataclass
class Relations:
    """The mentions met so far, in the order of the FROM clause: a scope for `Inference`.

    `not_null` holds the places that no row of the result has null, `required` the aliases that each of its rows has a row of.
    `merged` are the columns of FULL JOIN … USING. `replaces`: only through it are the columns of `outer` seen (outer place → own).
    """

    qualified: bool
    outer: Relations | None = None
    met: list[Relation] = field(default_factory=list)
    not_null: Collection[Place] = ()
    required: Collection[str] = ()
    merged: dict[str, Typed] = field(default_factory=dict)
    replaces: dict[Place, Typed] | None = None

    def add(self, relation: Relation, node: exp.Expression, mistakes: Mistakes) -> bool:
        """Whether its columns can be named: not where another has its name."""
        folded = relation.shown.casefold()
        if folded.startswith(RESERVED):
            mistakes.add(node, "reserved_name", f"names that begin with {RESERVED} are Millstream's own", "choose another alias")
        if any(r.shown.casefold() == folded for r in self.met):
            cure = f"give one an alias: {relation.input} AS other"
            mistakes.add(node, "alias_twice", f"two tables of this query are called {relation.shown}", cure)
            return False
        _check_columns(relation, node, mistakes)
        self.met.append(relation)
        return True

    # ---- columns ------------------------------------------------------------------------------------------------------
    def column(self, node: exp.Column, mistakes: Mistakes) -> Typed:
        """The column, or a member of a record column: table.column, column, column.member, table.column.member."""
        parts = list(node.parts)
        if len(parts) > 1 and self.named(parts[0].name) is None:
            inside = self.find(parts[0])
            if inside is not None and inside.type is not None and inside.type.kind == "record":
                return _member(inside, parts[1:], node, mistakes)
        if len(parts) > 1:
            relation = self.named(parts[0].name)
            if relation is None and len(parts) > 2:
                path = ".".join(p.name for p in parts[:-1])
                message = f"{path}.{node.name} names a table in full"
                mistakes.add(node, "unknown_table", message, "write the table's alias before the column")
                return UNKNOWN
            if relation is None:
                names = [r.shown for r in self._all()]
                cure = suggestion(parts[0].name, names, "tables")
                mistakes.add(node, "unknown_table", f"no table is called {parts[0].name} here", cure)
                return UNKNOWN
            return _member(self._named_column(parts[0].name, parts[1], node, mistakes), parts[2:], node, mistakes)
        return self._plain(parts[0], node, mistakes)

    def find(self, name: exp.Identifier) -> Typed | None:
        """The column of that name where exactly one table has it, the innermost query's before an outer one's; else None."""
        quiet = Mistakes()
        found = self._plain(name, name, quiet)
        return None if quiet else found

    def owns(self, node: exp.Expression) -> Place | None:
        """The place of a plain column of this query's own tables, if `node` is one."""
        if not isinstance(node, exp.Column):
            return None
        own = Relations(self.qualified, None, self.met, self.not_null, self.required, self.merged)
        return own.column(node, Mistakes()).column

    def _plain(self, name: exp.Identifier, node: exp.Expression, mistakes: Mistakes) -> Typed:
        if name.name.casefold() in self.merged:
            return self.merged[name.name.casefold()]
        quotes = bool(name.args.get("quoted"))
        found = [(r, f) for r in self.met for f in [_field(r.schema, name.name, quotes)] if f]
        if len(found) == 1:
            return self.typed(*found[0])
        if found:
            tables = " and ".join(r.shown for r, _ in found)
            message = f"{name.name} is a column of {tables}"
            mistakes.add(node, "ambiguous_column", message, f"say which: {found[0][0].shown}.{name.name}")
            return UNKNOWN
        if self.outer is not None and self.outer.find(name) is not None:
            return self._from_outer(self.outer._plain(name, node, mistakes), node, mistakes)
        return _no_column(self._all(), name.name, node, mistakes)

    def _named_column(self, table: str, name: exp.Identifier, node: exp.Expression, mistakes: Mistakes) -> Typed:
        own = self._own(table)
        if own is None:
            assert self.outer is not None  # it is named, so some outer query has it
            return self._from_outer(self.outer._named_column(table, name, node, mistakes), node, mistakes)
        column = _field(own.schema, name.name, bool(name.args.get("quoted")))
        return self.typed(own, column) if column else _no_column([own], name.name, node, mistakes)

    def _from_outer(self, value: Typed, node: exp.Expression, mistakes: Mistakes) -> Typed:
        if self.replaces is None or value.type is None:
            return value
        own = self.replaces.get(value.column) if value.column else None
        if own is not None and own.column is not None and own.column[0] in {r.alias for r in self.met}:  # none of a table joined later
            return own
        name = node.sql("duckdb")
        mistakes.refuse(node, "outer_column", name=name)
        return UNKNOWN

    def typed(self, relation: Relation, column: Field) -> Typed:
        place = (relation.alias, column.name)
        present = not relation.nullable or relation.alias in self.required
        certain = (column.name in relation.schema.key and present) or place in self.not_null
        sql = f"{quoted(relation.alias)}.{quoted(column.name)}" if self.qualified else quoted(column.name)
        there = f"{flink.quoted(relation.alias)}.{flink.quoted(column.name)}" if self.qualified else flink.quoted(column.name)
        return Typed(sql, column.type, not certain, column=place, flink=there)

    def named(self, name: str) -> Relation | None:
        """The table called so, of this query or of one around it."""
        own = self._own(name)
        return own if own is not None or self.outer is None else self.outer.named(name)

    def _own(self, name: str) -> Relation | None:
        return next((r for r in self.met if r.shown.casefold() == name.casefold()), None)

    def _all(self) -> list[Relation]:
        return [*self.met, *(self.outer._all() if self.outer else ())]


def _no_column(among: list[Relation], name: str, node: exp.Expression, mistakes: Mistakes) -> Typed:
    names = [n for r in among for n in r.schema.names]
    tables = ", ".join(f"{r.shown} ({r.input})" if r.shown != r.input else r.shown for r in among)
    mistakes.add(node, "unknown_column", f"there is no column {name} in {tables}", suggestion(name, names, "columns"))
    return UNKNOWN


def _member(value: Typed, names: list[exp.Identifier], node: exp.Expression, mistakes: Mistakes) -> Typed:
    for name in names:
        value = member(value, name, node, mistakes)
    return value


def member(value: Typed, name: exp.Identifier, node: exp.Expression, mistakes: Mistakes) -> Typed:
    """A member of a record value: null where the record is."""
    if value.type is None:
        return UNKNOWN
    if value.type.kind != "record":
        message = f"{name.name} is asked of a {value.type}, which has no members"
        mistakes.add(node, "type_clash", message, "only a record has members: {name: x}")
        return UNKNOWN
    fields = RowSchema(value.type.fields, ())
    found = _field(fields, name.name, bool(name.args.get("quoted")))
    if found is None:
        cure = suggestion(name.name, fields.names, "members")
        mistakes.add(node, "unknown_column", f"there is no member {name.name} in {value.type}", cure)
        return UNKNOWN
    text = found.name.replace("'", "''")
    return Typed(f"struct_extract({value.sql}, '{text}')", found.type, nullable=True)


def _field(schema: RowSchema, name: str, quoted: bool) -> Field | None:
    """By its exact name; an unquoted name also without regard to case (no input has two that differ only in case)."""
    exact = next((f for f in schema.fields if f.name == name), None)
    if exact is not None or quoted:
        return exact
    return next((f for f in schema.fields if f.name.casefold() == name.casefold()), None)


def _check_columns(relation: Relation, node: exp.Expression, mistakes: Mistakes) -> None:
    seen: dict[str, str] = {}
    for f in relation.schema.fields:
        name, folded = f.name, f.name.casefold()
        if (f.type.precision or 0) > t.PRECISION_MAX:
            message = f"{relation.input} has a column {name} of {f.type}: Millstream SQL has {t.PRECISION_MAX} digits"
            mistakes.add(node, "type_too_wide", message, f"declare at most {t.PRECISION_MAX} digits at the source")
        if folded in seen:
            cure = "rename one at the source"
            mistakes.add(
                node, "names_differ_in_case", f"{relation.input} has columns {seen[folded]} and {name}, which SQL cannot tell apart", cure
            )
        if folded.startswith(RESERVED):
            mistakes.add(
                node, "reserved_name", f"{relation.input} has a column {name}; {RESERVED}… is Millstream's own", "rename it at the source"
            )
        seen[folded] = name


def table_name(node: exp.Table) -> str:
    """The name as a topic's or step's: its parts with dots."""
    return ".".join(p.name for p in node.parts)


def unknown_table(name: str, known: Mapping[str, RowSchema], mistakes: Mistakes, node: exp.Expression) -> None:
    """Notes that there is no such input, with what comes nearest."""
    source = name.partition(".")[0]
    siblings = {k[len(source) + 1 :]: k for k in known if k.startswith(source + ".")}
    if "." in name and siblings:
        rest = name[len(source) + 1 :]
        near = nearest(rest, siblings)
        cure = (
            f"did you mean {siblings[near]}?"
            if near
            else f"{source} has {', '.join(sorted(siblings))}; or add the table to the source's tables"
        )
        mistakes.add(node, "unknown_table", f"{source} has no table or step {rest}", cure)
        return
    ends = {k.rpartition(".")[2]: k for k in known}
    near = nearest(name, known) or nearest(name.rpartition(".")[2], ends)
    what = "source, pipeline or step" if "." in name else "earlier step"
    cure = f"did you mean {ends.get(near, near)}?" if near else suggestion(name, known, "inputs")
    mistakes.add(node, "unknown_table", f"there is no {what} for {name}", cure)
