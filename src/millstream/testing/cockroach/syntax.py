"""The trees that grammar.py makes of SQL text: expressions and statements, nothing of their meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from millstream.testing.cockroach.types import SqlType

Name = tuple[str, ...]
"""A name in parts, as written: (table,), (schema, table), (database, schema, table)."""


class Expression:
    """Any of the classes below."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    """kind: string, number, bytes, bits, bool, null. `value` is text for string, number and bits."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Parameter(Expression):
    number: int


@dataclass(frozen=True, slots=True)
class Reference(Expression):
    """A column, with its table's name before it or not."""

    table: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Star(Expression):
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    """op: -, +, not."""

    op: str
    of: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    op: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    of: Expression
    to: SqlType


@dataclass(frozen=True, slots=True)
class NamedCast(Expression):
    """A cast to a type that only the database knows: an enum."""

    of: Expression
    to: Name
    array: bool = False


@dataclass(frozen=True, slots=True)
class Collate(Expression):
    of: Expression
    locale: str


@dataclass(frozen=True, slots=True)
class Call(Expression):
    name: str
    arguments: tuple[Expression, ...]
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Case(Expression):
    of: Expression | None
    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression | None


@dataclass(frozen=True, slots=True)
class In(Expression):
    of: Expression
    among: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class AnyOf(Expression):
    """`x = ANY (array)`."""

    op: str
    of: Expression
    array: Expression


@dataclass(frozen=True, slots=True)
class IsNull(Expression):
    of: Expression


@dataclass(frozen=True, slots=True)
class Array(Expression):
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Tuple(Expression):
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Subscript(Expression):
    of: Expression
    at: Expression


class Statement:
    """Any of the classes below."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What FROM names: a table, generate_series with its arguments, or `rows` of values."""

    name: Name
    alias: str | None = None
    columns: tuple[str, ...] = ()
    arguments: tuple[Expression, ...] | None = None
    rows: tuple[tuple[Expression, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Order:
    by: Expression
    descending: bool = False
    nulls_last: bool | None = None


@dataclass(frozen=True, slots=True)
class Item:
    value: Expression
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class Select(Statement):
    items: tuple[Item, ...]
    source: Source | None = None
    where: Expression | None = None
    group: tuple[Expression, ...] = ()
    order: tuple[Order, ...] = ()
    limit: Expression | None = None
    offset: Expression | None = None
    distinct: bool = False
    as_of: Expression | None = None
    lock: bool = False


@dataclass(frozen=True, slots=True)
class Values(Statement):
    rows: tuple[tuple[Expression | None, ...], ...]
    """An item None is DEFAULT."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """ON CONFLICT: `columns` () where none are named; `sets` () is DO NOTHING."""

    columns: tuple[str, ...]
    sets: tuple[tuple[str, Expression | None], ...]
    where: Expression | None = None


@dataclass(frozen=True, slots=True)
class Insert(Statement):
    table: Name
    alias: str | None
    columns: tuple[str, ...]
    rows: Select | Values | None
    upsert: bool
    conflict: Conflict | None
    returning: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Update(Statement):
    table: Name
    alias: str | None
    sets: tuple[tuple[str, Expression | None], ...]
    where: Expression | None
    order: tuple[Order, ...]
    limit: Expression | None
    returning: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Delete(Statement):
    table: Name
    alias: str | None
    where: Expression | None
    order: tuple[Order, ...]
    limit: Expression | None
    returning: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Control(Statement):
    """what: begin, commit, rollback; savepoint, release, rollback to: those of `name`."""

    what: str
    as_of: Expression | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Set(Statement):
    """what: session, cluster."""

    what: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Show(Statement):
    """what: session, cluster, create."""

    what: str
    name: str
    table: Name = ()


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    name: str
    type: SqlType | Name
    array: bool = False
    nullable: bool | None = None
    default: str | None = None
    computed: str | None = None
    virtual: bool = False
    key: bool = False
    buckets: int | None = None
    unique: bool = False
    hidden: bool = False
    check: str | None = None
    family: str | None = None


@dataclass(frozen=True, slots=True)
class KeyDefinition:
    columns: tuple[tuple[str, bool], ...]
    """(name, descending)"""
    name: str | None = None
    buckets: int | None = None


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    columns: tuple[str, ...]
    name: str | None
    unique: bool


@dataclass(frozen=True, slots=True)
class CreateTable(Statement):
    name: Name
    if_not_exists: bool
    columns: tuple[ColumnDefinition, ...]
    key: KeyDefinition | None
    families: tuple[tuple[str | None, tuple[str, ...]], ...]
    indexes: tuple[IndexDefinition, ...]
    checks: tuple[tuple[str | None, str], ...]


@dataclass(frozen=True, slots=True)
class CreateIndex(Statement):
    table: Name
    index: IndexDefinition
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class Create(Statement):
    """what: database, schema, type, view, sequence, user. `extra` is an enum's labels."""

    what: str
    name: Name
    if_not_exists: bool = False
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop(Statement):
    """what: table, view, sequence, database, schema, type, index, user."""

    what: str
    names: tuple[Name, ...]
    if_exists: bool
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class Truncate(Statement):
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Alter(Statement):
    """ALTER TABLE: `actions` are (word, argument…) in order; see schema_changes.py for each."""

    table: Name
    if_exists: bool
    actions: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class AlterType(Statement):
    name: Name
    label: str


@dataclass(frozen=True, slots=True)
class Comment(Statement):
    """what: table, column; `column` for the latter."""

    what: str
    table: Name
    column: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class Grant(Statement):
    """`tables` () with `roles`: a role is granted to a role. `revoke` takes away."""

    privileges: tuple[str, ...]
    tables: tuple[Name, ...]
    users: tuple[str, ...]
    revoke: bool
    what: str = "table"
    text: str = ""
    at: int = 0
    """The statement, and where ON or TO stands in it."""


@dataclass(frozen=True, slots=True)
class Use(Statement):
    database: str
