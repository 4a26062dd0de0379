"""A truncate, as many deletes: one `d` for each row that the topic has. Design §5.2.

The rows are read from the topic itself, once all that came before the truncate is in it; each slice of deletes is a commit of its
own, and the position passes the truncate when all are written. After a crash the truncate comes again and finds in the topic
what is still live. The deletes share the message's version: they have one place in the log, and different keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.capture.rowcopy import RowCopy
from millstream.events.batch import DELETE, HOLES, Batch, batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.sources.contract import Truncate
from millstream.topics.contract import Topic, Topics

SLICE_ROWS = 20_000
SLICE_BYTES = 8 << 20


def slices(rows: RowCopy, topic: Topic, truncate: Truncate, at: Position, topics: Topics) -> Iterator[list[Batch]]:
    """The deletes of all rows, slice by slice; each is to be committed before the next is asked for. Between them, while it reads the
    topic, it gives nothing, so that its caller may stop."""
    for _ in rows.follow(topics):
        reached("truncate.reading")
        yield []
    while gone := first(rows, topic, truncate, at):
        yield gone
        for _ in rows.follow(topics):  # which takes what is deleted now out of it
            yield []


def first(rows: RowCopy, topic: Topic, truncate: Truncate, at: Position) -> list[Batch]:
    """The deletes of some of the rows; none when there are no rows."""
    found = rows.first(SLICE_ROWS, SLICE_BYTES)
    return [deletes(topic, r.schema, r.schema_id, r.images, r.holes, (at.major, at.minor), _by(truncate, at)) for r in found]


def message(topic: Topic, schema: RowSchema, truncate: Truncate, at: Position) -> Batch:
    """One event of that message, of no row: for a window, which asks whether its chunk was read before it."""
    return deletes(topic, schema, None, pa.nulls(1, schema.arrow), [None], (at.major, at.minor), _by(truncate, at))


def _by(truncate: Truncate, at: Position) -> dict[str, Any]:
    """What its deletes say of themselves."""
    return {"ts_us": truncate.ts_us, "tx_id": truncate.tx_id, "position": str(at), "cause": "truncate"}


def deletes(
    topic: Topic,
    schema: RowSchema,
    schema_id: int | None,
    images: pa.StructArray,
    holes: list[list[dict[str, str]] | None],
    version: tuple[int, int],
    said: Mapping[str, Any],
) -> Batch:
    """One for each image, in the schema in which it was told: its before is what stood there. `said` is the same of all: columns of a
    batch and their values."""
    count = len(images)
    held = [None if one is None else [{"image": "before", **hole} for hole in one] for one in holes]
    return batch(
        topic.name,
        schema,
        {
            "op": pa.repeat(DELETE, count),
            "before": images,
            "incarnation": np.full(count, topic.incarnation, np.uint32),
            "major": np.full(count, version[0], np.uint64),
            "minor": np.full(count, version[1], np.uint32),
            "holes": pa.array(held, HOLES),
            **{column: pa.repeat(value, count) for column, value in said.items()},
        },
        schema_id,
    )
