"""From a feed's messages to batches of change events, one table and one schema each. Knows no socket and no clock.

What is decoded here: envelope `wrapped`, format JSON, with `updated`; with `diff` and `mvcc_timestamp` where asked for, as every live feed
asks. The schema of an event is that which its own shape shows: the members' names and what their values are. Where no
description that is known fits them, the table is asked for as it was at the event's own time.

Repeats are not looked for: that is admission's. An event that came twice is given twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from millstream.errors import MillstreamError
from millstream.events.batch import Batch
from millstream.events.types import Field, Fill, RowSchema, Type
from millstream.sources.cockroach.hlc import Hlc

NOTHING, COVERED = "deletes of nothing", "covered"
"""Words of `Told.dropped`: before and after both null; told again for a change of the schema that changed no value."""


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

    @property
    def schema(self) -> RowSchema:
        names = {c.id: c.name for c in self.columns}
        fields = tuple(Field(c.name, c.type, c.id, c.nullable, c.fill, c.doc) for c in self.columns)
        return RowSchema(fields, tuple(names[i] for i in self.key))


@dataclass(frozen=True)
class Messages:
    """A piece of one feed, in its order: the result's three columns. A resolved time has neither topic nor key."""

    topics: Sequence[str | None]
    keys: Sequence[bytes | None]
    values: Sequence[bytes]


@dataclass(frozen=True)
class Times:
    """One time a row: uint64 nanoseconds, uint32 counters."""

    wall: npt.NDArray[np.uint64]
    logical: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Told:
    """What a piece tells. `Batch.topic` is the table's name; events of one table are in the feed's order within one schema, and older
    schemas come first. `mvcc` goes with `batches`; None where the feed does not tell it.

    `resolved` is the last one in the piece: all at or below it has been given. `dropped` counts what was left out, by words.
    `aside`: tables of which nothing more is given, this piece's events from there on included, and why.
    """

    batches: tuple[Batch, ...] = ()
    mvcc: tuple[Times | None, ...] = ()
    resolved: Hlc | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    aside: tuple[tuple[str, MillstreamError], ...] = ()


@dataclass(frozen=True)
class Scan:
    """How rows of a feed's scan are told: `r` of the backfill of this id. `snapshot` "true" (initial load) or "incremental".

    `at`: the version of the rows of a feed that tells no times (`initial_scan='only'`); None: what `updated` says.
    """

    backfill: str
    snapshot: str
    at: Hlc | None = None


class Decoder:
    """One feed's. Not for two threads at once.

    `describe(topic, at)` asks the server for the table of that topic as it was at that time; what it raises goes through. It is asked
    from within `decode`, once for each shape that nothing known fits. `scan`: the feed began with one (`initial_scan`), so rows
    older than their `updated` are its rows; None: they are told again because the schema changed.
    `changing(topic, at)`, given for 22.x alone: whether a change of that table's schema was under way then. Events there whose
    after is their before are dropped as covered if so.
    """

    def __init__(
        self,
        describe: Callable[[str, Hlc], Described],
        where: str,
        *,
        scan: Scan | None = None,
        changing: Callable[[str, Hlc], bool] | None = None,
    ) -> None:
        self._describe, self._where, self._scan, self._changing = describe, where, scan, changing
        self._known: dict[str, list[Described]] = {}

    def know(self, topic: str, described: Described) -> None:
        """The table of a topic as it was described: at first, and at every resolved time. The one of the latest `at` is told in."""
        known = self._known.setdefault(topic, [])
        known.append(described)
        known.sort(key=lambda d: d.at)

    def decode(self, messages: Messages) -> Told:
        """The events of a piece, in any number of pieces the same.

        Raises Irrecoverable("bad_message") on what is no message of such a feed, and ("bad_value") on a value that is none of its
        column's type even as the table is described at the event's time.
        """
        raise NotImplementedError("decoding comes with the next commits")
