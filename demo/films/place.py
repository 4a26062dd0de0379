"""The CockroachDB that the demo runs on: a stand-in of its own, or a new database in the cluster that MILLSTREAM_COCKROACH_URL names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo

from millstream.testing.cockroach.process import CockroachProcess

CLUSTER = os.environ.get("MILLSTREAM_COCKROACH_URL", "")


@dataclass(frozen=True)
class Database:
    """`url` leads to a database that is empty. `standin`: what can be made to fail, unless this is a real cluster."""

    url: str
    standin: CockroachProcess | None

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)

    def unsettle(self) -> None:
        """As a busy cluster does: ranges are split, so that much is told again, and feeds break off. Only the stand-in can be asked."""
        if self.standin is not None:
            self.standin.tell("split")
            self.standin.tell("kill")


@contextmanager
def database(keep: bool, pace: float) -> Iterator[Database]:
    """`pace` is the stand-in's."""
    if not CLUSTER:
        with CockroachProcess("--pace", str(pace)) as standin:
            yield Database(standin.url, standin)
        return
    name = f"millstream_demo_{secrets.token_hex(4)}"
    with psycopg.connect(CLUSTER, autocommit=True) as connection:
        connection.execute("SET CLUSTER SETTING kv.rangefeed.enabled = true")
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield Database(make_conninfo(CLUSTER, dbname=name), None)
        finally:
            if not keep:
                connection.execute(f"DROP DATABASE {name} CASCADE")
