"""Change events → what to delete and what to add, one document a key. Whole columns at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import BadRecord
from millstream.events.batch import Batch
from millstream.events.types import Field
from millstream.queries.treatment import Treatment
from millstream.sinks.jsontext import lists, named, values
from millstream.sinks.search.indexed import indexed
from millstream.sinks.search.layout import BETWEEN_TEXTS

KEY_BYTES_MAX = 32_000
"""The index cuts no term longer than 65,530 bytes: it would drop it, and with it the way to the document."""


@dataclass(frozen=True)
class Changes:
    """Columns of equal length, one row a key: what becomes of its document. Where `gone`, the rest means nothing."""

    keys: pa.Array
    gone: pa.Array
    documents: pa.Array
    words: pa.Array
    exact: pa.Array
    loose: pa.Array
    text: pa.Array
    begins: Sequence[Sequence[str]]


def last_per_key(batches: Sequence[Batch]) -> Iterator[tuple[Batch, pa.Array]]:
    """For each batch the events that no later event of their key follows, and their key terms.

    Raises BadRecord for an event without a key, or with one too long for a term.
    """
    terms = [key_terms(b) for b in batches]
    every = pa.chunked_array(terms, pa.string()).combine_chunks()
    if isinstance(every, pa.ChunkedArray):
        every = pa.concat_arrays(every.chunks)
    rows = pa.table({"key": every, "row": pa.array(np.arange(len(every)))})
    keep = np.zeros(len(every), bool)
    keep[rows.group_by("key").aggregate([("row", "max")])["row_max"].to_numpy()] = True
    start = 0
    for batch, term in zip(batches, terms, strict=True):
        mask = keep[start : start + len(batch)]
        start += len(batch)
        if mask.any():
            yield (batch, term) if mask.all() else (batch.filter(mask), term.filter(pa.array(mask)))


def key_terms(batch: Batch) -> pa.Array:
    """The key of every event as one text, the same for equal keys and for no others."""
    keys = batch.keys()
    nulls = [pc.is_null(column) for column in keys.flatten()]
    lost = nulls[0] if len(nulls) == 1 else pc.or_(nulls[0], nulls[1])
    for column in nulls[2:]:
        lost = pc.or_(lost, column)
    if pc.any(lost).as_py():
        raise _bad(batch, pc.index(lost, True).as_py(), "the event has no key")
    terms = lists(keys, batch.schema.key_fields)
    sizes = pc.binary_length(terms)
    if len(terms) and pc.max(sizes).as_py() > KEY_BYTES_MAX:
        raise _bad(batch, int(np.argmax(sizes.to_numpy())), f"the key is longer than {KEY_BYTES_MAX} bytes")
    return terms


def _bad(batch: Batch, row: int, why: str) -> BadRecord:
    offset = batch.offsets[row] if batch.offsets is not None else row
    return BadRecord(f"{why}, so it has no document", code="key_unusable", where=f"{batch.topic}@{offset}", cure="look at the row's source")


def changes(batch: Batch, terms_of_keys: pa.Array, fields: Mapping[str, Treatment]) -> Changes:
    """What the events (at most one a key, with these terms) do to the index."""
    after = batch.column("after")
    gone = pc.or_(pc.is_null(after), pc.equal(batch.column("op"), "d"))
    return replace(documents_of(after, terms_of_keys, batch.schema.fields, fields), gone=gone)


def documents_of(rows: pa.StructArray, terms_of_keys: pa.Array, fields: Sequence[Field], treatments: Mapping[str, Treatment]) -> Changes:
    """A document of each row, whose columns are `fields`."""
    columns, count = rows.flatten(), len(rows)
    found = indexed(fields, columns, treatments, count)
    return Changes(
        keys=terms_of_keys,
        gone=pa.repeat(pa.scalar(False), count),
        documents=named([f.name for f in fields], [values(c, f.type) for c, f in zip(columns, fields, strict=True)], count),
        words=named(list(found.words), list(found.words.values()), count),
        exact=named(list(found.exact), list(found.exact.values()), count),
        loose=pa.array([json.dumps(row) if row else "{}" for row in found.loose], pa.string()),
        text=pa.array([f" {BETWEEN_TEXTS} ".join(row) for row in found.texts], pa.string()),
        begins=found.begins,
    )
