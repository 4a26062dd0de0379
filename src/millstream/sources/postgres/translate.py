"""From replication messages to batches of change events, one table and one schema each. Knows no socket and no clock.

The same messages in any number of pieces give the same events: the transaction that is open between two pieces, and
the relations learnt so far, are kept here. What cannot be told truly is never told: the events before it are given,
then the error is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Irrecoverable, MillstreamError
from millstream.events.batch import Batch, batch
from millstream.events.types import Field, RowSchema
from millstream.sources.contract import Truncate
from millstream.sources.images import Hole, deleted_and_created, holes_column, positions, unfit_key
from millstream.sources.names import TableName
from millstream.sources.octets import Cells, Index, Mask, Octets
from millstream.sources.postgres import messages as m
from millstream.sources.postgres.decode import Images, Messages, Numbered, Open, images, images_by_key, number
from millstream.sources.postgres.values import convert
from millstream.sources.values import Converted

_AFRESH = "then begin again under another source name: a new slot, new topics, a new initial load (docs/how-to/lost-slot.md)"
_OPS = pa.array(["c", "u", "d"])
_OP_CODE = np.zeros(256, np.int8)
_OP_CODE[[m.INSERT, m.UPDATE, m.DELETE]] = [0, 1, 2]


@dataclass(frozen=True)
class Shape:
    """A table of the definition as one Relation message shows it: the schema's fields are its columns, in order. Of a `kept` one the
    old rows need not be whole."""

    name: TableName
    schema: RowSchema
    kept: bool = False

    @property
    def table(self) -> str:
        return self.name.written


@dataclass(frozen=True)
class Unfit:
    """A table of the definition that a Relation message shows in a form in which its rows cannot be told, and why."""

    name: TableName
    error: MillstreamError


@dataclass(frozen=True)
class Part:
    """A stretch of the stream: its events, the transactions that begin in it, the position after it, the mark or the truncate that it
    ends with."""

    batches: tuple[Batch, ...]
    xids: frozenset[int]
    position: tuple[int, int]
    mark: str | None = None
    truncate: Truncate | None = None
    aside: tuple[tuple[str, MillstreamError], ...] = ()


class _Unfit(Exception):
    """Message `at` cannot be told truly, for the reason in `error`."""

    def __init__(self, at: int, error: MillstreamError) -> None:
        super().__init__(str(error))
        self.at = at
        self.error = error


class Translator:
    """`resolve` says what table a Relation is, or None where the definition does not name it; it may raise. The rows of one that is unfit
    are passed over.

    `position` is (major, minor) as the stream begins. `where` names the source in errors.
    """

    def __init__(self, resolve: Callable[[m.Relation], Shape | Unfit | None], position: tuple[int, int], where: str) -> None:
        self._resolve = resolve
        self._shapes: dict[int, Shape | None] = {}
        self._open: Open | None = None
        self._where = where
        self.position = position

    @property
    def between_transactions(self) -> bool:
        return self._open is None

    def translate(self, messages: Messages) -> Iterator[Part]:
        """The parts of `messages`, in order. Raises Irrecoverable after the last part that can be told truly."""
        try:
            yield from self._translate(messages)
        except (m.BadFrame, IndexError) as error:
            raise Irrecoverable(
                f"the server sent what is no replication message: {error}",
                code="bad_message",
                where=self._where,
                cure="check that nothing between here and the server changes the stream, then report this",
            ) from error

    def _translate(self, messages: Messages) -> Iterator[Part]:
        start = 0
        data = messages.octets.data
        for i in messages.single.tolist():
            at = int(messages.at[i])
            kind = data[at]
            if kind == m.RELATION:
                # Sent again for every change of the table, also one that the message does not show: of its key, or a comment.
                relation = m.relation(data, at)
                try:
                    found = self._resolve(relation)
                except MillstreamError:
                    yield from self._rows(messages, start, i)
                    raise
                shape = found if isinstance(found, Shape) else None
                if relation.oid in self._shapes and self._shapes[relation.oid] == shape:
                    continue
                yield from self._rows(messages, start, i)
                start = i
                self._shapes[relation.oid] = shape
                if isinstance(found, Unfit):
                    yield Part((), frozenset(), self.position, aside=((found.name.written, found.error),))
            elif kind == m.MESSAGE:
                said = m.logical_message(data, at)
                if said.transactional:
                    continue
                # In the log's own order, so outside of every transaction: all that committed before it has been given.
                yield from self._rows(messages, start, i)
                start = i
                self.position = max(self.position, (said.lsn, 0))
                if said.prefix == m.MARK_PREFIX:
                    yield Part((), frozenset(), (said.lsn, 0), said.content.decode(errors="replace"))
            elif mine := [s.table for oid in m.truncated(data, at) if (s := self._shapes.get(oid)) is not None]:
                yield from self._rows(messages, start, i + 1)
                start = i + 1
                assert self._open is not None
                truncate = Truncate(tuple(dict.fromkeys(mine)), self._open.ts_us, str(self._open.xid))
                yield Part((), frozenset(), self.position, truncate=truncate)
        yield from self._rows(messages, start, len(messages))

    def _rows(self, messages: Messages, first: int, last: int) -> Iterator[Part]:
        """The events of messages[first:last], among which no relation changes and nothing of ours is truncated, save by the last."""
        if first == last:
            return
        numbered = number(messages, first, last, self._open)
        try:
            batches = tuple(b for b in (self._batch(messages, numbered, oid) for oid in np.unique(numbered.oid).tolist()) if b is not None)
        except _Unfit as unfit:
            yield from self._rows(messages, first, unfit.at)
            raise unfit.error from None
        self._open = numbered.open
        if self._open is not None:
            self.position = (self._open.lsn, self._open.given)
        elif numbered.ended is not None:
            self.position = (numbered.ended, 0)
        yield Part(batches, frozenset(numbered.xids.tolist()), self.position)

    def _batch(self, messages: Messages, numbered: Numbered, oid: int) -> Batch | None:
        if oid not in self._shapes:
            raise m.BadFrame(f"a row of relation {oid} came before the relation")
        shape = self._shapes[oid]
        if shape is None:
            return None
        mine = numbered.oid == oid
        rows = numbered.rows[mine]
        if shape.kept:
            found = images_by_key(messages, rows, len(shape.schema.fields))
        else:
            found = images(messages, rows, len(shape.schema.fields))
            self._refuse_holes_in_images(found, shape, rows)
        before, after, holes = self._typed(messages.octets, found, shape, rows)
        moved = _moved(messages.octets, found, shape.schema)
        given: dict[str, Any] = {
            "op": _OPS.take(pa.array(_OP_CODE[found.op])),
            "before": before,
            "after": after,
            "incarnation": pa.array(np.ones(len(rows), np.uint32)),
            "major": pa.array(numbered.lsn[mine]),
            "minor": pa.array(numbered.minor[mine]),
            "ts_us": pa.array(numbered.ts_us[mine]),
            "tx_id": pa.array(numbered.xid[mine]).cast(pa.string()),
            "tx_order": pa.array(numbered.minor[mine].astype(np.int64)),
            "tx_table_order": pa.array(numbered.table_order(mine)),
            "position": positions(numbered.lsn[mine], numbered.minor[mine]),
            "holes": holes_column(holes, len(rows)),
        }
        if moved.any():
            given = deleted_and_created(given, moved)
        return batch(shape.table, shape.schema, given)

    def _typed(self, octets: Octets, found: Images, shape: Shape, rows: Index) -> tuple[pa.Array, pa.Array, list[Hole]]:
        """Both images as struct columns, and what they cannot hold."""
        none = found.op == m.INSERT
        none[found.partial] = True
        before, holes_before = self._image(octets, found.before, none, "before", shape, rows)
        after, holes_after = self._image(octets, found.after, found.op == m.DELETE, "after", shape, rows)
        names = shape.schema.names
        return before, after, [*holes_before, *holes_after, *((row, "after", names[j], "unavailable") for row, j in found.unavailable)]

    def _image(
        self, octets: Octets, columns: list[Cells], absent: Mask, image: str, shape: Shape, rows: Index
    ) -> tuple[pa.Array, list[Hole]]:
        if absent.all():
            return pa.nulls(len(absent), shape.schema.arrow), []
        holes: list[Hole] = []
        children = []
        for cells, field in zip(columns, shape.schema.fields, strict=True):
            converted = self._converted(octets, cells, field, shape)
            if converted.holes and field.name in shape.schema.key:
                row, why = min(converted.holes.items())
                raise _Unfit(int(rows[row]), unfit_key(shape.table, field.name, why, self._where))
            holes += [(row, image, field.name, why) for row, why in converted.holes.items()]
            children.append(converted.array)
        mask = pa.array(absent) if absent.any() else None
        return pa.StructArray.from_arrays(children, fields=list(shape.schema.arrow), mask=mask), holes

    def _converted(self, octets: Octets, cells: Cells, field: Field, shape: Shape) -> Converted:
        try:
            return convert(octets, cells, field.type)
        except Irrecoverable as error:
            error.where = f"{self._where} {shape.table}.{field.name}"
            raise

    def _refuse_holes_in_images(self, found: Images, shape: Shape, rows: Index) -> None:
        """Whole before images, or nothing: a `u` without what it changed would be told wrong."""
        if len(found.partial):
            raise _Unfit(int(rows[found.partial[0]]), identity_lost(shape.name, self._where))
        if found.unavailable:
            row, column = min(found.unavailable)
            name = shape.schema.fields[column].name
            raise _Unfit(
                int(rows[row]),
                Irrecoverable(
                    f"column {name} of {shape.table} was not changed, is stored out of line, and so is not in the stream",
                    code="toast_unavailable",
                    where=f"{self._where} {shape.table}.{name}",
                    cure=f"ALTER TABLE {shape.name.quoted} REPLICA IDENTITY FULL; {_AFRESH}",
                ),
            )


def identity_lost(table: TableName, where: str) -> Irrecoverable:
    """The table's REPLICA IDENTITY was not FULL when a row of it changed."""
    return Irrecoverable(
        f"{table.written} changed while its REPLICA IDENTITY was not FULL: the old rows are not in the stream",
        code="replica_identity",
        where=f"{where} {table.written}",
        cure=f"ALTER TABLE {table.quoted} REPLICA IDENTITY FULL; {_AFRESH}. Where it is to stay so, give the new source `before: keep`",
    )


def _moved(octets: Octets, found: Images, schema: RowSchema) -> Mask:
    """The updates that changed their row's key. The server's text is compared: it is equal where the key's bytes are."""
    told = found.op == m.UPDATE
    told[found.partial] = False
    updates = np.flatnonzero(told)
    differs = np.zeros(len(updates), np.bool_)
    for name in schema.key:
        j = schema.names.index(name)
        old, new = (octets.text(image[j].take(updates)) for image in (found.before, found.after))
        # A column that came into the key after this place may be null here: that is no key, and nobody's.
        other = pc.fill_null(pc.not_equal(old, new), pc.xor(pc.is_null(old), pc.is_null(new)))
        differs |= other.to_numpy(zero_copy_only=False)
    moved = np.zeros(len(found.op), np.bool_)
    moved[updates[differs]] = True
    return moved
