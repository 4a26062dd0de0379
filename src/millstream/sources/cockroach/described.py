"""A table as a feed's decoder is told it: its columns, its key, and as of when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from millstream.events.types import Field, Fill, RowSchema, Type
from millstream.sources.cockroach.hlc import Hlc


@dataclass(frozen=True)
class Column:
    """A column that rows of the feed have: not virtual, no shard. `id` survives renames (pg_attribute.attnum).

    `fill` is what rows have in it that were told without it, as of `events.types.Field`. `retold`: the database tells every row again
    once such a column is added, with values that nobody could know (computed, or with a volatile default).
    """

    id: int
    name: str
    type: Type
    nullable: bool = True
    fill: Fill | None = None
    retold: bool = False
    doc: str = ""


@dataclass(frozen=True)
class Described:
    """A table as it was at `at`. `name` is as in the definition; `key` the ids of its key's columns, in index order, without shards.

    `key_width` is how many members the feed's key has: shards count. `projected`: the feed's query selects `columns`, before images
    have all of the table's.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[int, ...]
    key_width: int
    at: Hlc
    projected: bool = False

    @cached_property
    def schema(self) -> RowSchema:
        names = {c.id: c.name for c in self.columns}
        fields = tuple(Field(c.name, c.type, c.id, c.nullable, c.fill, c.doc) for c in self.columns)
        return RowSchema(fields, tuple(names[i] for i in self.key))

    def __contains__(self, id_: int) -> bool:
        return any(c.id == id_ for c in self.columns)

    def same(self, other: Described) -> bool:
        """Whether both say the same of rows, whenever it was."""
        return replace(self, at=other.at) == other

    def shown_by(self, names: Iterable[str], key_width: int | None) -> bool:
        """Whether rows whose members have these names, and keys of that width, can be the table's. None: nobody knows the key."""
        mine = self._names
        return (mine <= set(names) if self.projected else mine == set(names)) and key_width in (self.key_width, None)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(c.name for c in self.columns)
