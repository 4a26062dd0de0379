"""A reader of one topic: gives events in the schema that was accepted, and stops before the first that was not.

Invariant 6: what stops here is this reader alone; nothing of the new version has been read when it says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import pyarrow as pa

from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch, columns, merged
from millstream.events.nested import mapped
from millstream.events.types import UNKNOWN, Field, RowSchema, Type
from millstream.pipelines.descriptions import undescribed
from millstream.schemas.operations import covers, operations
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topics
from millstream.topics.incarnations import Ended


class NotAccepted(Refused):
    """The very next event of a topic has a version of its schema that this reader has not accepted."""

    def __init__(self, topic: str, schema: RowSchema, schema_id: int, version: int, offset: int, changes: str) -> None:
        super().__init__(
            f"schema version {version} was not accepted: {changes}",
            code="schema_not_accepted",
            where=f"{topic}@{offset}",
            cure="look at the change with `millstream plan`, edit what uses the field if need be, then `millstream resume` the pipeline: "
            "not one event is lost or repeated",
        )
        self.topic, self.schema, self.schema_id, self.version, self.offset = topic, schema, schema_id, version, offset


class TopicEnded(NotAccepted):
    """The topic has ended and goes on as another, whose newest version this is."""

    def __init__(self, ended: Ended, schema: RowSchema, schema_id: int, version: int, offset: int) -> None:
        super().__init__(ended.goes_on_as, schema, schema_id, version, offset, "")
        self.message = f"it is complete up to {ended.position}, and goes on as {ended.goes_on_as}: {ended.reason}"
        self.code, self.where = "topic_ended", f"{ended.topic}@{offset}"
        self.ended = ended


class TopicReader:
    """Reads `topic` from `offset` on and gives everything in `schema`, whose id is `schema_id`.

    That version and those before it are accepted, and the versions in `accepted`: their events are mapped to `schema`.
    `everything`: for those who only look, every version that the topic has by now. `used`: the columns that are looked at, where not
    all are; another whose type has changed is null, as its values may not fit. `pipeline`: events that are addressed to another
    one are passed over; without it none are.
    """

    def __init__(
        self,
        topics: Topics,
        registry: Registry,
        topic: str,
        schema: RowSchema,
        schema_id: int,
        offset: int,
        *,
        accepted: Iterable[int] = (),
        everything: bool = False,
        used: Collection[str] | None = None,
        pipeline: str | None = None,
    ) -> None:
        self._topics, self._registry = topics, registry
        self.topic, self.schema, self.schema_id, self.offset = topic, schema, schema_id, offset
        self._order = self._versions()
        self._up_to = max(self._order.values()) if everything else self._order[schema_id]
        self._accepted, self._pipeline = set(accepted), pipeline
        self._unused = set() if used is None else {f.id for f in schema.fields if f.name not in used}

    def accept(self, schema_id: int) -> None:
        """Go on over events of this version too."""
        self._accepted.add(schema_id)

    def read(self, bytes_max: int) -> list[Batch]:
        """The next events, mapped to the accepted schema; empty at the end. Moves `offset` past them.

        Raises NotAccepted, every time that it is asked, when the very next event has a version that is not accepted.
        """
        while batches := self._topics.read(self.topic, self.offset, bytes_max=bytes_max):
            known = 0
            while known < len(batches) and (self._is_anothers(batches[known]) or self._is_accepted(batches[known])):
                known += 1
            if not known:
                raise self._not_accepted(batches[0])
            self.offset = self._topics.read_end(batches[:known])
            if mine := [self._mapped(b) for b in batches[:known] if not self._is_anothers(b)]:
                return merged(mine)
        return []

    def _is_anothers(self, batch: Batch) -> bool:
        return batch.to is not None and self._pipeline is not None and batch.to != self._pipeline

    def _versions(self) -> dict[int, int]:
        return {v.id: v.version for v in self._registry.versions(f"{self.topic}-value")}

    def _is_accepted(self, batch: Batch) -> bool:
        assert batch.schema_id is not None
        if batch.schema_id not in self._order:
            self._order = self._versions()
        if self._order[batch.schema_id] <= self._up_to or batch.schema_id in self._accepted:
            return True
        return undescribed(batch.schema) == undescribed(self.schema)  # a version that only says something else of the columns

    def _not_accepted(self, batch: Batch) -> NotAccepted:
        assert batch.offsets is not None and batch.schema_id is not None
        changes = "; ".join(map(str, operations(self.schema, batch.schema)))
        version = self._order[batch.schema_id]
        return NotAccepted(self.topic, batch.schema, batch.schema_id, version, int(batch.offsets[0]), changes or "the same columns")

    def _mapped(self, batch: Batch) -> Batch:
        if batch.schema == self.schema:
            return batch
        try:
            rows = [self._image(batch, side) for side in ("before", "after")]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            raise Irrecoverable(
                f"events of an earlier schema do not fit the accepted one: {e}",
                code="schema_uncoverable",
                where=f"{self.topic}@{batch.offsets[0] if batch.offsets is not None else '?'}",
                cure="read the topic with the earlier schema, or load the table into a new topic",
            ) from e
        arrays = dict(zip(batch.rows.schema.names, batch.rows.columns, strict=True)) | dict(zip(("before", "after"), rows, strict=True))
        wanted = columns(self.schema)
        return replace(
            batch, schema=self.schema, schema_id=self.schema_id, rows=pa.RecordBatch.from_arrays(list(arrays.values()), schema=wanted)
        )

    def _unsaid(self, batch: Batch, was: Field) -> bool:
        """Whether the accepted type need not hold what the column had, and whoever has a value in it is told again: the source says
        so, or the topic has begun anew since (design §3)."""
        now = next(f for f in self.schema.fields if f.id == was.id)
        if covers(now.type, was.type):
            return False
        topic = self._topics.topic(self.topic)
        return now.fill is UNKNOWN or (topic is not None and batch.column("incarnation")[0].as_py() < topic.incarnation)

    def _image(self, batch: Batch, side: str) -> pa.StructArray:
        """One side's images in the accepted schema: fields by id, an absent one as its fill says, types cast where Arrow can; null what
        is not looked at or told again."""
        array, fields, wanted = batch.column(side), batch.schema.fields, {f.id: f.type for f in self.schema.fields}
        strange = {f.id for f in fields if f.id in wanted and f.type != wanted[f.id] and (f.id in self._unused or self._unsaid(batch, f))}
        if strange:
            nothing = [pa.nulls(len(array), wanted[f.id].arrow) if f.id in strange else array.field(i) for i, f in enumerate(fields)]
            fields = tuple(replace(f, type=wanted[f.id]) if f.id in strange else f for f in fields)
            mask = array.is_null() if array.null_count else None
            array = pa.StructArray.from_arrays(nothing, fields=[pa.field(f.name, f.type.arrow) for f in fields], mask=mask)
        return mapped(array, Type("record", fields=fields), Type("record", fields=self.schema.fields))
