"""The command line in this process: a project in a temporary folder, its database a script, its environment a dictionary."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from millstream.catalogue.store import Catalogue
from millstream.cli.app import call
from millstream.cli.output import Secrets
from millstream.components import Component
from millstream.errors import Refused, Retryable
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.sql import sqlite_engine
from millstream.sinks import kinds as sink_kinds
from millstream.sources.contract import Delivery
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource
from millstream.wiring import Wiring

PASSWORD = "hunter2-and-more"
URL = f"scripted://reader:{PASSWORD}@db.example:5432/shop"

IDLE_S = 0.005

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("note", Type("text"), 3)), ("id",))

SOURCE = """\
source: shop
connector: scripted
url: ${SHOP_URL}
tables: [public.orders]
owner: team-shop
"""
PIPELINE = """\
pipeline: large
owner: team-shop
steps:
  - name: large
    sql: SELECT id, amount, note FROM shop.public.orders WHERE amount >= 100
sinks:
  - {from: large, search: {index: orders}}
  - {from: large, jsonl: {file: large.jsonl}}
"""


class Options(BaseModel):
    url: SecretStr
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Scripted(Component):
    """A kind of source that opens the test's script in place of a driver."""

    make: Callable[[str, Options], Any] = field(kw_only=True)

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(*args, **kwargs)


@dataclass
class Answer:
    """What a call printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class ShopSource(ScriptedSource):
    """The script, with what a server may say on the way."""

    def __init__(self, shop: Shop, name: str, options: Options) -> None:
        super().__init__(name, shop.database)
        self._shop, self._options, self._quiet = shop, options, threading.Event()

    def stream(self, resume_after: Position | None) -> Iterator[Delivery]:
        for delivery in super().stream(resume_after):
            if delivery.idle and self._shop.when_idle is not None and self._loaded():
                act, self._shop.when_idle = self._shop.when_idle, None
                act()
            yield delivery
            if delivery.idle:  # as a source waits for its server: who asks on and on keeps the other threads from running
                self._quiet.wait(IDLE_S)

    def _loaded(self) -> bool:
        """Every chunk that was begun has been given its mark, and one was begun."""
        return isinstance(self._shop.database.log[-1], str)

    def check(self) -> None:
        self._shop.checked.append(self.name)
        if self._shop.refuses:
            raise Refused(self._shop.refuses, code="wal_level", where=self.name, cure="ALTER SYSTEM SET wal_level = logical")

    def tables(self) -> Any:
        self._shop.asked += 1
        if self._shop.down:
            raise Retryable(f"no answer from {self._options.url.get_secret_value()}", code="source_down", where=self.name, cure="start it")
        return super().tables()


@dataclass
class Shop:
    """A project, its database, and the command line."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    database: ScriptedDatabase = field(default_factory=lambda: ScriptedDatabase({"public.orders": ORDERS}, random.Random(7)))
    env: dict[str, str] = field(default_factory=lambda: {"SHOP_URL": URL})
    refuses: str = ""
    when_idle: Callable[[], None] | None = None
    down: bool = False
    asked: int = 0
    checked: list[str] = field(default_factory=list)

    def __call__(self, *arguments: str) -> Answer:
        kind = Scripted("scripted", Options, "", make=lambda name, options: ShopSource(self, name, options))
        wiring = Wiring(self.env, sources=(kind,), sinks=sink_kinds.KINDS)
        self.capture.readouterr()
        code = call(["--project", str(self.folder), *arguments], wiring, Secrets())
        return Answer(code, *self.capture.readouterr())

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def order(self, number: int, amount: int, note: str = "") -> None:
        """Commit one new order."""
        self.database.commit(Change("public.orders", None, {"id": number, "amount": amount, "note": note}))

    @contextmanager
    def catalogue(self) -> Iterator[Catalogue]:
        engine = sqlite_engine(self.home / "mesh.db")
        yield Catalogue(engine)
        engine.dispose()

    @property
    def password(self) -> str:
        """What must be seen nowhere."""
        return PASSWORD

    @property
    def home(self) -> Path:
        return self.folder / ".millstream"


@pytest.fixture
def shop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shop:
    """A project with one source, one filter, an index and a file; three orders in the database, two of them large."""
    made = Shop(tmp_path, capsys)
    made.write("mesh.yaml", "mesh: shop_mesh\n")
    made.write("sources/shop.yaml", SOURCE)
    made.write("pipelines/large.yaml", PIPELINE)
    for number, amount, note in ((1, 50, "small"), (2, 150, "green tea"), (3, 250, "black tea")):
        made.order(number, amount, note)
    return made
