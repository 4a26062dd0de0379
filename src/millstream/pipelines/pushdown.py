"""`push_down: true`: what the first step of a pipeline takes of its table becomes a derived table of the source, which the step then reads.

The step's text stays as it is and runs over the derived topic, so that what comes of it is what comes of the table: the source leaves out
rows and columns that the step would leave out, never more. Taken are the columns that the step names and those parts of its WHERE, joined
by AND, that are columns against literals (`sources.filters` reads what is written here); whatever else it asks, it asks itself.
Design §5.1; docs/how-to/derive-tables.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.definitions import PipelineDefinition, Pushed, SourceDefinition
from millstream.pipelines.diagnostics import Diagnostic
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.relations import table_name

_TABLE = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")
_OPS = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_SAME = frozenset(("boolean", "int32", "int64", "text", "decimal"))
"""Kinds of columns of which a source and a step say the same. A decimal may be NaN, which a topic has as null."""


@dataclass(frozen=True)
class Leading:
    """What a step takes of its only table. `columns` None: all of them. `where` in the language of derived tables; "": all rows."""

    table: str
    columns: tuple[str, ...] | None
    where: str
    compared: tuple[tuple[str, bool], ...]


class _NoneSuch(Exception):
    """Why nothing can be pushed down."""


def pushed(
    sources: Iterable[SourceDefinition], pipelines: Iterable[PipelineDefinition], derives: Collection[str]
) -> tuple[tuple[SourceDefinition, ...], tuple[PipelineDefinition, ...], list[Diagnostic]]:
    """With the derived tables that pipelines ask for; and why some of them cannot. `derives`: connectors that know derived tables."""
    by_name = {s.name: s for s in sources}
    done: list[PipelineDefinition] = []
    mistakes: list[Diagnostic] = []
    for p in pipelines:
        try:
            done.append(_pushed(p, by_name, derives) if p.push_down else p)
        except _NoneSuch as why:
            done.append(p)
            cure = "leave push_down away, or let the first step be SELECT … FROM one table of a CockroachDB source WHERE …"
            mistakes.append(p.mistake(f"pipelines.{p.name}.push_down", "push_down", f"nothing can be pushed down: {why}", cure))
    return tuple(by_name.values()), tuple(done), mistakes


def _pushed(p: PipelineDefinition, sources: dict[str, SourceDefinition], derives: Collection[str]) -> PipelineDefinition:
    """The pipeline with what it reads instead; the table is added to `sources`."""
    if not p.steps:
        raise _NoneSuch("the pipeline has no steps")
    found = leading(p.steps[0].sql)
    source, _, table = found.table.partition(".")
    if source not in sources:
        raise _NoneSuch(f"the first step reads {found.table}, which is no source's table")
    if sources[source].connector not in derives:
        raise _NoneSuch(f"{source} is a {sources[source].connector}, which has no derived tables")
    if not _TABLE.fullmatch(table):
        raise _NoneSuch(f"{table} is no plain name of small letters")
    if any(found.table == name for step in p.steps[1:] for name in _read(step.sql)) or any(s.input == found.table for s in p.sinks):
        raise _NoneSuch(f"{found.table} is read by more than the first step")
    entry: dict[str, Any] = {"table": table}
    entry |= {"select": list(found.columns)} if found.columns is not None else {}
    entry |= {"where": found.where} if found.where else {}
    if len(entry) == 1:
        raise _NoneSuch("the first step takes all columns, and leaves out no row by a condition that a source knows")
    # A topic stays with what it was begun with: another condition is another table.
    name = f"{table}_{hashlib.sha256(repr(entry).encode()).hexdigest()[:8]}"
    of = sources[source]
    if name not in of.tables:
        sources[source] = replace(of, tables=(*of.tables, name), derived={**of.derived, name: {**entry, "as": name}})
    return replace(p, instead={found.table: Pushed(f"{source}.{name}", found.compared)})


def leading(sql: str) -> Leading:
    """Raises _NoneSuch where the text is more than rows and columns of one table."""
    mistakes = Mistakes()
    select = parse(sql, mistakes)
    if select is None:
        raise _NoneSuch("the first step cannot be read")
    given = {name for name, value in select.args.items() if value} if isinstance(select, exp.Select) else {"union"}
    if given - {"expressions", "from_", "where", "kind"} or not isinstance(table := select.args["from_"].this, exp.Table):
        raise _NoneSuch("the first step is more than columns and a condition of one table")
    if any(select.find(kind) for kind in (exp.Subquery, exp.Window, exp.AggFunc, exp.Join)) or len(list(select.find_all(exp.Select))) > 1:
        raise _NoneSuch("the first step is more than columns and a condition of one table")
    columns = None if select.find(exp.Star) else tuple(sorted({_name(c) for c in select.find_all(exp.Column)}))
    where = select.args.get("where")
    parts = [said for part in _parts(where.this) if (said := _said(part)) is not None] if where is not None else []
    compared = tuple(dict.fromkeys(leaf for _, leaves in parts for leaf in leaves))
    return Leading(table_name(table), columns, " AND ".join(f"({text})" for text, _ in parts), compared)


def unlike(compared: Iterable[tuple[str, bool]], types: Mapping[str, Type]) -> Iterator[str]:
    """The columns of a pushed condition of which source and step might not say the same, with their types."""
    for name, is_null in compared:
        if name in types and (types[name].kind not in _SAME or (is_null and types[name].kind == "decimal")):
            yield f"{name} is {types[name]}"


def instead(select: exp.Query, topics: Mapping[str, str]) -> None:
    """Have the query read other topics, each of which differs in its last name alone; it calls them as before."""
    for table in select.find_all(exp.Table):
        if (other := topics.get(table_name(table))) is not None:
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
            table.this.set("this", other.rpartition(".")[2])


def _read(sql: str) -> list[str]:
    select = parse(sql, Mistakes())
    return [] if select is None else [table_name(t) for t in select.find_all(exp.Table)]


# ---- conditions, in the language of derived tables: the text, and the columns compared (with whether for null)

_Said = tuple[str, tuple[tuple[str, bool], ...]]


def _parts(node: exp.Expression) -> Iterator[exp.Expression]:
    """What is joined by AND."""
    match node:
        case exp.Paren():
            yield from _parts(node.this)
        case exp.And():
            yield from _parts(node.left)
            yield from _parts(node.right)
        case _:
            yield node


def _said(node: exp.Expression) -> _Said | None:
    match node:
        case exp.Paren():
            return _around("({})", _said(node.this))
        case exp.And() | exp.Or():
            word = "AND" if isinstance(node, exp.And) else "OR"
            left, right = _said(node.left), _said(node.right)
            return None if left is None or right is None else (f"({left[0]}) {word} ({right[0]})", (*left[1], *right[1]))
        case exp.Not():
            return _around("NOT ({})", _said(node.this))
        case exp.Column():
            return _written(node), ((_name(node), False),)
        case exp.Is() if isinstance(node.this, exp.Column) and isinstance(node.expression, exp.Null):
            return f"{_written(node.this)} IS NULL", ((_name(node.this), True),)
        case exp.In() if isinstance(node.this, exp.Column) and node.expressions:
            values = [_literal(e) for e in node.expressions]
            return _of(node.this, f"IN ({', '.join(v for v in values if v is not None)})", None not in values)
        case exp.Between() if isinstance(node.this, exp.Column):
            low, high = _literal(node.args["low"]), _literal(node.args["high"])
            return _of(node.this, f"BETWEEN {low} AND {high}", low is not None and high is not None)
        case _ if (op := _OPS.get(type(node))) is not None:
            return _comparison(node, op)
    return None


def _comparison(node: exp.Expression, op: str) -> _Said | None:
    left, right = node.args["this"], node.args["expression"]
    if isinstance(left, exp.Column) and (value := _literal(right)) is not None:
        return f"{_written(left)} {op} {value}", ((_name(left), False),)
    if isinstance(right, exp.Column) and (value := _literal(left)) is not None:
        return f"{value} {op} {_written(right)}", ((_name(right), False),)
    return None


def _around(form: str, said: _Said | None) -> _Said | None:
    return None if said is None else (form.format(said[0]), said[1])


def _of(column: exp.Column, text: str, is_whole: bool) -> _Said | None:
    return (f"{_written(column)} {text}", ((_name(column), False),)) if is_whole else None


def _literal(node: exp.Expression) -> str | None:
    match node:
        case exp.Literal() if node.is_string:
            return "'" + str(node.this).replace("'", "''") + "'"
        case exp.Literal():
            # With an exponent it is a FLOAT64 to the step, and an exact number to the source.
            return None if "e" in node.this.lower() else str(node.this)
        case exp.Neg() if isinstance(node.this, exp.Literal) and not node.this.is_string and (value := _literal(node.this)) is not None:
            return f"-{value}"
        case exp.Boolean():
            return "true" if node.this else "false"
    return None


def _name(column: exp.Column) -> str:
    name = str(column.name)
    return name if column.this.args.get("quoted") else name.lower()


def _written(column: exp.Column) -> str:
    return '"' + _name(column).replace('"', '""') + '"'
