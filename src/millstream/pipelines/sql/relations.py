"""The tables of one query: which input each mention is, and which column a name means."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from millstream.events.types import Field, RowSchema
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes, nearest, suggestion
from millstream.pipelines.sql.typed import UNKNOWN, Typed

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


@dataclass
class Relations:
    """The mentions met so far, in the order of the FROM clause: a scope for `Inference`.

    `not_null` holds the (alias, column) that the WHERE clause keeps from being null.
    """

    qualified: bool
    met: list[Relation] = field(default_factory=list)
    not_null: Collection[tuple[str, str]] = ()

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

    def column(self, node: exp.Column, mistakes: Mistakes) -> Typed:
        if node.args.get("db") or node.args.get("catalog"):
            path = ".".join(p.name for p in node.parts[:-1])
            mistakes.add(node, "unknown_table", f"{path}.{node.name} names a table in full", "write the table's alias before the column")
            return UNKNOWN
        among = self._among(node, mistakes)
        if among is None:
            return UNKNOWN
        found = [(r, f) for r in among for f in [_field(r.schema, node.name, quoted=bool(node.this.args.get("quoted")))] if f]
        if len(found) == 1:
            return self.typed(*found[0])
        if found:
            tables = " and ".join(r.shown for r, _ in found)
            mistakes.add(node, "ambiguous_column", f"{node.name} is a column of {tables}", f"say which: {found[0][0].shown}.{node.name}")
            return UNKNOWN
        names = [name for r in among for name in r.schema.names]
        tables = ", ".join(f"{r.shown} ({r.input})" if r.shown != r.input else r.shown for r in among)
        mistakes.add(node, "unknown_column", f"there is no column {node.name} in {tables}", suggestion(node.name, names, "columns"))
        return UNKNOWN

    def typed(self, relation: Relation, column: Field) -> Typed:
        place = (relation.alias, column.name)
        certain = (column.name in relation.schema.key and not relation.nullable) or place in self.not_null
        sql = f"{quoted(relation.alias)}.{quoted(column.name)}" if self.qualified else quoted(column.name)
        there = f"{flink.quoted(relation.alias)}.{flink.quoted(column.name)}" if self.qualified else flink.quoted(column.name)
        return Typed(sql, column.type, not certain, column=place, flink=there)

    def named(self, name: str) -> Relation | None:
        return next((r for r in self.met if r.shown.casefold() == name.casefold()), None)

    def _among(self, node: exp.Column, mistakes: Mistakes) -> list[Relation] | None:
        if not node.table:
            return self.met
        relation = self.named(node.table)
        if relation is None:
            names = [r.shown for r in self.met]
            mistakes.add(node, "unknown_table", f"no table is called {node.table} here", suggestion(node.table, names, "tables"))
            return None
        return [relation]


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
