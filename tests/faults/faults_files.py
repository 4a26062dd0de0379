"""What the files of a mesh hold, and the databases beside it: read as they are, by whatever world they belong to."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from decimal import Decimal
from typing import Any

import psycopg
import tantivy
from faults_events import Event, Row, row
from faults_project import Project

from millstream.events import version
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.testing.postgres_server import PostgresServer
from millstream.topics.local import LocalTopics

READ_BYTES = 8 << 20
SHOWN_MAX = 12


class Readings:
    """What the outputs of a world's `project` hold. Topics are read on from where they were read before."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._events: dict[str, list[Event]] = {}

    def topics(self) -> AbstractContextManager[LocalTopics]:
        return opened_topics(self.project)

    def events(self, topics: LocalTopics, name: str) -> list[Event]:
        """All events of a topic, decoded from its file. What was read before is not read again: `reread` forgets it."""
        known = self._events.setdefault(name, [])
        for batch in batches_after(topics, name, known):
            known += events_of(batch)
        return known

    def reread(self) -> None:
        self._events.clear()

    def lines(self, file: str) -> list[Event]:
        """What a JSON lines file holds."""
        return lines_of(self.project, file)

    def index(self) -> list[Row]:
        """Every document of the search index."""
        path = self.project.state / "search" / "documents"
        if not path.exists():
            return []
        opened = tantivy.Index.open(str(path))
        opened.reload()
        searcher = opened.searcher()
        hits = searcher.search(tantivy.Query.all_query(), max(searcher.num_docs, 1)).hits
        stored = [searcher.doc(address).to_dict() for _, address in hits]
        return [row(bytes(d["_document"][0])) or {} for d in stored if "_document" in d]

    def ends(self) -> Mapping[str, int]:
        """Topic → the offset after its last record. Read beside whoever writes, without a lock."""
        path = self.project.state / "topics.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return dict(connection.execute("SELECT name, next_offset FROM topics").fetchall())

    def published(self) -> int:
        """How many records all topics hold; rises while a mesh is at work."""
        return sum(self.ends().values())

    def judge(self, said: list[str]) -> None:
        """Raises AssertionError with the first complaints, where there are any; all of them go to a file."""
        if said:
            kept = self.project.folder / "complaints.txt"
            kept.write_text("\n".join(said))
            more = f"\n… {len(said)} in all, in {kept}" if len(said) > SHOWN_MAX else ""
            raise AssertionError("\n".join(said[:SHOWN_MAX]) + more)


@contextmanager
def opened_topics(project: Project) -> Iterator[LocalTopics]:
    engine = sqlite_engine(project.state / "mesh.db")
    topics = LocalTopics(project.state / "topics.db", SqlRegistry(engine))
    try:
        yield topics
    finally:
        topics.close()
        engine.dispose()


def batches_after(topics: LocalTopics, name: str, known: list[Any]) -> Iterator[Any]:
    """The batches of a topic after the last of the events `known`."""
    offset = 0 if not known else known[-1].offset + (2 if known[-1].op == "d" else 1)
    while batches := topics.read(name, offset, bytes_max=READ_BYTES):
        yield from batches
        offset = topics.read_end(batches)


def events_of(batch: Any) -> list[Event]:
    """A batch in Arrow columns, event by event."""
    rows = batch.rows
    columns = [rows.column(c) for c in ("incarnation", "major", "minor")]
    versions = version.texts(*columns).to_pylist()
    parts = zip(
        batch.offsets.tolist(),
        rows.column("op").to_pylist(),
        batch.keys().to_pylist(),
        versions,
        rows.column("before").to_pylist(),
        rows.column("after").to_pylist(),
        rows.column("cause").to_pylist(),
        strict=True,
    )
    return [Event(offset, op, key["id"], v, row(before), row(after), cause) for offset, op, key, v, before, after, cause in parts]


def lines_of(project: Project, file: str) -> list[Event]:
    """What a JSON lines file holds; nothing where there is none."""
    path = project.folder / file
    found = [json.loads(line, parse_float=Decimal) for line in path.read_text().split("\n") if line] if path.exists() else []
    return [Event(f["offset"], f["op"], f["key"]["id"], f["version"], row(f["before"]), row(f["after"]), f.get("cause")) for f in found]


def lake_of(project: Project) -> dict[str, str]:
    """The Iceberg catalogue, as pyiceberg opens it."""
    lake = project.state / "lake"
    return {"name": "millstream", "type": "sql", "uri": f"sqlite:///{lake}/catalog.db", "warehouse": f"file://{lake}/warehouse"}


def by_id(connection: psycopg.Connection[Any], sql: str) -> dict[int, Row]:
    """The rows of a query, each as JSON has it."""
    found = [row(text) or {} for (text,) in connection.execute(f"SELECT to_jsonb(t)::text FROM ({sql}) t".encode())]
    return {r["id"]: r for r in found}


def drop_database(server: PostgresServer, name: str) -> None:
    """With whoever is in it, and its slots."""
    with server.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name])
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
