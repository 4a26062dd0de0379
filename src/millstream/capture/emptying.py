"""A truncate, as many deletes: one `d` for each row that the topic has. Design §5.2.

The rows are read from the topic itself, once all that came before the truncate is in it; each slice of deletes is a commit of its
own, and the position passes the truncate when all are written. After a crash the truncate comes again and finds in the topic
what is still live. The deletes share the message's version: they have one place in the log, and different keys.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from millstream.capture.rowcopy import RowCopy
from millstream.events.batch import DELETE, HOLES, Batch, batch
from millstream.events.progress import Position
from millstream.events.types import RowSchema
from millstream.sources.contract import Truncate
from millstream.topics.contract import Topic

SLICE_ROWS = 20_000
SLICE_BYTES = 8 << 20


def first(rows: RowCopy, topic: Topic, truncate: Truncate, at: Position) -> list[Batch]:
    """The deletes of some of the rows; none when there are no rows."""
    return [deletes(topic, r.schema, r.schema_id, r.images, r.holes, truncate, at) for r in rows.first(SLICE_ROWS, SLICE_BYTES)]


def deletes(
    topic: Topic,
    schema: RowSchema,
    schema_id: int | None,
    images: pa.StructArray,
    holes: list[list[dict[str, str]] | None],
    truncate: Truncate,
    at: Position,
) -> Batch:
    """One for each image, in the schema in which it was told: its before is what stood there."""
    count = len(images)
    said = [None if one is None else [{"image": "before", **hole} for hole in one] for one in holes]
    return batch(
        topic.name,
        schema,
        {
            "op": pa.repeat(DELETE, count),
            "before": images,
            "incarnation": np.full(count, topic.incarnation, np.uint32),
            "major": np.full(count, at.major, np.uint64),
            "minor": np.full(count, at.minor, np.uint32),
            "ts_us": np.full(count, truncate.ts_us, np.int64),
            "tx_id": pa.repeat(truncate.tx_id, count),
            "position": pa.repeat(str(at), count),
            "cause": pa.repeat("truncate", count),
            "holes": pa.array(said, HOLES),
        },
        schema_id,
    )
