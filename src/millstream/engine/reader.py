"""A reader of one topic: gives events in the schema that was accepted, and stops before the first that was not.

Invariant 6: what stops here is this reader alone; nothing of the new version has been read when it says so.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch, columns
from millstream.events.nested import mapped
from millstream.events.origin import DERIVED
from millstream.events.types import RowSchema, Type
from millstream.pipelines.descriptions import undescribed
from millstream.schemas.operations import operations
from millstream.schemas.registry import Registry
from millstream.topics.contract import Topics


class TopicReader:
    """Reads `topic` from `offset` on. `schema` and `schema_id` are the accepted version; earlier versions are mapped to it."""

    def __init__(self, topics: Topics, registry: Registry, topic: str, schema: RowSchema, schema_id: int, offset: int) -> None:
        self._topics, self._registry = topics, registry
        self.topic, self.schema, self.schema_id, self.offset = topic, schema, schema_id, offset
        self._order = self._versions()
        # A derived topic changes its schema only when a plan is applied, which judges all its readers: what it had by now is accepted.
        mine = topics.topic(topic)
        derived = mine is not None and mine.origin.connector == DERIVED
        self._accepted = max(self._order.values()) if derived else self._order[schema_id]

    def read(self, bytes_max: int) -> list[Batch]:
        """The next events, mapped to the accepted schema; empty at the end. Moves `offset` past them.

        Raises Refused("schema_not_accepted") when the very next event has a later schema.
        """
        batches = self._topics.read(self.topic, self.offset, bytes_max=bytes_max)
        known = 0
        while known < len(batches) and self._is_accepted(batches[known]):
            known += 1
        if batches and not known:
            raise self._not_accepted(batches[0])
        taken = batches[:known]
        if taken:
            self.offset = self._topics.read_end(taken)
        return [self._mapped(b) for b in taken]

    def _versions(self) -> dict[int, int]:
        return {v.id: v.version for v in self._registry.versions(f"{self.topic}-value")}

    def _is_accepted(self, batch: Batch) -> bool:
        assert batch.schema_id is not None
        if batch.schema_id not in self._order:
            self._order = self._versions()
        # A version that only says something else of the columns stops nobody.
        return self._order[batch.schema_id] <= self._accepted or undescribed(batch.schema) == undescribed(self.schema)

    def _not_accepted(self, batch: Batch) -> Refused:
        changes = "; ".join(map(str, operations(self.schema, batch.schema)))
        assert batch.offsets is not None
        version = self._order.get(batch.schema_id or 0)
        return Refused(
            f"schema version {version} was not accepted: {changes}",
            code="schema_not_accepted",
            where=f"{self.topic}@{batch.offsets[0]}",
            cure="look at the change with `millstream plan`, edit what uses the field if need be, then `millstream apply` and run again: "
            "not one event is lost or repeated. A change that the database made to old rows (a default, a converted type) is not "
            "in its log: rows keep what they had here until they change again",
        )

    def _mapped(self, batch: Batch) -> Batch:
        if batch.schema == self.schema:
            return batch
        try:
            rows = [_image(batch, side, self.schema) for side in ("before", "after")]
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


def _image(batch: Batch, side: str, schema: RowSchema) -> pa.StructArray:
    """One side's images in another version of the schema: fields by id, an absent one as its fill says, types cast where Arrow can."""
    return mapped(batch.column(side), Type("record", fields=batch.schema.fields), Type("record", fields=schema.fields))
