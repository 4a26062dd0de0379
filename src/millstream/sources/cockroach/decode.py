"""From a feed's messages to batches of change events, one table and one schema each. Knows no socket and no clock.

What is decoded here: envelope `wrapped`, format JSON, with `updated`; with `diff` and `mvcc_timestamp` where asked for, as every live feed
asks. The schema of an event is that which its own shape shows: the members' names and what their values are. Where no
description that is known fits them, the table is asked for as it was at the event's own time.

Repeats are not looked for: that is admission's. An event that came twice is given twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Irrecoverable, MillstreamError
from millstream.events.batch import Batch, batch
from millstream.sources.cockroach import assemble as a
from millstream.sources.cockroach.assemble import Group, Times, Typed
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.layout import Layout
from millstream.sources.cockroach.members import BadText, Text, Values, elements
from millstream.sources.cockroach.values import whole
from millstream.sources.images import deleted_and_created, unfit_key
from millstream.sources.octets import PADDING, Index, Mask, Octets

KNOWN_MAX = 32  # descriptions of one topic
_RESOLVED = re.compile(rb'\{"resolved": ?"([0-9]+\.[0-9]{10}\??)"\}')
NOTHING, COVERED = "deletes of nothing", "covered"
"""Words of `Told.dropped`: before and after both null; told again for a change of the schema that changed no value."""


@dataclass(frozen=True)
class Messages:
    """A piece of one feed, in its order: the result's three columns. A resolved time has neither topic nor key."""

    topics: Sequence[str | None]
    keys: Sequence[bytes | None]
    values: Sequence[bytes]


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
    """How the rows of a feed's scan are told: `r` of the backfill of this id. `snapshot` "true" (initial load) or "incremental".

    `at`: the version of the rows of a feed that tells no times (`initial_scan='only'`); None: what `updated` says.
    """

    backfill: str
    snapshot: str
    at: Hlc | None = None


class Decoder:
    """One feed's. Not for two threads at once.

    `describe(topic, at)` asks the server for the table of that topic as it was at that time; what it raises goes through. It is asked
    from within `decode`, once for each shape that nothing known fits. `scan`: the feed began with one (`initial_scan`), whose rows are
    older than their `updated` and have no before image; all others that are older are told again because the schema changed.
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
        self._layout = Layout()
        self._known: dict[str, list[Described]] = {}
        self._told_in: dict[str, Described] = {}
        self._aside: set[str] = set()

    def know(self, topic: str, described: Described) -> None:
        """The table of a topic as it was described: at first, and at every resolved time. The one of the latest `at` is told in."""
        known = [d for d in self._known.get(topic, []) if not d.same(described) or d.at > described.at]
        if not any(d.same(described) for d in known):
            known.append(described)
        self._known[topic] = sorted(known, key=lambda d: d.at)[-KNOWN_MAX:]

    def forget(self, topic: str) -> None:
        """Nothing more is given of it."""
        self._aside.add(topic)

    def decode(self, messages: Messages) -> Told:
        """The events of a piece, in any number of pieces the same.

        Raises Irrecoverable("bad_message") on what is no message of such a feed, and ("bad_value") on a value that is none of its
        column's type even as the table is described at the event's time.
        """
        piece = _Piece(messages, Text(Octets(b"".join([*messages.values, PADDING]))))
        resolved: Hlc | None = None
        batches: list[Batch] = []
        mvcc: list[Times | None] = []
        dropped: dict[str, int] = {}
        aside: list[tuple[str, MillstreamError]] = []
        unfit: list[str] = []
        for topic, rows in piece.topics():
            try:
                if topic is None:
                    resolved = max(_resolved(messages.values[i]) for i in rows.tolist())
                elif topic not in self._aside:
                    told = _Table(self, piece, topic, rows)
                    for each, times in told.batches():
                        batches.append(each)
                        mvcc.append(times)
                    for word, count in told.dropped.items():
                        dropped[word] = dropped.get(word, 0) + count
                    if told.unfit is not None:
                        unfit.append(topic)
                        aside.append((told.name, told.unfit))
            except (BadText, IndexError) as error:
                at = error.at if isinstance(error, BadText) else None
                raise self._bad_message(str(error), topic, piece.shown(at)) from error
        self._aside.update(unfit)  # now that all is told: what is raised before is told again from the first topic on
        return Told(tuple(batches), tuple(mvcc), resolved, dropped, tuple(aside))

    def _bad_message(self, why: str, topic: str | None, shown: str) -> Irrecoverable:
        return Irrecoverable(
            f"the server sent what is no message of this feed: {why}{shown}",
            code="bad_message",
            where=f"{self._where} {topic or 'resolved'}",
            cure="check that nothing between here and the server changes the stream, then report this with the server's version",
        )


class _Piece:
    """Messages side by side in one buffer."""

    def __init__(self, messages: Messages, text: Text) -> None:
        self.messages, self.text = messages, text
        self.ends = np.cumsum(np.fromiter(map(len, messages.values), np.int64, len(messages.values)))
        self.starts = np.concatenate([[0], self.ends[:-1]]) if len(self.ends) else self.ends

    def topics(self) -> list[tuple[str | None, Index]]:
        """Each topic with the numbers of its messages."""
        found = {topic: i for i, topic in enumerate(dict.fromkeys(self.messages.topics))}
        if len(found) == 1:
            return [(topic, np.arange(len(self.starts))) for topic in found]
        numbers = np.fromiter(map(found.__getitem__, self.messages.topics), np.int64, len(self.starts))
        return [(topic, np.flatnonzero(numbers == i)) for topic, i in found.items()]

    def widths(self, rows: Index) -> Index | None:
        """How many members the key of each message has. None: the messages have no keys."""
        given = self.messages.keys
        if len(rows) < len(given):
            given = [given[i] for i in rows.tolist()]
        if None in given:
            return None
        keys = cast("Sequence[bytes]", given)
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
        data = b"".join(keys)
        text = Text(Octets(data + PADDING))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if (text.octets.u8[starts] != ord("[")).any():
            raise BadText("a key is no array")
        if data.count(b"[") > len(keys) or b"{" in data:
            return elements(text, Values(starts, lengths, np.full(len(keys), ord("["), np.uint8)))[2]
        commas = np.flatnonzero(text.octets.u8[: len(data)] == ord(","))
        commas = commas[text.outside(commas)]
        return np.searchsorted(commas, ends) - np.searchsorted(commas, starts) + (lengths > 2)

    def shown(self, at: int | None) -> str:
        """Which message is at that offset. Nothing of what it holds, which is the user's."""
        if at is None:
            return ""
        number = int(np.searchsorted(self.ends, at, side="right"))
        return f" (message {number} of a piece of {len(self.ends)}, {int(self.ends[number] - self.starts[number])} bytes)"


