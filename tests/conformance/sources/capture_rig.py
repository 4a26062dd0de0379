"""A connector over a rig's database and topics of its own, stepped by the test; and what its topics come to.

The oracle is the table: the fold of a topic, read in the newest version of its schema, has the table's rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa
from sources_rig import PATIENCE_S, PostgresRig

from millstream.capture.connector import Connector
from millstream.events import envelope
from millstream.events.batch import Batch
from millstream.events.nested import mapped
from millstream.events.types import RowSchema, Type
from millstream.schemas.sql import SqlRegistry
from millstream.sources.contract import Source
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

Event = dict[str, Any]

WRITE_EVERY_S = 0.003  # a machine that is busy with other things must be able to follow


class Opens(Protocol):
    """A rig, as far as a connector needs it."""

    def source(self, **options: Any) -> Source: ...
    def checked(self, **options: Any) -> Source: ...


@dataclass
class Captured:
    """Topics of the rig's tables as `apply` makes them, and the connector that is open, if one is."""

    rig: Opens
    folder: Path
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.registry = SqlRegistry(sa.create_engine(f"sqlite:///{self.folder}/mesh.db"))
        self.topics = LocalTopics(self.folder / "topics.db", self.registry)
        source = self.rig.checked(**self.options)
        for table in source.tables():
            name = f"rig.{table.name}"
            self.registry.register(f"{name}-value", envelope.value_schema(name, table.schema))
            key = self.registry.register(f"{name}-key", envelope.key_schema(name, table.schema))
            self.topics.create(Topic(name, table.schema.key, key.id, table.grade, table.origin))
        source.close()
        self.connector: Connector | None = None

    def open(self) -> Connector:
        """As after kill -9, if one is open: nothing of that one is closed but its connections, for the slot's sake."""
        if self.connector is not None:
            self.connector.close()
        self.source: Source = self.rig.source(**self.options)
        self.connector = Connector(self.source, self.topics, self.registry)
        self.connector.open()
        return self.connector

    def step(self, until: Callable[[], bool]) -> None:
        assert self.connector is not None
        give_up = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < give_up, f"not within {PATIENCE_S} s: {self.state()}"
            self.connector.step()

    def catch_up(self) -> None:
        """All that is committed now, and every backfill that is wanted."""
        connector = self.connector or self.open()
        head = self.source.head()

        def there() -> bool:
            at = connector.position
            return connector.loaded and at is not None and (at.major, at.minor) >= head

        self.step(there)

    def state(self) -> dict[str, Any]:
        record = self.topics.producer_record("source.rig")
        assert record is not None
        return dict(record.state)

    def batches(self, table: str) -> Iterator[Batch]:
        offset = 0
        while found := self.topics.read(f"rig.{table}", offset, bytes_max=1 << 20):
            offset = self.topics.read_end(found)
            yield from found

    def events(self, table: str) -> list[Event]:
        return [e for b in self.batches(table) for e in b.rows.to_pylist()]

    def schema(self, table: str) -> RowSchema:
        """The newest version."""
        return envelope.row_schema(self.registry.versions(f"rig.{table}-value")[-1].text, ("id",))

    def rows(self, table: str) -> dict[Any, dict[str, Any]]:
        """The topic's fold in the newest version: fields by id, absent ones by their fill."""
        schema = self.schema(table)
        now = Type("record", fields=schema.fields)
        rows: dict[Any, dict[str, Any]] = {}
        for batch in self.batches(table):
            was = Type("record", fields=batch.schema.fields)
            try:
                images = mapped(batch.column("after"), was, now).to_pylist()
            except pa.ArrowInvalid:  # a type that covers no earlier one: such a row must have been told again
                images = [image and {"told in": str(was)} for image in batch.column("after").to_pylist()]
            keys = [key["id"] for key in batch.keys().to_pylist()]
            for key, image in zip(keys, images, strict=True):
                if image is None:
                    rows.pop(key, None)
                else:
                    rows[key] = image
        return rows

    def check_order(self, table: str) -> None:
        """Versions of a key rise, live ones strictly; a before is what stood there."""
        versions: dict[Any, tuple[int, int]] = {}
        for e in self.events(table):
            key, version = (e["after"] or e["before"])["id"], (e["major"], e["minor"])
            before = versions.get(key, (0, -1))
            assert version > before, f"{key}: {version} does not rise above {before}"
            versions[key] = version

    def close(self) -> None:
        if self.connector is not None:
            self.connector.close()
        self.topics.close()


@contextmanager
def writing(rig: PostgresRig, write: Callable[[Any, int], None]) -> Iterator[None]:
    """`write(connection, n)` again and again beside the test, n = 0, 1, …; what it raises is raised at the end."""
    stop, failed = threading.Event(), []

    def work() -> None:
        n = 0
        try:
            with rig.server.connect(rig.database) as connection:
                while not stop.is_set():
                    write(connection, n)
                    n += 1
                    stop.wait(WRITE_EVERY_S)
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
