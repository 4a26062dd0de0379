"""What every source database offers: discover, stream from a position, read a chunk at a known position, acknowledge.
And what some do beside it: rows by their values, at or after a position (`Lookup`).

A source runs in its connector's thread; nothing here is called from two threads at once, except `close`.
Its stream and its chunks know each other: `chunk` is called between two items of `stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import MillstreamError
from millstream.events.batch import Batch
from millstream.events.origin import Grade, Origin
from millstream.events.progress import Position
from millstream.events.types import RowSchema

Admission = Literal["log", "frontier", "merge"]
SchemaBackfill = Literal["start", "offer"]
"""What follows where a changed table leaves old rows with values that no event says: they are read again, or that is offered."""


@dataclass(frozen=True)
class Table:
    """A table as discovered: `name` is as written in the definition ("public.movie"), `rows` the server's estimate.

    `grade` is that of its topic. Of a `kept` one the connector makes whole what the stream gives: there a `u` has no before, or any,
    a `d` has at least its key, and values that are not there are holes of `after`, "unavailable".
    """

    name: str
    schema: RowSchema
    grade: Grade
    origin: Origin
    rows: int
    kept: bool = False


@dataclass(frozen=True)
class Reading:
    """`table` comes from rows of `of`; the server leaves out what it does not tell, or why it does not (`here`)."""

    table: str
    of: str
    here: str | None


@dataclass(frozen=True)
class Readings:
    """How many feeds the server runs for a source, and the tables that are derived from others."""

    feeds: int
    derived: tuple[Reading, ...]


@runtime_checkable
class Derives(Protocol):
    """A source whose tables may be derived from others."""

    def readings(self) -> Readings:
        """As the server and the tables are now. Raises what `tables` raises."""


@dataclass(frozen=True)
class Truncate:
    """`tables` lost all their rows, in one message of transaction `tx_id`, which committed at `ts_us`."""

    tables: tuple[str, ...]
    ts_us: int
    tx_id: str


@dataclass(frozen=True)
class Lost:
    """What lies between the committed progress of `table` and `resumed_at` (major, minor) will never be told, and `why`: what the
    server kept does not go back so far. The table goes on after `resumed_at`, and its rows are to be compared with its topic's: by
    a backfill that is started, or that is only offered (`reconcile` false)."""

    table: str
    why: MillstreamError
    resumed_at: tuple[int, int]
    reconcile: bool = True


@dataclass(frozen=True)
class Delivery:
    """What the stream gives next: batches (topic not yet set by the source: `Batch.topic` is the table's name), then
    a position up to which the source has now given everything, and what is right there, if anything: the chunk mark that was
    passed, or a truncate, whose version the position is. `aside` names tables of which nothing is given from here on, and why: what
    follows can be told of all others.

    `position` may lie inside a transaction: (its major, last minor given). Batches of one table come in order; a schema change
    starts a new Batch. `idle` is true where nothing more was at hand.

    Of kind `frontier`: an event may come again at any time, and a position that does not rise says nothing about what is beside it:
    events above it are given all the while. `dropped` counts what the source left out and what that was ("deletes of nothing");
    `lost` names tables of which a part is never told.
    """

    batches: tuple[Batch, ...]
    position: Position
    mark: str | None = None
    idle: bool = False
    truncate: Truncate | None = None
    aside: tuple[tuple[str, MillstreamError], ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True)
class Scope:
    """Which rows of a table a backfill reads: all; those for which `where` holds, a condition in the database's SQL over the table's
    columns; those with one of `keys`; or those from `first` to `last`, both in, in the database's order of keys. At most one of the three.

    Keys are texts as the database reads them, in the key's order. An end of a range may name only the key's first columns.
    """

    where: str | None = None
    keys: tuple[tuple[str, ...], ...] | None = None
    first: tuple[str, ...] | None = None
    last: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        return self.where is None and self.keys is None and self.first is None and self.last is None


WHOLE = Scope()


@dataclass(frozen=True)
class Chunk:
    """Rows of a table read in key order at one read point. `rows` has the schema's columns.

    The stream will give `Delivery.mark == mark` when it passes the read point, whose position's (major, minor) becomes
    the version of these rows. `newer(batch)` says for each event of this table that the stream gives until then
    whether the chunk's read did not see it (True: its key leaves the chunk, before and after image). `last_key` is the
    place of the greatest key, to resume after: plain JSON that the source alone reads; `done` is true where no row lies
    beyond it. `holes` (type events.batch.HOLES, one a row, image "after") says what the columns' types could not hold; None: nothing.

    `read_point` of kind `frontier`: (major, minor) at which the rows were read, and their version; the stream may have given events
    above it before the chunk was read, and says the mark with what it gives next. None: the position at the mark.
    """

    table: str
    schema: RowSchema
    rows: pa.RecordBatch
    mark: str
    newer: Callable[[Batch], npt.NDArray[np.bool_]]
    last_key: list[Any] | None
    done: bool
    read_us: int
    holes: pa.Array | None = None
    read_point: tuple[int, int] | None = None


class Source(Protocol):
    """Of a schema that its stream and chunks give, a column's `fill` says what rows have in it that were given without the column, or
    with another type of it; of a column that all rows were given with it says nothing. What is said about a column (null, doc)
    may be younger than the place in the stream. `tables` gives no fills.
    """

    name: str
    admission: Admission
    schema_backfill: SchemaBackfill

    def check(self) -> None:
        """Everything a first start needs: settings, privileges, keys, replica identity. Raises Refused with the cure,
        all faults in one message; makes what it manages (publication, slot) only if nothing is refused."""

    def tables(self) -> list[Table]:
        """The tables of the definition, in its order, as they are now."""

    def stream(self, resume_after: Position | None) -> Iterator[Delivery]:
        """Everything after the position, for ever. None: from the slot's (cursor's) own start.

        Raises Retryable when the connection is lost (call again with the last committed position), Irrecoverable when what
        follows the position is gone, Refused for a password or privilege. Never blocks for longer than about
        0.1 s: an idle source gives a Delivery without batches. A delivery has what has come meanwhile, within bounds, however it came:
        whoever takes them seldom takes more at a time.
        """

    def chunk(self, table: str, after: list[Any] | None, rows_max: int, scope: Scope = WHOLE) -> Chunk | None:
        """The next rows of the scope by key after `after`; from the first one on again, where that was said of another order than the table
        has by now. None: cannot be read at a safe point now; try again after the next Delivery.

        Raises Refused("table_changed") where the table is gone or has another key, Refused("bad_scope") as `admits`."""

    def admits(self, table: str, scope: Scope) -> int:
        """About how many rows the scope has. Raises Refused("bad_scope") with the cure where it cannot be read: a condition that is none
        over this table's columns, asks other tables or calls what answers differently each time; a key that is no value of its column."""

    def absent(self, table: str, schema: RowSchema, rows: pa.RecordBatch, scope: Scope) -> Chunk | None:
        """Of `rows`, which a topic has and which are in `schema`, those that the scope takes in and that the table does not have: as a
        chunk of these rows, read as `chunk` reads, in any order, with no `last_key`, and done. What belongs to the scope, the database
        decides; a key is absent unless a row has exactly it, however the column's collation compares. None and errors: as `chunk`."""

    def acknowledge(self, position: Position) -> None:
        """All up to here is durable; the server may forget it. Invariant 1: called only after the commit."""

    def head(self) -> tuple[int, int]:
        """(major, minor) of the server's present end: a stream position at or above it has seen all committed so far."""

    def close(self) -> None:
        """Ends a stream that is waiting; may be called from another thread, and twice."""


