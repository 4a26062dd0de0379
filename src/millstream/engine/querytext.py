"""A person's query, read before it is run: one SELECT over tables that are known, and what of them it needs.

What is run is the text that is written anew from what was read here, so nothing gets past that DuckDB would read in another way.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from millstream.errors import Refused
from millstream.pipelines.sql.mistakes import suggestion

TEXT_MAX = 100_000


@dataclass(frozen=True)
class Read:
    """A table that the query names. `relation` stands for it in the text; `words`: every name in the query, so that the columns that are
    not among them are not needed (None: all are); `where`: a condition that holds for every row of it that counts, over the columns
    `filters`."""

    name: str
    relation: str
    words: frozenset[str] | None
    where: str | None = None
    filters: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Query:
    sql: str
    reads: tuple[Read, ...]


def understood(text: str, known: Collection[str]) -> Query:
    """Raises Refused with what is wrong and its cure: several statements, anything but a SELECT, a table that is not in `known`."""
    select = _parsed(text)
    _check_calls(select)
    places = [t for t in select.find_all(exp.Table) if not _is_cte(t)]
    by_name: dict[str, list[exp.Table]] = {}
    for table in places:
        by_name.setdefault(_name(table), []).append(table)
    for name in by_name:
        if name not in known:
            cure = suggestion(name, [_as_written(n) for n in known], "tables")
            raise Refused(f"there is no table {name}", code="table_unknown", cure=cure)
    words = _words(select)
    condition = _condition(select, places)
    reads = []
    for number, (name, tables) in enumerate(by_name.items()):
        relation = f"r{number}"
        columns = frozenset(c.name.lower() for c in condition.find_all(exp.Column)) if condition is not None else frozenset()
        plain = None if condition is None else _plain(condition).sql(dialect="duckdb")
        reads.append(Read(name, relation, words, plain, columns))
        for table in tables:
            _stand_in(table, relation)
    return Query(select.sql(dialect="duckdb"), tuple(reads))


def _as_written(name: str) -> str:
    """A topic's name as a query writes it: a word that is not plain stands in quotes."""
    return ".".join(word if re.fullmatch(r"\w+", word) else f'"{word}"' for word in name.split("."))


def _parsed(text: str) -> exp.Expression:
    if len(text) > TEXT_MAX:
        raise Refused(f"the query has more than {TEXT_MAX:,} characters", code="query_too_long", cure="make it shorter")
    try:
        statements = [s for s in sqlglot.parse(text, read="duckdb") if s is not None]
    except (sqlglot.errors.SqlglotError, RecursionError) as e:
        said = str(e).split("\n", 1)[0] or type(e).__name__
        cure = "write one SELECT, as DuckDB has it" + ('; a name with @ stands in quotes: "movie@2".movie' if "@" in text else "")
        raise Refused(f"the query cannot be read: {said}", code="query_unreadable", cure=cure) from None
    if len(statements) != 1:
        raise Refused(f"there are {len(statements)} statements", code="query_not_one", cure="write one SELECT")
    select = statements[0]
    if not isinstance(select, exp.Query) or any(
        isinstance(n, exp.DML | exp.DDL | exp.Command | exp.Into) and not isinstance(n, exp.Query) for n in select.walk()
    ):
        raise Refused("only SELECT can be asked", code="query_not_select", cure="a query changes nothing: write one SELECT")
    return select


def _check_calls(select: exp.Expression) -> None:
    """Tables made by functions reach files, settings and other databases."""
    for table in select.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            said = table.sql(dialect="duckdb")
            raise Refused(
                f"{said} is no table here", code="table_function", cure="name topics and tables of states: `millstream query --tables`"
            )


def _is_cte(table: exp.Table) -> bool:
    if table.db:
        return False
    scope: exp.Expression | None = table
    while scope is not None:
        given = scope.args.get("with_") or scope.args.get("with")
        if given is not None and any(c.alias_or_name == table.name for c in given.expressions):
            return True
        scope = scope.parent
    return False


def _name(table: exp.Table) -> str:
    return ".".join(part.name for part in table.parts)


def _stand_in(table: exp.Table, relation: str) -> None:
    alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name, quoted=True))
    new = exp.Table(this=exp.to_identifier(relation, quoted=True), alias=alias.copy())
    for key in ("joins", "laterals", "sample", "pivots"):
        if table.args.get(key):
            new.set(key, table.args[key])
    table.replace(new)


def _words(select: exp.Expression) -> frozenset[str] | None:
    """None where a * asks for whatever there is."""
    for star in select.find_all(exp.Star, exp.Columns):
        if not isinstance(star.parent, exp.Count):
            return None
    return frozenset(i.name.lower() for i in select.find_all(exp.Identifier))


def _condition(select: exp.Expression, places: Sequence[exp.Table]) -> exp.Expression | None:
    """The WHERE of a query over one table, where that is plainly a filter of its rows."""
    where = select.args.get("where") if isinstance(select, exp.Select) else None
    if where is None or len(places) != 1 or select.args.get("joins") or select.args.get("laterals"):
        return None
    table = places[0]
    if (
        not isinstance(table.parent, exp.From)
        or table.parent.parent is not select
        or any(table.args.get(k) for k in ("joins", "laterals", "sample"))
    ):
        return None
    own = {"", table.alias_or_name}
    if any(
        isinstance(n, exp.Query | exp.Subquery | exp.Window) or (isinstance(n, exp.Column) and n.table not in own) for n in where.walk()
    ):
        return None
    return where.this


def _plain(condition: exp.Expression) -> exp.Expression:
    """Without the table's name before its columns."""
    plain = condition.copy()
    for column in plain.find_all(exp.Column):
        column.replace(exp.Column(this=column.this.copy()))
    return plain
