"""What the stand-in knows of a table at one time: columns, key, families, indexes. A schema change makes a new one; none is edited.

Rows are tuples with the value of column id n at place n - 1; a row older than a column may be shorter, and what is missing is NULL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.types import SqlType

Row = tuple[Any, ...]
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """`default` and `computed` are SQL text. A virtual column is computed when it is read; a hidden one is no part of `*`."""

    id: int
    name: str
    kind: SqlType
    nullable: bool = True
    default: str | None = None
    computed: str | None = None
    virtual: bool = False
    hidden: bool = False
    comment: str | None = None

    @property
    def type(self) -> str:
        """As SHOW CREATE TABLE prints it: INT8, DECIMAL(4,2), STRING[]."""
        return self.kind.text


@dataclass(frozen=True, slots=True)
class Family:
    id: int
    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Index:
    id: int
    name: str
    columns: tuple[str, ...]
    unique: bool = False


@dataclass(frozen=True)
class Descriptor:
    """A table from `since` on, until the next descriptor. `key`: names in index order, `descending` those of them in falling order.

    `made_by` says which change made it: "create", "add column", "drop column", "alter column", "alter type", "rename column",
    "rename table", "primary key", "truncate", "drop", "index", "constraint", "comment", "schema". `state`: "public" or "drop".
    `kind`: "table", "view" or "sequence". `buckets`: of a hash-sharded key, whose shard column is the first of `key`.
    """

    id: int
    name: str
    schema: str
    database: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    since: Hlc
    families: tuple[Family, ...] = ()
    indexes: tuple[Index, ...] = ()
    version: int = 1
    state: str = "public"
    kind: str = "table"
    made_by: str = "create"
    descending: tuple[str, ...] = ()
    key_name: str = ""
    buckets: int | None = None
    checks: tuple[tuple[str, str], ...] = ()
    comment: str | None = None
    column_id_last: int = 0
    index_id_last: int = 1
    by_name: dict[str, Column] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {c.name: c for c in self.columns})

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return self.by_name.get(name)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.by_name[name] for name in self.key)

    @property
    def visible(self) -> tuple[Column, ...]:
        """What `*` stands for."""
        return tuple(c for c in self.columns if not c.hidden)


@dataclass(frozen=True, slots=True)
class Change:
    """One row's change as a changefeed tells it. `hlc` is its `updated`, `mvcc` its `mvcc_timestamp`.

    cause "write": a session wrote it; hlc and mvcc are equal, and both images are in the shape of the table at `hlc`.
    cause "schema": told again by a schema change. Where mvcc < hlc a scan told it, and `before` is in the shape of `hlc.prev()`;
    where they are equal (22.1) the database wrote the row anew, and both images are equal and in the shape at `hlc`.
    `key` is of the row after, else before; a decimal in it has lost its zeros where the row is gone.
    `hidden`: written with disable_changefeed_replication.
    """

    hlc: Hlc
    key: Key
    before: Row | None
    after: Row | None
    cause: str
    mvcc: Hlc
    hidden: bool = False
