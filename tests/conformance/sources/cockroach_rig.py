"""What the suite needs to work a CockroachDB: the stand-in, or the real cluster that MILLSTREAM_COCKROACH_URL names.

On a cluster each rig has a database of its own, dropped at the end. What only the stand-in can be made to do is asked of `standin`.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sources_rig import opener

from millstream.sources.contract import Delivery, Source
from millstream.testing.cockroach.server import CockroachServer

URL = os.environ.get("MILLSTREAM_COCKROACH_URL", "")
CLUSTER = "cluster"
PACE = 40.0
"""How much faster than a real server the stand-in's feeds are: a resolved time about every 0.08 s, as much behind."""


class CockroachRig:
    """Tables `a` and `b` of (id INT8 key, v STRING)."""

    tables = ("public.a", "public.b")

    def __init__(self, server: CockroachServer | None) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._opened: list[Source] = []
        self.database = "defaultdb"
        if server is None:
            self.database = f"millstream_{secrets.token_hex(4)}"
            with psycopg.connect(URL, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {self.database}".encode())
                connection.execute(b"SET CLUSTER SETTING kv.rangefeed.enabled = true")
        for table in self.tables:
            self.run(f"CREATE TABLE {table} (id INT8 PRIMARY KEY, v STRING)")

    @property
    def standin(self) -> CockroachServer:
        if self._server is None:
            pytest.skip("a cluster cannot be made to do this: shown on the stand-in alone")
        return self._server

    @property
    def is_cluster(self) -> bool:
        return self._server is None

    @property
    def is_old(self) -> bool:
        """22.1, whose feeds and schema changes behave otherwise."""
        return self._server is not None and self._server.version == "22.1"

    def url(self, user: str | None = None, password: str | None = None) -> str:
        parameters = conninfo_to_dict(URL if self._server is None else self._server.url(self.database, user or "root"))
        parameters["dbname"] = self.database
        if user is not None:
            parameters |= {"user": user} | ({"password": password} if password is not None else {})
        return make_conninfo(**parameters)

    @contextmanager
    def connected(self, user: str | None = None) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.url(user), autocommit=True, prepare_threshold=None) as connection:
            yield connection

    def run(self, *statements: str) -> None:
        """Each in a transaction of its own."""
        with self.connected() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def transaction(self, *statements: str) -> None:
        with self.connected() as connection:
            for statement in ("BEGIN", *statements, "COMMIT"):
                connection.execute(statement.encode())

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connected() as connection:
            return connection.execute(statement.encode()).fetchall()

    def feeds(self) -> int:
        """How many changefeeds run."""
        if self._server is not None:
            return self._server.feeds()
        found = self.rows(f"SELECT query FROM [SHOW CLUSTER QUERIES] WHERE query LIKE 'CREATE CHANGEFEED%{self.database}%'")
        return len(found) or len(self.rows("SELECT query FROM [SHOW CLUSTER QUERIES] WHERE query LIKE 'CREATE CHANGEFEED FOR TABLE%'"))

    def cut_connections(self) -> None:
        """As a network fault or a failover would."""
        if self._server is not None:
            self._server.faults.kill(feeds_only=False)
        else:
            self.run("CANCEL SESSIONS (SELECT session_id FROM [SHOW CLUSTER SESSIONS] WHERE application_name LIKE 'millstream %')")

    def cut_feeds(self) -> None:
        """Only them: who writes goes on."""
        if self._server is not None:
            self._server.faults.kill()
        else:
            self.run("CANCEL QUERIES (SELECT query_id FROM [SHOW CLUSTER QUERIES] WHERE query LIKE 'CREATE CHANGEFEED FOR TABLE%')")

    def source(self, **options: Any) -> Source:
        """Another opening of the same source."""
        source = opener("cockroachdb")("rig", {"url": self.url(), "tables": self.tables, "resolved_every_s": 1.0, **options})
        self._opened.append(source)
        return source

    def checked(self, **options: Any) -> Source:
        source = self.source(**options)
        source.check()
        return source

    def close(self) -> None:
        for source in self._opened:
            source.close()
        if self._server is None:
            with psycopg.connect(URL, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {self.database} CASCADE".encode())


def key_of(event: dict[str, Any], key: Sequence[str] = ("id",)) -> tuple[Any, ...]:
    image = event["after"] or event["before"]
    return (event["table"], *(image[name] for name in key))


def told_once(events: Sequence[dict[str, Any]], key: Sequence[str] = ("id",)) -> list[dict[str, Any]]:
    """As admission leaves them: without what comes again, in the order in which each first came.

    Fails where the versions of a key do not rise at first sight: then something was lost, or came late.
    """
    last: dict[tuple[Any, ...], tuple[int, int]] = {}
    found = []
    for event in events:
        version, of = (event["major"], event["minor"]), key_of(event, key)
        if of in last and version <= last[of]:
            continue
        last[of] = version
        found.append(event)
    return found


def complete(deliveries: Sequence[Delivery]) -> dict[str, tuple[int, int]]:
    return dict(deliveries[-1].position.tables)
