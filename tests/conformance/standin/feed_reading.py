"""A changefeed read by psycopg, as a user's test would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg

from millstream.testing.cockroach.faults import Timing
from millstream.testing.cockroach.hlc import Hlc

QUICK = Timing(lag_s=0.05, every_s=0.02, whole=False)
OPTIONS = "updated, mvcc_timestamp, diff, resolved='10ms', min_checkpoint_frequency='10ms'"


class Told(NamedTuple):
    topic: str | None
    key: str | None
    value: str

    @property
    def json(self) -> Any:
        return json.loads(self.value)

    @property
    def is_resolved(self) -> bool:
        return self.topic is None

    @property
    def at(self) -> Hlc:
        """Its `updated` or `resolved`."""
        said = self.json
        return Hlc.parse(said["resolved"] if self.is_resolved else said["updated"])


def read(url: str, sql: str, until: Callable[[list[Told]], bool]) -> list[Told]:
    """What the feed tells until the condition holds; `until` may also change something, once."""
    told: list[Told] = []
    connection = psycopg.connect(url, autocommit=True)
    try:
        with connection.cursor() as cursor:
            for topic, key, value in cursor.stream(sql):
                told.append(Told(topic, None if key is None else key.decode(), value.decode()))
                if until(told):
                    break
            else:
                return told
            connection.pgconn.finish()
    finally:
        connection.close()
    return told


def rows(told: list[Told]) -> list[Told]:
    return [t for t in told if not t.is_resolved]
