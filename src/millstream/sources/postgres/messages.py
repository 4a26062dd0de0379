"""The protocol's own words: what is in a replication stream besides rows, and what we answer.

Only the rare messages are read here, one at a time; rows are read in columns by `decode`.
Reference: PostgreSQL 18, "Streaming Replication Protocol" and "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

BEGIN, COMMIT, RELATION, INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE = b"BCRIUDTM"
XLOG_HEADER_BYTES = 25  # the letter, start, end, clock; the message follows, of at least one byte
KEEPALIVE_BYTES = 18  # which tells it from data
POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in microseconds since 1970

MARK_PREFIX = "millstream.mark"
HEARTBEAT_PREFIX = "millstream.heartbeat"


class BadFrame(Exception):
    """No further byte could make this a message of the protocol."""


@dataclass(frozen=True)
class Column:
    """`type_oid` and `typmod` as the catalogue had them when the row was written."""

    name: str
    type_oid: int
    typmod: int


@dataclass(frozen=True)
class Relation:
    """`identity` is the replica identity: d default, n nothing, f full, i index."""

    oid: int
    namespace: str
    name: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class LogicalMessage:
    """What `pg_logical_emit_message` wrote. `lsn` is where its record begins."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise BadFrame(f"text at byte {at} has no end")
    return data[at:end].decode(errors="replace"), end + 1


def _numbers(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as error:
        raise BadFrame(f"message at byte {at} is cut short: {error}") from None


def relation(data: bytes, at: int) -> Relation:
    """The Relation message that begins at `at`."""
    (oid,) = _numbers(">I", data, at + 1)
    namespace, at = _text(data, at + 5)
    name, at = _text(data, at)
    identity, count = _numbers(">BH", data, at)
    at += 3
    columns = []
    for _ in range(count):
        column, at = _text(data, at + 1)  # after its flags
        type_oid, typmod = _numbers(">Ii", data, at)
        at += 8
        columns.append(Column(column, type_oid, typmod))
    return Relation(oid, namespace or "pg_catalog", name, chr(identity), tuple(columns))


def logical_message(data: bytes, at: int) -> LogicalMessage:
    flags, lsn = _numbers(">BQ", data, at + 1)
    prefix, at = _text(data, at + 10)
    (length,) = _numbers(">I", data, at)
    return LogicalMessage(bool(flags & 1), lsn, prefix, data[at + 4 : at + 4 + length])


def truncated(data: bytes, at: int) -> tuple[int, ...]:
    """The oids of the tables that a Truncate names."""
    count, _ = _numbers(">IB", data, at + 1)
    return _numbers(f">{count}I", data, at + 6)


def keepalive(frame: bytes | memoryview) -> tuple[int, bool]:
    """(end of what the server has sent, whether it wants an answer now)."""
    end, _, asked = struct.unpack_from(">QQB", frame, 1)
    return end, bool(asked)


def standby_status(flushed: int, now_us: int) -> bytes:
    """The answer: everything before `flushed` is durable and may be forgotten. `now_us` since 1970."""
    return struct.pack(">cQQQQB", b"r", flushed, flushed, flushed, max(0, now_us - POSTGRES_EPOCH_US), 0)


def lsn_text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_of(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
