"""COPY's text format, in columns: where each field of each row lies.

The fields are the text that pgoutput sends too, so the same `values` reads them.
Reference: PostgreSQL 18, COPY, "Text Format".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from millstream.sources.octets import PADDING, Cells, Octets

_TAB, _NEWLINE, _BACKSLASH = b"\t\n\\"
_NULL = ord("N")

# What stands after a backslash, and what both together mean.
_MEANT = np.arange(256, dtype=np.uint8)
_MEANT[np.frombuffer(b"bfnrtv", np.uint8)] = np.frombuffer(b"\b\f\n\r\t\v", np.uint8)


def columns(rows: list[bytes], count: int) -> tuple[Octets, list[Cells]]:
    """The `count` columns of `rows`, each row ending in its newline. Raises ValueError on rows of another width."""
    data = b"".join(rows)
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero((raw == _TAB) | (raw == _NEWLINE))
    if len(ends) != len(rows) * count:
        raise ValueError(f"{len(rows)} rows of {count} columns have {len(ends)} fields")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if len(ends) else np.empty(0, np.int64)
    null = _nulls(raw, starts, ends)
    octets, starts, ends = _unescaped(data, raw, starts, ends)
    length = np.where(null, 0, ends - starts)
    at = np.where(null, 0, starts)
    shape = (len(rows), count)
    at, length, null = at.reshape(shape), length.reshape(shape), null.reshape(shape)
    return octets, [Cells(at[:, j], length[:, j], null[:, j]) for j in range(count)]


def _nulls(raw: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """A field is null where it is \\N as it stands, before anything is unescaped."""
    null: npt.NDArray[np.bool_] = ends - starts == 2
    null[null] = (raw[starts[null]] == _BACKSLASH) & (raw[starts[null] + 1] == _NULL)
    return null


def _unescaped(
    data: bytes, raw: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[Octets, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The bytes without their escapes, and the fields' places in them."""
    slashes = np.flatnonzero(raw == _BACKSLASH)
    if not len(slashes):
        return Octets(data + PADDING), starts, ends
    # In a run of backslashes the first, third, fifth … begin an escape.
    begins_run = np.concatenate([[True], np.diff(slashes) != 1])
    place = np.arange(len(slashes))
    in_run = place - np.maximum.accumulate(np.where(begins_run, place, 0))
    escapes = slashes[in_run % 2 == 0]
    plain = raw.copy()
    plain[escapes + 1] = _MEANT[plain[escapes + 1]]
    keep = np.ones(len(raw), np.bool_)
    keep[escapes] = False
    octets = Octets(plain[keep].tobytes() + PADDING)
    return octets, starts - np.searchsorted(escapes, starts), ends - np.searchsorted(escapes, ends)