class _Table:
    """One topic's messages of a piece."""

    def __init__(self, decoder: Decoder, piece: _Piece, topic: str, rows: Index) -> None:
        self._decoder, self._piece, self._topic, self._rows = decoder, piece, topic, rows
        self.dropped: dict[str, int] = {}
        self.unfit: MillstreamError | None = None
        self._unfit_at: int | None = None
        self._earlier: dict[tuple[str, ...], Described] = {}
        self.name = topic
        self._text = piece.text
        laid = decoder._layout.lay(topic, piece.text, piece.starts[rows], piece.ends[rows])
        self._laid = laid
        at = decoder._scan.at if decoder._scan is not None else None
        if laid.updated is not None:
            self._updated = a.times(piece.text, laid.updated)
        elif at is not None:
            self._updated = Times.all_at(at, len(rows))
        else:
            raise BadText("no message says when it was: the feed has no `updated`", int(piece.starts[rows[0]]))
        if not laid.diff and at is None:
            raise BadText("no message says what its row was before: the feed has no `diff`", int(piece.starts[rows[0]]))
        self._mvcc: Times | None = None
        if laid.mvcc is not None:
            same = laid.updated is not None and a.same_texts(piece.text, laid.updated, laid.mvcc)
            self._mvcc = self._updated if same else a.times(piece.text, laid.mvcc)

    def batches(self) -> Iterator[tuple[Batch, Times | None]]:
        """Older schemas first."""
        laid = self._laid
        keep = ~(laid.after.absent & laid.before.absent)
        self._count(NOTHING, int((~keep).sum()))
        if self._decoder._changing is not None:
            keep &= ~self._unchanged(keep, self._decoder._changing)
        found: list[tuple[Described, Index, dict[str, Any]]] = []
        for group in a.groups(laid, self._piece.widths(self._rows), keep):
            found += self._told(group)
        for target in sorted({id(d): d for d, _, _ in found}.values(), key=lambda d: d.at):
            made = self._batch(target, [(rows, given) for d, rows, given in found if d is target])
            if made is not None:
                yield made

    def _count(self, word: str, count: int) -> None:
        if count:
            self.dropped[word] = self.dropped.get(word, 0) + count

    # ---- what is told again though nothing changed

    def _retold(self, rows: Index) -> Mask:
        """The rows that a scan gave, or that are told again because the schema changed."""
        if self._laid.updated is None:
            return np.ones(len(rows), np.bool_)
        return np.zeros(len(rows), np.bool_) if self._mvcc is None else self._mvcc[rows].below(self._updated[rows])

    def _unchanged(self, keep: Mask, changing: Callable[[str, Hlc], bool]) -> Mask:
        """The fresh updates that change nothing, while the schema is being changed."""
        text, laid = self._text, self._laid
        rows = np.flatnonzero(keep & ~laid.after.absent & ~laid.before.absent & ~self._retold(np.arange(len(keep))))
        same = pc.equal(text.octets.text(whole(laid.after.texts.take(rows))), text.octets.text(whole(laid.before.texts.take(rows))))
        rows = rows[same.to_numpy(zero_copy_only=False)]
        out = np.zeros(len(keep), np.bool_)
        times = [self._updated.one(row) for row in rows.tolist()]
        asked = {time: changing(self._topic, time) for time in dict.fromkeys(times)}
        out[rows] = [asked[time] for time in times]
        self._count(COVERED, int(out.sum()))
        return out

    # ---- by which schema

    def _told(self, group: Group) -> Iterator[tuple[Described, Index, dict[str, Any]]]:
        """The events of a group by the schema that each shows: first by what is known, then by what the table was at their time."""
        names = group.part(self._laid).shape.names
        left: list[tuple[Index, list[Described]]] = [(group.rows, [])]
        while left:
            rows, tried = left.pop()
            known = [d for d in self._decoder._known.get(self._topic, []) if d.shown_by(names, group.key_width) and d not in tried]
            young = self._younger(rows, known[-1]) if known else np.ones(len(rows), np.bool_)
            if young.any() and not young.all():
                left.append((rows[~young], tried))
                rows = rows[young]
            shown = self._asked(rows, names, group.key_width) if young.any() else known[-1]
            last = bool(young.any()) and any(d.same(shown) for d in tried)
            self.name = shown.name
            fresh = self._without_covered(group, rows, shown)
            target, given, misfits = self._typed(group, fresh, shown, last)
            if len(misfits):
                left.append((fresh[misfits], [*tried, shown]))
                fresh = np.delete(fresh, misfits)
                target, given, _ = self._typed(group, fresh, shown, last)
            if len(fresh):
                yield target, fresh, given

    def _younger(self, rows: Index, shown: Described) -> Mask:
        """The rows of a time at which the table is known to have been another already: it has become what they show again, or has
        another type."""
        later = [d.at for d in self._decoder._known[self._topic] if d.at > shown.at]
        return ~self._updated[rows].below(Times.all_at(min(later), len(rows))) if later else np.zeros(len(rows), np.bool_)

    def _asked(self, rows: Index, names: tuple[str, ...], key_width: int | None) -> Described:
        at = self._updated.one(int(rows[0]))
        described = self._decoder._describe(self._topic, at)
        if not described.shown_by(names, key_width):
            raise BadText(
                f"its members are {', '.join(names)}, its key has {key_width}; at its time {at} the table has "
                f"{', '.join(c.name for c in described.columns)}, a key of {described.key_width}"
            )
        self._decoder.know(self._topic, described)
        return described

    def _before_shown(self, group: Group, shown: Described, row: int) -> Described:
        """The table as the before image shows it, which may be older."""
        if group.before < 0 or group.after < 0:
            return shown
        names = self._laid.before.parts[group.before].shape.names
        if shown.shown_by(names, None):
            return shown
        for known in reversed(self._decoder._known[self._topic]):
            if known.shown_by(names, None):
                return known
        if names not in self._earlier:
            self._earlier[names] = self._decoder._describe(self._topic, self._updated.one(row).prev)
            self._decoder.know(self._topic, self._earlier[names])
        earlier = self._earlier[names]
        # One that shows it no more is gone by the names that are left.
        return earlier if earlier.shown_by(names, None) else shown

    def _without_covered(self, group: Group, rows: Index, shown: Described) -> Index:
        """Without those told again for a change that gave no row a value: what its new columns have, every reader fills in already."""
        if not len(rows) or group.after < 0 or group.before < 0:
            return rows
        again = self._retold(rows) & ~self._laid.after.absent[rows] & ~self._laid.before.absent[rows]
        if not again.any():
            return rows
        before = self._before_shown(group, shown, int(rows[0]))
        if any(c.retold and c.id not in before for c in shown.columns):
            return rows
        self._count(COVERED, int(again.sum()))
        return rows[~again]

    # ---- what they say

    def _typed(self, group: Group, rows: Index, shown: Described, last: bool) -> tuple[Described, dict[str, Any], Index]:
        """Rows in columns, the schema they are told in, and those that are none of it."""
        told_in = self._decoder._told_in.get(self._topic)
        target = shown if told_in is None or shown.at >= told_in.at or shown.same(told_in) else told_in
        laid, exact = self._laid, target is shown
        no_after, no_before = laid.after.absent[rows], laid.before.absent[rows]
        again = self._retold(rows) & ~no_after
        earlier = self._before_shown(group, shown, int(rows[0])) if len(rows) else shown
        after = self._image("after", group.after, rows, no_after, shown, target, strict=exact)
        before = self._image("before", group.before, rows, no_before | again, earlier, target, strict=exact and not last)
        if last:
            key = target.schema.key
            bad = [(row, name) for row, _, name, why in before.holes if why == "unavailable" and name in key]
            if bad := [*((row, after.misfit) for row in after.misfits.tolist()), *bad]:
                raise self._bad_value(target, self._updated.one(int(rows[bad[0][0]])), bad[0][1])
        misfits = np.union1d(after.misfits, before.misfits)
        op = np.where(again, a.TOLD, np.where(no_after, a.DELETED, np.where(no_before, a.CREATED, a.UPDATED))).astype(np.int8)
        given = a.columns(self._updated[rows], op, before, after, self._backfills(rows, again))
        return target, given, misfits

    def _bad_value(self, target: Described, at: Hlc, column: str) -> Irrecoverable:
        return Irrecoverable(
            f"a row of {target.name} holds a value that is none of its column's type, as the table was at {at}",
            code="bad_value",
            where=f"{self._decoder._where} {target.name}.{column}",
            cure="report this with the table's definition and the server's version; leave the table out until then",
        )

    def _image(self, image: str, part: int, rows: Index, absent: Mask, shown: Described, target: Described, *, strict: bool) -> Typed:
        parts = self._laid.after.parts if image == "after" else self._laid.before.parts
        values = a.values_of(parts[part], rows) if part >= 0 and len(rows) else {}
        return a.typed(self._text, image, values, absent, shown, target, strict=strict)

    def _backfills(self, rows: Index, again: Mask) -> pa.Array | None:
        if not again.any():
            return None
        scan = self._decoder._scan
        scanned = np.zeros(len(rows), np.bool_) if scan is None else again & self._laid.before.absent[rows]
        ids: list[str | None] = [None] * len(rows)
        for i in np.flatnonzero(again & ~scanned).tolist():
            ids[i] = f"schema-{self._updated.one(int(rows[i]))}"
        array = pa.array(ids, pa.string())
        return array if scan is None else pc.if_else(pa.array(scanned), scan.backfill, array)

    def _batch(self, target: Described, found: list[tuple[Index, dict[str, Any]]]) -> tuple[Batch, Times | None] | None:
        """The events of one schema in the feed's order."""
        rows = np.concatenate([r for r, _ in found])
        given = found[0][1]
        if len(found) > 1:
            order = pa.array(np.argsort(rows, kind="stable"))
            given = {name: pa.concat_arrays([g[name] for _, g in found]).take(order) for name in given}
            rows = np.sort(rows)
        rows, given = self._before_unfit(target, rows, given)
        if not len(rows):
            return None
        self._decoder._told_in[self._topic] = target
        given |= self._causes(given["backfill"])
        updates = pc.equal(given["op"], "u").to_numpy(zero_copy_only=False)
        moved = a.moved(given["before"], given["after"], target, updates)
        if moved.any():
            given = deleted_and_created(given, moved)
            rows = np.repeat(rows, np.where(moved, 2, 1))
        return batch(target.name, target.schema, given), None if self._mvcc is None else self._mvcc[rows]

    def _causes(self, backfill: pa.Array) -> dict[str, pa.Array]:
        if backfill.null_count == len(backfill):
            return {}
        scan, none = self._decoder._scan, pa.scalar(None, pa.string())
        schema = pc.starts_with(backfill, "schema-") if scan is None else pc.not_equal(backfill, scan.backfill)
        snapshot = pc.if_else(schema, "incremental", none if scan is None else scan.snapshot)
        return {"snapshot": snapshot, "cause": pc.if_else(schema, "schema", none if scan is None else "backfill")}

    def _before_unfit(self, target: Described, rows: Index, given: dict[str, Any]) -> tuple[Index, dict[str, Any]]:
        """The events before the first whose key has a hole: from there on the table cannot be told."""
        key = set(target.schema.key)
        fields = pc.struct_field(given["holes"].flatten(), "field")
        if pc.any(pc.is_in(fields, value_set=pa.array(sorted(key), pa.string()))).as_py():
            for i, holes in enumerate(given["holes"].to_pylist()):
                if bad := [h for h in holes or [] if h["field"] in key]:
                    if self._unfit_at is None or rows[i] < self._unfit_at:
                        self._unfit_at = int(rows[i])
                        self.unfit = unfit_key(target.name, bad[0]["field"], bad[0]["why"], self._decoder._where)
                    break
        if self._unfit_at is None:
            return rows, given
        count = int(np.searchsorted(rows, self._unfit_at))
        return rows[:count], {name: column[:count] for name, column in given.items()}


def _resolved(value: bytes) -> Hlc:
    found = _RESOLVED.fullmatch(value)
    if found is None:
        raise BadText("a message without a topic is no resolved time")
    return Hlc.parse(found[1].decode())
