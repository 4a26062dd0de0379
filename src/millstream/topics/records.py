"""Batches ↔ the records of a topic: which record stands at which offset, and the tombstone after each delete.

The bytes of an envelope are `events.envelope`'s; where records are kept is the topics' (local, kafka). Whatever keeps
them, a batch has the same records and the same offsets: that is why this stands apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.avro import Datums
from millstream.events import envelope
from millstream.events.batch import DELETE, Batch
from millstream.topics.contract import Block, Topic

_BYTES_MAX = 2**31 - 1


def encoded(batch: Batch, topic: Topic, version_tag: str) -> Block:
    """The records of a batch: key and envelope, a tombstone (same key, empty value) after each delete.

    Raises ValueError for a batch without a schema id, or of 2 GiB and more (an end would not fit in an int32).
    """
    if batch.schema_id is None:
        raise ValueError(f"a batch of {batch.topic} has no schema id: register its schema first")
    if len(batch) == 0:
        return Block(batch.topic, batch.schema_id, 0, 0, b"", b"", b"", b"")
    keys = envelope.encode_keys(batch, batch.topic, topic.key_schema_id)
    values = envelope.encode_values(batch, topic.origin, version_tag)
    if max(len(keys.data), len(values.data)) > _BYTES_MAX:
        raise ValueError(f"a batch of {batch.topic} is {len(values.data)} bytes when encoded; slice it below 2 GiB")
    value_ends = values.ends
    deletes = is_delete(batch)
    if deletes.any():
        copies = 1 + deletes.astype(np.int64)
        keys = _repeated(keys, copies)
        value_ends = np.repeat(values.ends, copies)  # an end said twice: an empty record after the delete
    return Block(
        topic=batch.topic,
        schema_id=batch.schema_id,
        records=len(value_ends),
        events=len(batch),
        keys=bytes(keys.data),
        key_ends=np.asarray(keys.ends, "<i4").tobytes(),
        values=bytes(values.data),
        value_ends=np.asarray(value_ends, "<i4").tobytes(),
        to=batch.to,
    )


def is_delete(batch: Batch) -> npt.NDArray[np.bool_]:
    """Which events are deletes, and so have a tombstone after them."""
    return np.asarray(pc.equal(batch.column("op"), DELETE)).astype(bool)


def offsets(batch: Batch, first: int) -> npt.NDArray[np.int64]:
    """The offset of each event of a batch whose records begin at `first`."""
    width = 1 + is_delete(batch).astype(np.int64)
    return np.asarray(first + np.cumsum(width) - width, np.int64)


def read_end(batches: Sequence[Batch]) -> int:
    """The offset after the last event of `batches`, past its tombstone if it is a delete. Raises ValueError if there is none."""
    last = next((b for b in reversed(batches) if len(b)), None)
    if last is None or last.offsets is None:
        raise ValueError("no published event to resume after")
    deleted = last.column("op")[len(last) - 1].as_py() == DELETE
    return int(last.offsets[-1]) + (2 if deleted else 1)


def _repeated(datums: Datums, copies: npt.NDArray[np.int64]) -> Datums:
    """Each datum as often as `copies` says."""
    starts = np.zeros(len(datums.ends) + 1, np.int32)
    starts[1:] = datums.ends
    given = pa.BinaryArray.from_buffers(pa.binary(), len(datums.ends), [None, pa.py_buffer(starts), pa.py_buffer(datums.data)])
    taken = given.take(pa.array(np.repeat(np.arange(len(copies)), copies)))
    ends = np.frombuffer(taken.buffers()[1], np.int32, len(taken) + 1, taken.offset * 4)
    return Datums(taken.buffers()[2].to_pybytes()[ends[0] : ends[-1]], (ends[1:] - ends[0]).astype(np.int64))
