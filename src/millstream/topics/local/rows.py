"""The small rows of the file: topics, writers' records, readers' notes. Blocks have their own modules.

Every function takes a connection and leaves transactions to its caller.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from millstream.errors import Refused
from millstream.events.origin import Origin
from millstream.topics.contract import ProducerRecord, Topic

_TOPIC = "SELECT name, key, key_schema_id, grade, origin, incarnation FROM topics"


def compact(value: Any) -> str:
    """Plain JSON. Raises TypeError or ValueError for what JSON cannot hold (NaN among them)."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def all_topics(connection: sqlite3.Connection) -> list[Topic]:
    """By name."""
    return [_topic(row) for row in connection.execute(f"{_TOPIC} ORDER BY name")]


def find_topic(connection: sqlite3.Connection, name: str) -> Topic | None:
    row = connection.execute(f"{_TOPIC} WHERE name = ?", (name,)).fetchone()
    return _topic(row) if row else None


def add_topic(connection: sqlite3.Connection, topic: Topic) -> None:
    connection.execute(
        "INSERT INTO topics (name, key, key_schema_id, grade, origin, incarnation, next_offset) VALUES (?, ?, ?, ?, ?, ?, 0)",
        (topic.name, compact(topic.key), topic.key_schema_id, topic.grade, compact(asdict(topic.origin)), topic.incarnation),
    )


def place(connection: sqlite3.Connection, name: str) -> tuple[int, int]:
    """The topic's row id and end. Raises Refused("topic_unknown")."""
    row = connection.execute("SELECT id, next_offset FROM topics WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise unknown(name)
    return row[0], row[1]


def ends(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT name, next_offset FROM topics"))


def unknown(topic: str) -> Refused:
    return Refused(f"there is no topic {topic!r}", code="topic_unknown", where=topic, cure="create it first, or mend the name")


def open_writer(connection: sqlite3.Connection, name: str) -> ProducerRecord:
    """The record of the writer `name`, made if it is new, its fence raised by one."""
    connection.execute(
        "INSERT INTO producers (name, fence, sequence, state, ends) VALUES (?, 1, 0, '{}', '{}') "
        "ON CONFLICT (name) DO UPDATE SET fence = fence + 1",
        (name,),
    )
    record = find_writer(connection, name)
    assert record is not None
    return record


def find_writer(connection: sqlite3.Connection, name: str) -> ProducerRecord | None:
    row = connection.execute("SELECT fence, sequence, state, ends FROM producers WHERE name = ?", (name,)).fetchone()
    return ProducerRecord(name, row[0], row[1], json.loads(row[2]), json.loads(row[3])) if row else None


def replace_record(connection: sqlite3.Connection, record: ProducerRecord) -> None:
    """All but the fence, which only an opening raises."""
    connection.execute(
        "UPDATE producers SET sequence = ?, state = ?, ends = ? WHERE name = ?",
        (record.sequence, compact(record.state), compact(record.ends), record.name),
    )


def note_readers(connection: sqlite3.Connection, notes: Mapping[str, Mapping[str, int]]) -> None:
    connection.executemany(
        "INSERT INTO readers (reader, topic, offset) VALUES (?, ?, ?) ON CONFLICT (reader, topic) DO UPDATE SET offset = excluded.offset",
        [(reader, topic, offset) for reader, positions in notes.items() for topic, offset in positions.items()],
    )


def noted_readers(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    noted: dict[str, dict[str, int]] = {}
    for reader, topic, offset in connection.execute("SELECT reader, topic, offset FROM readers ORDER BY reader, topic"):
        noted.setdefault(reader, {})[topic] = offset
    return noted


def _topic(row: tuple[Any, ...]) -> Topic:
    name, key, key_schema_id, grade, origin, incarnation = row
    return Topic(name, tuple(json.loads(key)), key_schema_id, grade, Origin(**json.loads(origin)), incarnation)
