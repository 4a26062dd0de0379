"""One world to play faults in: two databases under a steady workload, a mesh over them, and the oracle's eyes on all of it.

What is found is read from the files that the ended process left: topics, index, Iceberg table, JSON lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import faults_oracle as oracle
import psycopg
from faults_events import Change, Event, Row, changes, row
from faults_files import Readings, by_id, drop_database, lake_of
from faults_project import DOCUMENT, RECENT, Project, until
from faults_workload import TABLES, Workload, create
from pyiceberg.catalog import load_catalog

from millstream.testing.postgres_server import PostgresServer

SOURCES = {f"{database}.public.{table}": (database, table) for database, tables in TABLES.items() for table in tables}
RECENT_TOPIC, DOCUMENT_TOPIC = "recents.recent", "documents.document"
SETTINGS = {"wal_sender_timeout": "2s", "max_connections": "60"}
"""Of a server for worlds: a stopped reader's slot is free again soon."""

_worlds = count(1)


class World(Readings):
    """Enter it: the databases are made, the mesh is applied, the workload writes. Nothing of it runs yet."""

    def __init__(self, server: PostgresServer, folder: Path, *, seed: object, pace_s: float = 0.03) -> None:
        self.server = server
        number = next(_worlds)
        self.databases = {name: f"faults_{number}_{name}" for name in TABLES}
        self.settings = {f"{name.upper()}_URL": server.url(database) for name, database in self.databases.items()}
        self.settings |= {f"{name.upper()}_SLOT": database for name, database in self.databases.items()}  # slots are the server's
        super().__init__(Project(folder, self.settings))
        self.workload = Workload(self.connect, seed, pace_s=pace_s)
        self._audit: dict[str, list[tuple[str, Change]]] = {name: [] for name in TABLES}
        self._surely_after: dict[str, int] = {}

    def __enter__(self) -> World:
        for database in self.databases.values():
            self.server.create_database(database)
        create(self.connect)
        self.workload.start()
        self.project.command("apply")
        self._mark()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.project.close()
        try:
            self.workload.stop()
        finally:
            for database in self.databases.values():
                drop_database(self.server, database)

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return self.server.connect(self.databases[name])

    # ---- the truth

    def _mark(self) -> None:
        """From the first moment at which a slot is seen, every change that is still to be made must reach its topic."""
        for name, database in self.databases.items():
            slots = "SELECT count(*) FROM pg_replication_slots WHERE database = %s AND confirmed_flush_lsn IS NOT NULL"
            with self.connect(name) as connection:
                if name not in self._surely_after and (connection.execute(slots, [database]).fetchone() or (0,))[0]:
                    (self._surely_after[name],) = connection.execute("SELECT last_value FROM audit_seq_seq").fetchone() or (0,)

    def audit(self, name: str) -> list[tuple[str, Change]]:
        """All that was committed in one database, in the order of seq, with the table's name. Only while nothing is open."""
        known = self._audit[name]
        after = known[-1][1].seq if known else 0
        with self.connect(name) as connection:
            found = connection.execute(
                "SELECT seq, xid::text::bigint, tbl, op, before::text, after::text FROM audit WHERE seq > %s ORDER BY seq", [after]
            ).fetchall()
        known += [(tbl, c) for seq, xid, tbl, op, was, became in found for c in changes(seq, xid, op, was, became)]
        return known

    def table(self, topic: str) -> dict[int, Row]:
        """The rows of a source topic's table as they are now."""
        name, table = SOURCES[topic]
        return self._query(name, f"SELECT * FROM {table}")

    def truth(self, sql: str) -> dict[int, Row]:
        """What Postgres itself makes of a step's SQL: the people are copied to the other database's side for it."""
        with self.connect("people") as people, self.connect("catalogue") as catalogue, catalogue.transaction(force_rollback=True):
            catalogue.execute("CREATE TEMP TABLE person (id bigint, name text, born integer, note text)")
            copied = people.execute("SELECT id, name, born, note FROM person").fetchall()
            with catalogue.cursor() as cursor:
                cursor.executemany("INSERT INTO person VALUES (%s, %s, %s, %s)", copied)
            sql = sql.replace("catalogue.public.", "").replace("people.public.", "")
            return by_id(catalogue, sql)

    def _query(self, name: str, sql: str) -> dict[int, Row]:
        with self.connect(name) as connection:
            return by_id(connection, sql)

    # ---- what there is

    def changelog(self) -> list[Event]:
        """Every row of the Iceberg table. A row there has one image: after, or before where the row is gone."""
        found = load_catalog(**self.catalog()).load_table("lake.documents").scan().to_arrow().to_pylist()
        made = []
        for f in found:
            image = row({k: v for k, v in f.items() if not k.startswith("_")})
            gone = f["_op"] == "d"
            assert image is not None
            made.append(Event(f["_offset"], f["_op"], image["id"], f["_version"], image if gone else None, None if gone else image))
        return made

    def catalog(self) -> dict[str, str]:
        return lake_of(self.project)

    # ---- the verdict

    def complaints(self) -> list[str]:
        """Everything that is not as it must be. Only while the workload is paused and all is caught up."""
        said: list[str] = []
        with self.topics() as topics:
            for name, (database, table) in SOURCES.items():
                audit = [c for t, c in self.audit(database) if t == table]
                said += oracle.source_topic(name, self.events(topics, name), audit, self.table(name), self._surely_after.get(database))
            recent, documents = self.truth(RECENT), self.truth(DOCUMENT)
            recent_events, document_events = self.events(topics, RECENT_TOPIC), self.events(topics, DOCUMENT_TOPIC)
            movies = self.events(topics, "catalogue.public.movie")
        said += oracle.filtered_topic(RECENT_TOPIC, recent_events, movies, recent_of, recent)
        said += oracle.joined_topic(DOCUMENT_TOPIC, document_events, documents)
        said += oracle.written("recent.jsonl", recent_events, self.lines("recent.jsonl"))
        said += oracle.written("documents.jsonl", document_events, self.lines("documents.jsonl"))
        said += oracle.rows("index", self.index(), documents)
        rows = self.changelog()
        said += oracle.written("iceberg", [_one_image(e) for e in document_events], rows, in_order=False)
        said += oracle.rows("iceberg now", _present(rows), documents)
        return said

    def check(self, *, catch_up: bool = True) -> None:
        """Bring everything up to date without a fault and hold it against the truth."""
        with self.workload.paused():
            if catch_up:
                self.project.catch_up()
            self.verdict()

    def verdict(self) -> None:
        """Raises AssertionError with the first complaints. The workload must be paused."""
        self._mark()
        assert self._surely_after.keys() == TABLES.keys(), "a source has no slot: nothing says from where on its changes must be there"
        self.judge(self.complaints())

    def until_loaded(self) -> None:
        """Wait until every output has events: the initial load is through and pipelines have begun."""
        until("events in every output", lambda: all(self.ends().get(t, 0) for t in (RECENT_TOPIC, DOCUMENT_TOPIC)))

    def snapshot(self) -> int | None:
        """The Iceberg table's present one."""
        current = load_catalog(**self.catalog()).load_table("lake.documents").current_snapshot()
        return None if current is None else int(current.snapshot_id)


def recent_of(movie: Row) -> Row | None:
    """`RECENT`, by hand."""
    matches = movie["released"] and movie["year"] is not None and movie["year"] >= 2000
    return {name: movie[name] for name in ("id", "title", "year", "rating", "changed", "director_id")} if matches else None


def _one_image(event: Event) -> Event:
    return replace(event, before=event.before if event.after is None else None)


def _present(found: Sequence[Event]) -> list[Row]:
    """The rows that are there now, by the version of each change."""
    last: dict[int, Event] = {}
    for event in sorted(found, key=lambda e: e.version):
        last[event.key] = event
    return [e.after for e in last.values() if e.after is not None]


def codes(words: str) -> set[str]:
    """The error codes that a command's words name."""
    return set(re.findall(r"\[([a-z_]+)\]", words))