@runtime_checkable
class Scans(Protocol):
    """A source (of kind `frontier`) whose server can tell all rows of a table by itself, beside chunks. A scan ends with the stream
    that it was begun beside."""

    def begin_scan(self, name: str, table: str, above: tuple[int, int] | None) -> tuple[int, int] | None:
        """Begin a scan of this name, in the place of one that has it. Gives its read point, a place above `above` that the stream has
        passed; None: there is none now. Raises as `chunk`."""

    def scanned(self, name: str, rows_max: int) -> Chunk | None:
        """Its next rows as a chunk without `last_key`, in no order, some perhaps not for the first time; `done` with the last. None:
        nothing is at hand. Raises Retryable where it has broken and may be begun again, else why that is of no use; it is over then."""

    def end_scan(self, name: str) -> None:
        """Give it up, if it runs."""


@runtime_checkable
class Outlives(Protocol):
    """A source that goes on where some of its tables are gone: its stream sets them aside."""

    def resumes(self, position: Position) -> None:
        """The stream will go on after this. From here on `tables` gives what is gone since then, too, without columns."""


@dataclass(frozen=True)
class Asked:
    """Rows of `table` whose `columns` equal one of `keys` (columns in that order), and of them `wanted`. No key holds a null.

    `schema` is the one that the asker has accepted: it says what the names mean, by field ids, and the types of the answer.
    """

    table: str
    schema: RowSchema
    columns: tuple[str, ...]
    keys: pa.Table
    wanted: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """What a source bears: queries a second, keys in one of them; `slow_ms`: one that takes longer says that it bears no more."""

    per_s: float
    keys_max: int
    slow_ms: float


class Lookup(Protocol):
    """Reads rows by their values beside the stream. For several threads at once; as many queries run as the source allows.

    A kind of source that offers it has a `lookup` opener in `sources.kinds`.
    """

    name: str
    limits: Limits

    def lookup(self, asked: Asked, not_before: Position) -> Generator[pa.Table, None, None]:
        """One query: the rows piece by piece, each of a bounded size, in no order; close the generator to stop early.

        Every row is as of one moment at or after all that `not_before` counts, or not given: no older copy of the database answers.
        Gives every row that is equal; where the database's equality is wider (collations), others too. Raises Retryable
        (connection, timeout, "replica_behind", "not_visible_yet"), Refused (password, privilege, "schema_not_accepted"), Irrecoverable
        ("other_server"). An error may come after pieces: what they made must then be thrown away.
        """

    @property
    def reading(self) -> str:
        """Where the last answer came from, and why not from elsewhere; for people."""

    def close(self) -> None:
        """Ends what is running; may be called from any thread, and twice."""
