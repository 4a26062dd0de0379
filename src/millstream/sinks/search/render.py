"""Change events → what to delete and what to add, one document a key. Whole columns at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import BadRecord
from millstream.events.batch import Batch
from millstream.events.types import Field, Type
from millstream.sinks.jsontext import iso, joined, lists, named, quoted, values
from millstream.sinks.search.options import Treatment

KEY_BYTES_MAX = 32_000
"""The index cuts no term longer than 65,530 bytes: it would drop it, and with it the way to the document."""
JSON_DEPTH_MAX = 100
EXACT_BYTES_MAX = 256
"""Longer texts are found by their words only; nobody asks for them whole."""


@dataclass(frozen=True)
class Changes:
    """Columns of equal length, one row a key: what becomes of its document. Where `gone`, the rest is null."""

    keys: pa.Array
    gone: pa.Array
    documents: pa.Array
    words: pa.Array
    exact: pa.Array
    text: pa.Array


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


def changes(batch: Batch, terms: pa.Array, fields: Mapping[str, Treatment]) -> Changes:
    """What the events (at most one a key, with these terms) do to the index."""
    after = batch.column("after")
    gone = pc.or_(pc.is_null(after), pc.equal(batch.column("op"), "d"))
    columns = after.flatten()
    of = dict(zip(batch.schema.names, columns, strict=True))
    by_words = [f for f in batch.schema.fields if _treatment(f, fields) == "text"]
    by_value = [f for f in batch.schema.fields if f.type.kind not in ("bytes", "json") and _treatment(f, fields) != "stored"]
    rows = len(batch)
    return Changes(
        keys=terms,
        gone=gone,
        documents=named(batch.schema.names, [values(of[f.name], f.type) for f in batch.schema.fields], rows),
        words=named([f.name for f in by_words], [_words(of[f.name], f) for f in by_words], rows),
        exact=named([f.name for f in by_value], [_exact(of[f.name], f) for f in by_value], rows),
        text=_together([of[f.name] for f in by_words if f.type.kind != "json"], rows),
    )


def _treatment(f: Field, fields: Mapping[str, Treatment]) -> Treatment:
    if f.name in fields:
        return fields[f.name] if f.type.kind in ("text", "json", "uuid", "numeric") or fields[f.name] != "text" else "exact"
    return {"text": "text", "json": "text", "bytes": "stored"}.get(f.type.kind, "exact")  # type: ignore[return-value]


def _together(columns: Sequence[pa.Array], rows: int) -> pa.Array:
    if not columns:
        return pa.array([""] * rows, pa.string())
    return pc.binary_join_element_wise(*[pc.fill_null(c, "") for c in columns], "\n")


def _words(column: pa.Array, f: Field) -> pa.Array:
    return _json(column) if f.type.kind == "json" else quoted(column)


def _json(column: pa.Array) -> pa.Array:
    """JSON columns as the JSON that they are; text that is none as a string. Row by row: each must be parsed to know."""
    return pa.array([None if t is None else t if _is_indexable(t) else json.dumps(t) for t in column.to_pylist()], pa.string())


def _is_indexable(text: str) -> bool:
    """JSON that the index reads too: no deeper than it goes, no number beyond a float, no half of a surrogate pair."""
    if text.count("[") + text.count("{") > JSON_DEPTH_MAX:
        return False
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a number that the index can hold")
    return value


def _exact(column: pa.Array, f: Field) -> pa.Array:
    """A column as the typed value that queries compare with: what has no such value is null."""
    match f.type.kind:
        case "decimal" | "numeric" | "float32" | "float64":
            numbers = column if f.type.kind.startswith("float") else pc.cast(_numbers(column), pa.float64())
            return values(pc.if_else(pc.is_finite(numbers), numbers, None), f.type if f.type.kind == "float32" else Type("float64"))
        case "date":
            return joined('"', iso(column, "date"), 'T00:00:00Z"')
        case "timestamp":
            return joined('"', iso(column, "timestamp"), 'Z"')
        case "text" | "uuid":
            return quoted(pc.if_else(pc.less_equal(pc.binary_length(column), EXACT_BYTES_MAX), column, None))
        case _:
            return values(column, f.type)


def _numbers(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    return pc.if_else(pc.match_substring_regex(column, r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"), column, None)
