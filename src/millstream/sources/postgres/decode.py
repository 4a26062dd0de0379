"""Rows out of pgoutput messages, in columns: where each value of each row lies, for a whole buffer at once.

What a transaction is and how its rows are numbered is here too. What the values mean is `values`' and
`translate`'s; the rare messages are `messages`'.
Reference: PostgreSQL 18, "Logical Replication Message Formats", protocol version 1 (nothing streamed, text values).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from millstream.sources.octets import PADDING, Cells, Index, Mask, Octets
from millstream.sources.postgres import messages as m

_OLD, _NEW, _KEY = b"ONK"
_NULL, _UNCHANGED, _TEXT = b"nut"


def _table(letters: tuple[int, ...]) -> Mask:
    table = np.zeros(256, np.bool_)
    table[list(letters)] = True
    return table


_COUNTED = _table((m.INSERT, m.UPDATE, m.DELETE, m.TRUNCATE))
_ROWS = _table((m.INSERT, m.UPDATE, m.DELETE))
_SINGLE = _table((m.RELATION, m.MESSAGE, m.TRUNCATE))


class Messages:
    """Whole messages, in stream order: `at[i]` is where message i begins in `octets`."""

    def __init__(self, data: bytes, at: Index) -> None:
        self.octets = Octets(data)
        self.at = at

    @classmethod
    def of(cls, messages: list[bytes]) -> Messages:
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        return cls(b"".join([*messages, PADDING]), np.cumsum(lengths) - lengths)

    def __len__(self) -> int:
        return len(self.at)

    @cached_property
    def kinds(self) -> npt.NDArray[np.uint8]:
        return self.octets.u8[self.at]

    @cached_property
    def single(self) -> Index:
        """The messages that are read one at a time."""
        return np.flatnonzero(_SINGLE[self.kinds])


@dataclass(frozen=True)
class Open:
    """A transaction of which more may come: what its later rows must know. `given` counts its messages so far."""

    lsn: int
    ts_us: int
    xid: int
    given: int = 0
    by_table: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Numbered:
    """The row messages between two places of a buffer, each with its transaction and its number in it.

    `rows` are message indexes; the other arrays go along with it. `open` is the transaction after the last message and
    `ended` the end of the last one that was committed, if any. `xids` are those of the transactions begun here.
    """

    rows: Index
    oid: npt.NDArray[np.uint32]
    transaction: Index
    lsn: npt.NDArray[np.uint64]
    ts_us: npt.NDArray[np.int64]
    xid: npt.NDArray[np.uint32]
    minor: npt.NDArray[np.uint32]
    open: Open | None
    ended: int | None
    xids: npt.NDArray[np.uint32]
    carried: Open | None

    def table_order(self, mine: Mask) -> Index:
        """The number of each row of one table (`mine` among `rows`) within its transaction and table, from 1."""
        transaction = self.transaction[mine]
        order = np.arange(len(transaction)) - np.searchsorted(transaction, transaction, "left") + 1
        if self.carried is not None and len(order):
            order[transaction == 0] += self.carried.by_table.get(int(self.oid[mine][0]), 0)
        return order


def number(messages: Messages, first: int, last: int, carried: Open | None) -> Numbered:
    """The row messages of `messages[first:last]`, where `carried` is the transaction that is open before them.

    Raises BadFrame on a row outside of a transaction.
    """
    octets = messages.octets
    kinds = messages.kinds[first:last]
    at = messages.at[first:last]
    begins = np.flatnonzero(kinds == m.BEGIN)
    counted = np.flatnonzero(_COUNTED[kinds])
    # Transaction 0 is the carried one; the others are numbered as they begin.
    transaction = np.searchsorted(begins, counted, "right")
    if carried is None and len(transaction) and transaction[0] == 0:
        raise m.BadFrame("a row came outside of a transaction")
    before = carried or Open(0, 0, 0)
    b = at[begins]
    lsn = np.concatenate([[np.uint64(before.lsn)], octets.u64[b + 1].astype(np.uint64)])
    ts_us = np.concatenate([[before.ts_us], octets.u64[b + 9].astype(np.int64) + m.POSTGRES_EPOCH_US])
    xid = np.concatenate([[before.xid], octets.u32[b + 17]]).astype(np.uint32)
    given_before = np.concatenate([[-before.given], np.searchsorted(counted, begins)])
    minor = np.arange(len(counted)) - given_before[transaction] + 1

    is_row = _ROWS[kinds[counted]]
    rows, of = counted[is_row], transaction[is_row]
    oid = octets.u32[at[rows] + 1].astype(np.uint32)
    commits = np.flatnonzero(kinds == m.COMMIT)
    ended = int(octets.u64[at[commits[-1]] + 10]) if len(commits) else None
    return Numbered(
        rows=rows + first,
        oid=oid,
        transaction=of,
        lsn=lsn[of],
        ts_us=ts_us[of],
        xid=xid[of],
        minor=minor[is_row].astype(np.uint32),
        open=_open_after(begins, commits, before if carried else None, lsn, ts_us, xid, minor, transaction, oid[of == len(begins)]),
        ended=ended,
        xids=xid[1:],
        carried=carried,
    )


def _open_after(
    begins: Index,
    commits: Index,
    carried: Open | None,
    lsn: npt.NDArray[np.uint64],
    ts_us: npt.NDArray[np.int64],
    xid: npt.NDArray[np.uint32],
    minor: Index,
    transaction: Index,
    tables_of_last: npt.NDArray[np.uint32],
) -> Open | None:
    began = int(begins[-1]) if len(begins) else -1
    if len(commits) and commits[-1] > began:
        return None
    if began < 0 and carried is None:
        return None
    last = len(begins)
    carried_on = carried if last == 0 else None
    by_table = dict(carried_on.by_table) if carried_on else {}
    for oid, count in zip(*np.unique(tables_of_last, return_counts=True), strict=True):
        by_table[int(oid)] = by_table.get(int(oid), 0) + int(count)
    given = int(minor[-1]) if len(transaction) and transaction[-1] == last else (carried_on.given if carried_on else 0)
    return Open(int(lsn[last]), int(ts_us[last]), int(xid[last]), given, by_table)


@dataclass(frozen=True)
class Images:
    """The rows of one table, column by column. `before` is null for inserts, `after` for deletes.

    `op` is each row's message letter. `unavailable` (row, column) pairs are values that neither image holds;
    `partial` rows came without a whole old image (of `images_by_key`: without any).
    """

    op: npt.NDArray[np.uint8]
    before: list[Cells]
    after: list[Cells]
    unavailable: list[tuple[int, int]]
    partial: Index


def images(messages: Messages, rows: Index, columns: int) -> Images:
    """The tuples of the row messages `rows`, all of one relation that has `columns` columns.

    An unchanged value that is stored out of line (`u`) is taken from the old image.
    Raises BadFrame on tuples of another width, or on binary values.
    """
    octets = messages.octets
    op: npt.NDArray[np.uint8] = messages.kinds[rows]
    at = messages.at[rows] + 5
    inserted, updated, deleted = op == m.INSERT, op == m.UPDATE, op == m.DELETE
    whole = octets.u8[at] == np.where(inserted, _NEW, _OLD)
    if not whole.all():
        if not np.isin(octets.u8[at[~whole]], (_KEY, _NEW)).all() or inserted[~whole].any():
            raise m.BadFrame("a row does not begin with a tuple")
        return Images(op, [], [], [], np.flatnonzero(~whole))
    first, end = _tuples(octets, at + 1, columns)
    at_second = end[updated]
    if (octets.u8[at_second] != _NEW).any():
        raise m.BadFrame("an update has no new row")
    second, _ = _tuples(octets, at_second + 1, columns)
    before: list[Cells] = []
    after: list[Cells] = []
    unavailable: list[tuple[int, int]] = []
    for old, new in zip(first, second, strict=True):
        same = new.kind == _UNCHANGED
        now = _Value(old.at.copy(), old.length.copy(), old.kind.copy())
        now.at[updated] = np.where(same, old.at[updated], new.at)
        now.length[updated] = np.where(same, old.length[updated], new.length)
        now.kind[updated] = np.where(same, old.kind[updated], new.kind)
        lacking = np.flatnonzero((now.kind == _UNCHANGED) | (old.kind == _UNCHANGED))
        unavailable += [(int(row), len(before)) for row in lacking]
        before.append(_cells(old, inserted))
        after.append(_cells(now, deleted))
    return Images(op, before, after, unavailable, np.empty(0, np.int64))


def images_by_key(messages: Messages, rows: Index, columns: int) -> Images:
    """The same of a relation whose old rows may come as their key alone, or, where the key did not change, not at all.

    `before` is null then, or has the key; `unavailable` are the values of new rows that are not there. Raises BadFrame.
    """
    octets = messages.octets
    op: npt.NDArray[np.uint8] = messages.kinds[rows]
    at = messages.at[rows] + 5
    inserted, deleted = op == m.INSERT, op == m.DELETE
    mark = octets.u8[at]
    olds = np.isin(mark, (_OLD, _KEY))
    if not (olds | (mark == _NEW)).all() or olds[inserted].any() or not olds[deleted].all():
        raise m.BadFrame("a row does not begin with a tuple")
    first, end = _tuples(octets, at + 1, columns)
    two = olds & ~deleted
    at_second = end[two]
    if (octets.u8[at_second] != _NEW).any():
        raise m.BadFrame("an update has no new row")
    second, _ = _tuples(octets, at_second + 1, columns)
    before: list[Cells] = []
    after: list[Cells] = []
    unavailable: list[tuple[int, int]] = []
    for old, new in zip(first, second, strict=True):
        now = _Value(old.at.copy(), old.length.copy(), old.kind.copy())
        # A whole old row has what did not change; of a key alone the other columns are null, which says nothing.
        same = (new.kind == _UNCHANGED) & (mark[two] == _OLD)
        now.at[two] = np.where(same, old.at[two], new.at)
        now.length[two] = np.where(same, old.length[two], new.length)
        now.kind[two] = np.where(same, old.kind[two], new.kind)
        unavailable += [(int(row), len(before)) for row in np.flatnonzero((now.kind == _UNCHANGED) & ~deleted)]
        before.append(_cells(old, ~olds))
        after.append(_cells(now, deleted))
    return Images(op, before, after, unavailable, np.flatnonzero(~olds))


class _Value(NamedTuple):
    """One column of the tuples: where each value begins, its length, and the letter that says what it is."""

    at: Index
    length: Index
    kind: npt.NDArray[np.uint8]


def _tuples(octets: Octets, at: Index, columns: int) -> tuple[list[_Value], Index]:
    """The columns of the tuples at `at`, and where the tuples end."""
    if (octets.u16[at] != columns).any():
        raise m.BadFrame(f"a row does not have the {columns} columns of its relation")
    out: list[_Value] = []
    at = at + 2
    for _ in range(columns):
        kind = octets.u8[at]
        valued = kind == _TEXT
        if not (valued | (kind == _NULL) | (kind == _UNCHANGED)).all():
            raise m.BadFrame("a value is neither text nor null nor unchanged")
        length = np.where(valued, octets.u32[at + 1], 0).astype(np.int64)
        out.append(_Value(at + 5, length, kind))
        at = at + 1 + np.where(valued, length + 4, 0)
    if len(at) and int(at.max()) > octets.size:
        raise m.BadFrame("a row is longer than its message")
    return out, at


def _cells(value: _Value, absent: Mask) -> Cells:
    null = (value.kind != _TEXT) | absent
    return Cells(np.where(null, 0, value.at), np.where(null, 0, value.length), null)
