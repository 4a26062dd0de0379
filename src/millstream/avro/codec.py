"""The codec: Arrow columns to Avro data and back, a whole batch at a time.

It frames nothing by itself beyond putting a given prefix before each datum, and knows no events, topics or registries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.avro import schema
from millstream.avro.cursor import Cursor, malformed
from millstream.avro.pieces import Pieces
from millstream.avro.reader import Wanted, read, selected
from millstream.avro.writer import Column, write

# Work goes through in pieces that stay in the processor's cache and, in bytes, far below Arrow's 2 GiB a column.
_CHUNK_ROWS = 16_384
_CHUNK_BYTES = 64 << 20
_SPLIT_BYTES = 4 * _CHUNK_BYTES
_DATUM_BYTES_MAX = (1 << 31) - 1024


@dataclass(frozen=True)
class Datums:
    """Avro data back to back. `ends[i]` is where datum i ends in `data`; it starts where the one before ends."""

    data: bytes
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        starts = np.zeros(len(self.ends), np.int64)
        starts[1:] = self.ends[:-1]
        return starts


class Codec:
    """One record schema's columns ↔ bytes. Immutable: one may serve any number of threads."""

    def __init__(self, text: str) -> None:
        """Raises Refused("avro_schema") where the text is not a record's Avro schema."""
        self._record = schema.parse(text)
        self.arrow_type: pa.StructType = self._record.arrow

    def encode(self, columns: Mapping[str, Column] | pa.StructArray, rows: int, prefix: bytes = b"") -> Datums:
        """`rows` data of the record, each after `prefix`.

        A column is an array of `rows` values, a scalar (the same in every row), or a mapping of columns for a nested
        record that is null nowhere. Raises BadRecord("avro_unwritable") where a column is missing, has another type,
        or is null against the schema, naming field and row.
        """
        if rows == 0:
            return Datums(b"", np.zeros(0, np.int64))
        _require_rows(columns, rows, "")
        size = max(1, min(_CHUNK_ROWS, rows * _CHUNK_BYTES // max(1, _nbytes(columns))))
        chunks = [
            chunk
            for start in range(0, rows, size)
            for chunk in self._encode(_slice(columns, start, size), start, min(size, rows - start), prefix)
        ]
        if len(chunks) == 1:
            return Datums(*chunks[0])
        shifts = np.cumsum([0] + [len(data) for data, _ in chunks])
        return Datums(
            b"".join(data for data, _ in chunks), np.concatenate([ends + shift for (_, ends), shift in zip(chunks, shifts, strict=False)])
        )

    def decode(
        self,
        data: bytes,
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        fields: Collection[str] | None = None,
    ) -> pa.StructArray:
        """The record at each start..end, a struct of `arrow_type`; with `fields` (dotted paths) only of those.

        Ranges must lie in `data`, in order, without overlap (else ValueError); bytes between them are not looked at.
        Raises BadRecord("avro_malformed") naming field, row and byte (in `data`) where a range is not exactly one datum.
        """
        starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
        _require_ranges(len(data), starts, ends)
        wanted = None if fields is None else _tree(self._record, fields)
        if len(starts) == 0:
            return pa.array([], selected(self._record, wanted))
        chunks = [self._decode(data, starts[a:b], ends[a:b], a, wanted) for a, b in _chunks(starts, ends)]
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)

    def _encode(self, columns: Any, first: int, rows: int, prefix: bytes) -> Iterator[tuple[bytes, npt.NDArray[np.int64]]]:
        if rows > 1 and _nbytes(columns) > _SPLIT_BYTES:  # the large values stand close together
            half = rows // 2
            yield from self._encode(_slice(columns, 0, half), first, half, prefix)
            yield from self._encode(_slice(columns, half, rows - half), first + half, rows - half, prefix)
            return
        pieces = Pieces(rows, first)
        pieces.constant(prefix)
        write(self._record, columns, pieces, None, "")
        yield pieces.join()

    def _decode(
        self, data: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], first: int, wanted: Wanted | None
    ) -> pa.Array:
        cursor = Cursor.over(data, starts, ends, first)
        struct = read(self._record, cursor, "", wanted)
        over = cursor.at != cursor.end
        if over.any():
            row = int(np.argmax(over))
            raise cursor.bad("", over, f"{int(cursor.end[row] - cursor.at[row])} bytes are left after the last field")
        return struct


def _chunks(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of rows of at most `_CHUNK_ROWS` rows and about `_CHUNK_BYTES` bytes."""
    chunks, a = [], 0
    while a < len(starts):
        if ends[a] - starts[a] > _DATUM_BYTES_MAX:
            raise malformed("", a, int(starts[a]), f"a record of {int(ends[a] - starts[a])} bytes is larger than the codec takes")
        b = int(np.searchsorted(ends, starts[a] + _CHUNK_BYTES, "right"))
        b = min(max(b, a + 1), a + _CHUNK_ROWS)
        chunks.append((a, b))
        a = b
    return chunks


def _tree(record: schema.Record, paths: Collection[str]) -> Wanted:
    """Dotted paths as a tree; a whole field (None) outweighs parts of it. Raises ValueError on an unknown field."""
    tree: dict[str, Any] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        node = dict(record.fields).get(name)
        if node is None:
            raise ValueError(f"the record has no field {name!r} (asked for {path!r})")
        tree.setdefault(name, [])
        if rest and tree[name] is not None:
            tree[name].append(rest)
        else:
            tree[name] = None
    return {name: None if parts is None else _tree(_record_of(record, name), parts) for name, parts in tree.items()}


def _record_of(record: schema.Record, name: str) -> schema.Record:
    node = dict(record.fields)[name]
    inner = node.item if isinstance(node, schema.Nullable) else node
    if not isinstance(inner, schema.Record):
        raise ValueError(f"{name!r} is no record: it has no fields to choose from")
    return inner


def _require_ranges(size: int, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
    if len(starts) != len(ends):
        raise ValueError(f"{len(starts)} starts but {len(ends)} ends")
    if not len(starts):
        return
    if starts[0] < 0 or ends[-1] > size or (ends < starts).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError(f"the ranges of the data do not lie in order inside {size} bytes")


def _require_rows(column: Column, rows: int, path: str) -> None:
    if _is_nested(column):
        for name, child in column.items():
            _require_rows(child, rows, f"{path}.{name}" if path else name)
    elif isinstance(column, pa.Array):
        if len(column) != rows:
            raise ValueError(f"column {path or 'record'} has {len(column)} values, the batch {rows} rows")
    elif not isinstance(column, pa.Scalar):
        raise TypeError(f"column {path} is neither an Arrow array nor a scalar nor a mapping of them but a {type(column).__name__}")


def _is_nested(column: Column) -> bool:
    # Arrow's struct scalars are mappings too.
    return isinstance(column, Mapping) and not isinstance(column, pa.Scalar)


def _nbytes(column: Column) -> int:
    if _is_nested(column):
        return sum(_nbytes(child) for child in column.values())
    return int(column.nbytes) if isinstance(column, pa.Array) else 0


def _slice(column: Any, start: int, size: int) -> Any:
    if _is_nested(column):
        return {name: _slice(child, start, size) for name, child in column.items()}
    return column.slice(start, size) if isinstance(column, pa.Array) else column
