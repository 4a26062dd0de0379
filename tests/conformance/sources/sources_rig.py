"""What the suite needs of each kind of source: a rig, which is a real database with the hands to work it.

A kind with a log, in `sources.kinds`, without a rig here fails the suite. What tells things again has a suite of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from millstream.errors import MillstreamError
from millstream.events.progress import Position
from millstream.sources.contract import Delivery, Source
from millstream.sources.kinds import KINDS
from millstream.testing.postgres_server import PostgresServer

PATIENCE_S = 30.0


@dataclass
class Seen:
    """What a stream gave, in order. Events are dicts with `table` among their columns."""

    events: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    def add(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        for batch in delivery.batches:
            self.events += [{"table": batch.topic, **row} for row in batch.rows.to_pylist()]

    @property
    def position(self) -> Position:
        return self.deliveries[-1].position

    def of(self, table: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["table"] == table]

    def ops(self) -> list[tuple[str, Any, Any]]:
        return [(e["op"], e["before"], e["after"]) for e in self.events]


def read(stream: Iterator[Delivery], until: Callable[[Seen], bool]) -> Seen:
    """Take deliveries until `until` holds. Fails where it does not within PATIENCE_S: a stream never blocks for long."""
    seen = Seen()
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        seen.add(next(stream))
        if until(seen):
            return seen
    raise AssertionError(f"not within {PATIENCE_S} s; events so far: {seen.events[-5:]}")


def read_to_head(source: Source, stream: Iterator[Delivery]) -> Seen:
    """Everything that committed before this call."""
    head = source.head()
    return read(stream, lambda s: (s.position.major, s.position.minor) >= head)


def stops_with(stream: Any) -> tuple[Seen, MillstreamError]:
    """What the stream gives until it raises, and what."""
    seen = Seen()
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            seen.add(next(stream))
        except MillstreamError as error:
            return seen, error
    raise AssertionError("the stream goes on")


class PostgresRig:
    """Tables `a` and `b` of (id integer key, v text), in a database of its own."""

    tables = ("public.a", "public.b")

    def __init__(self, server: PostgresServer, database: str, open_kind: Callable[..., Source]) -> None:
        self.server, self.database, self._open = server, database, open_kind
        self._numbers = itertools.count(1)
        self._opened: list[Source] = []
        for table in self.tables:
            self.run(f"CREATE TABLE {table} (id integer PRIMARY KEY, v text)", f"ALTER TABLE {table} REPLICA IDENTITY FULL")

    def run(self, *statements: str) -> None:
        """Each in a transaction of its own."""
        with self.server.connect(self.database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def transaction(self, *statements: str, rolled_back: bool = False) -> None:
        with self.server.connect(self.database) as connection:
            connection.execute(b"BEGIN")
            for statement in statements:
                connection.execute(statement.encode())
            connection.execute(b"ROLLBACK" if rolled_back else b"COMMIT")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, self.database)

    def source(self, **options: Any) -> Source:
        """Another opening of the same source."""
        source = self._open("rig", {"url": self.server.url(self.database), "tables": self.tables, "heartbeat_s": 0.3, **options})
        self._opened.append(source)
        return source

    def checked(self, **options: Any) -> Source:
        source = self.source(**options)
        source.check()
        return source

    def wrong_password(self) -> tuple[Source, str]:
        """A source whose password is wrong, and that password."""
        with self.server.connect() as connection:
            connection.execute(f"CREATE ROLE {self.database}_guarded LOGIN REPLICATION PASSWORD 'right'".encode())
        url = self.server.url(self.database, f"{self.database}_guarded", "wr0ng-secret")
        return self.source(url=url), "wr0ng-secret"

    def cut_connections(self) -> None:
        """As a network fault or a failover would."""
        self.server.execute(
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{self.database}' AND pid <> pg_backend_pid()"
        )

    def close(self) -> None:
        for source in self._opened:
            source.close()


def opener(kind: str) -> Callable[[str, dict[str, Any]], Source]:
    component = next(k for k in KINDS if k.name == kind)

    def open_one(name: str, options: dict[str, Any]) -> Source:
        made: BaseModel = component.options(**options)
        opened: Source = component.open(name, made)
        return opened

    return open_one


def guarded(server: PostgresServer, database: str) -> None:
    """Without passwords for tests, but for roles whose name says so."""
    hba = server.data / "pg_hba.conf"
    line = f"host all {database}_guarded 127.0.0.1/32 scram-sha-256\n"
    hba.write_text(line + hba.read_text())
    server.execute("SELECT pg_reload_conf()")
