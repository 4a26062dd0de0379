"""The small rows of the file: topics, writers' records, readers' notes. Blocks have their own modules.

Every function takes a connection and leaves transactions to its caller.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from millstream.errors import Irrecoverable, Refused
from millstream.events.origin import Origin
from millstream.topics.contract import ProducerRecord, Topic

_TOPIC = "SELECT name, key, key_schema_id, grade, origin, incarnation, checksum FROM topics"
_WRITER = "SELECT name, fence, sequence, state, ends, checksum FROM producers"

# The end that a topic's row tells, and the one that its last block tells.
_PLACE = """
SELECT id, next_offset, (SELECT next_offset FROM blocks WHERE topic_id = topics.id ORDER BY first_offset DESC LIMIT 1)
FROM topics WHERE name = ?
"""


def compact(value: Any) -> str:
    """Plain JSON. Raises TypeError or ValueError for what JSON cannot hold (NaN among them)."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def all_topics(connection: sqlite3.Connection) -> list[Topic]:
    """By name."""
    return [_topic(row) for row in connection.execute(f"{_TOPIC} ORDER BY name")]


def find_topic(connection: sqlite3.Connection, name: str) -> Topic | None:
    row = connection.execute(f"{_TOPIC} WHERE name = ?", (name,)).fetchone()
    return _topic(row) if row else None


def put_topic(connection: sqlite3.Connection, topic: Topic) -> None:
    """Add the topic, at offset 0, or bring its incarnation up to date."""
    values = (topic.name, compact(topic.key), topic.key_schema_id, topic.grade, compact(asdict(topic.origin)), topic.incarnation)
    connection.execute(
        "INSERT INTO topics (name, key, key_schema_id, grade, origin, incarnation, checksum, next_offset) VALUES (?, ?, ?, ?, ?, ?, ?, 0) "
        "ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation, checksum = excluded.checksum",
        (*values, _checksum(values)),
    )


def place(connection: sqlite3.Connection, name: str) -> tuple[int, int]:
    """The topic's row id and end. Raises Refused("topic_unknown"), Irrecoverable("topic_damaged")."""
    row = connection.execute(_PLACE, (name,)).fetchone()
    if row is None:
        raise unknown(name)
    topic_id, end, last = row
    if end != (last or 0):
        raise damaged(f"{name}@{last}", f"the topic is said to end at {end}, its last block at {last}")
    return topic_id, end


def ends(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT name, next_offset FROM topics"))


def open_writer(connection: sqlite3.Connection, name: str) -> ProducerRecord:
    """The record of the writer `name`, made if it is new, its fence raised by one."""
    last = find_writer(connection, name) or ProducerRecord(name, 0, 0, {}, {})
    record = replace(last, fence=last.fence + 1)
    put_writer(connection, record)
    return record


def find_writer(connection: sqlite3.Connection, name: str) -> ProducerRecord | None:
    row = connection.execute(f"{_WRITER} WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    _check(row, f"producer {name}")
    _, fence, sequence, state, ends, _ = row
    return ProducerRecord(name, fence, sequence, json.loads(state), json.loads(ends))


def put_writer(connection: sqlite3.Connection, record: ProducerRecord) -> None:
    values = (record.name, record.fence, record.sequence, compact(record.state), compact(record.ends))
    connection.execute(
        "INSERT OR REPLACE INTO producers (name, fence, sequence, state, ends, checksum) VALUES (?, ?, ?, ?, ?, ?)",
        (*values, _checksum(values)),
    )


def note_readers(connection: sqlite3.Connection, notes: Mapping[str, Mapping[str, int]]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO readers (reader, topic, offset) VALUES (?, ?, ?)",
        [(reader, topic, offset) for reader, positions in notes.items() for topic, offset in positions.items()],
    )


def noted_readers(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    noted: dict[str, dict[str, int]] = {}
    for reader, topic, offset in connection.execute("SELECT reader, topic, offset FROM readers ORDER BY reader, topic"):
        noted.setdefault(reader, {})[topic] = offset
    return noted


def unknown(topic: str) -> Refused:
    return Refused(f"there is no topic {topic!r}", code="topic_unknown", where=topic, cure="create it first, or mend the name")


def damaged(where: str, what: str) -> Irrecoverable:
    """`where` is topic@offset, or what else is damaged."""
    return Irrecoverable(
        what,
        code="topic_damaged",
        where=where,
        cure="put a sound copy of the topics' file back (with its -wal), or make the topic anew and backfill it from its source",
    )


def _topic(row: tuple[Any, ...]) -> Topic:
    _check(row, str(row[0]))
    name, key, key_schema_id, grade, origin, incarnation, _ = row
    return Topic(name, tuple(json.loads(key)), key_schema_id, grade, Origin(**json.loads(origin)), incarnation)


def _check(row: tuple[Any, ...], where: str) -> None:
    """The last column is the checksum of those before it: a position with one digit changed would lose events."""
    if _checksum(row[:-1]) != row[-1]:
        raise damaged(where, "the stored row does not match its checksum")


def _checksum(values: tuple[Any, ...]) -> int:
    return zlib.crc32("\0".join(map(str, values)).encode(errors="surrogatepass"))
