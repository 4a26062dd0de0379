"""Reconcile a search index: its documents beside the rows that its topic had where the index says that it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from millstream.engine.build import READ_BYTES, Tick, upsert
from millstream.engine.images import conform, structs
from millstream.engine.reader import TopicReader
from millstream.engine.reconcile import KEYS_MAX, SHOWN, Compared, Difference, below
from millstream.engine.sql import quoted
from millstream.engine.state import State
from millstream.events.batch import READ, Batch, batch
from millstream.events.types import RowSchema
from millstream.sinks.search.compare import Document, Snapshot
from millstream.sinks.search.render import key_terms

SLICE_ROWS = 5_000
_ROWS = "rows"


def compare(snapshot: Snapshot, folder: str, reader: TopicReader, state: State, tick: Tick, sampled: int | None = None) -> Compared:
    """Every document, or those of some rows. `reader` stands at the start of the topic that the index is filled from."""
    end = snapshot.positions.get(reader.topic, 0)
    with state.transaction():
        state.store.create(_ROWS, reader.schema.fields, reader.schema.key)
    while reader.offset < end:
        tick(f"comparing index {folder}", reader.offset, end)
        batches = below(reader.read(READ_BYTES), end)
        if batches:
            with state.transaction():
                upsert(state, _ROWS, reader.schema, batches)
    found: list[Document] = []
    differing = met = rows = 0
    terms: set[str] = set()
    total = state.store.count(_ROWS)
    for some in _slices(reader.schema, reader.topic, state, sampled):
        rows += len(some)
        differs = snapshot.differing(some)
        differing += len(differs)
        met += len(some) - sum(d.got is None for d in differs)
        found += differs[: KEYS_MAX - len(found)]
    if sampled is None and met < snapshot.count:  # documents of keys that have no row
        for some in _slices(reader.schema, reader.topic, state, None):
            terms.update(key_terms(some).to_pylist())
        for page in snapshot.pages():
            extra = [k for k in page if k not in terms]
            differing += len(extra)
            found += [Document(k, None, None) for k in extra[: KEYS_MAX - len(found)]]
    with state.transaction():
        state.store.drop(_ROWS)
    first = tuple(_difference(replace(d, got=d.got or snapshot.document(d.key))) for d in found[:SHOWN])
    return Compared(f"index {folder}", rows if sampled is not None else total, differing, first, tuple(_key(d.key) for d in found))


def _slices(schema: RowSchema, topic: str, state: State, sampled: int | None) -> Iterator[Batch]:
    """The rows as reads, in slices."""
    names = ", ".join(map(quoted, schema.names))
    keys = ", ".join(map(quoted, schema.key))
    limit = f" ORDER BY hash({keys}), {keys} LIMIT {sampled}" if sampled is not None else ""
    for rows in state.store.batches(f"SELECT {names} FROM {quoted(_ROWS)}{limit}", SLICE_ROWS):
        count = rows.num_rows
        if not count:
            continue
        zeros, here = np.zeros(count, np.uint64), np.arange(count, dtype=np.int64)
        yield batch(
            topic,
            schema,
            {
                "op": pa.repeat(READ, count),
                "after": structs(conform(pa.Table.from_batches([rows]), schema), here, schema),
                "incarnation": zeros.astype(np.uint32),
                "major": zeros,
                "minor": zeros.astype(np.uint32),
                "ts_us": zeros.astype(np.int64),
                "position": pa.repeat("", count),
            },
        )


def _key(term: str) -> tuple[str, ...]:
    return tuple(v if isinstance(v, str) else json.dumps(v) for v in json.loads(term))


def _difference(document: Document) -> Difference:
    expected, got = (None if text is None else json.loads(text) for text in (document.wanted, document.got))
    return Difference(_key(document.key), expected, got)
