"""A mesh with its registry for others, and one with another's registry: the commands, from `apply` to what reads the topics."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from pydantic import BaseModel

import millstream
from millstream.catalogue.store import Catalogue
from millstream.cli.app import call
from millstream.cli.output import Secrets
from millstream.components import Component
from millstream.events.types import Field, RowSchema, Type
from millstream.schemas.avrocompat import check
from millstream.schemas.rest.endpoints import Api
from millstream.schemas.rest.server import app, served
from millstream.schemas.rest.settings import Settings
from millstream.schemas.rest.subjects import Subjects
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks import kinds as sink_kinds
from millstream.testing.scripted_source import Change, ScriptedDatabase, ScriptedSource
from millstream.wiring import Wiring

pytestmark = pytest.mark.timeout(120)

ORDERS = RowSchema((Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2)), ("id",))
SUBJECT = "shop.public.orders-value"
OTHERS = '{"type": "record", "name": "Other", "fields": []}'


class Options(BaseModel):
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Scripted(Component):
    make: Callable[[str], Any] = field(kw_only=True)

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(args[0])


@dataclass
class Answer:
    code: int
    out: str
    err: str


class Project:
    """A source of two orders, a filter, a file. `registry` is what mesh.yaml says of it."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str], registry: str, env: dict[str, str] | None = None) -> None:
        self.folder, self._capture, self._env = folder, capture, env or {}
        self.database = ScriptedDatabase({"public.orders": ORDERS}, random.Random(3))
        for number, amount in ((1, 50), (2, 150)):
            self.database.commit(Change("public.orders", None, {"id": number, "amount": amount}))
        for name in ("sources", "pipelines"):
            (folder / name).mkdir(parents=True)
        (folder / "mesh.yaml").write_text(f"mesh: shop\nregistry: {registry}\n")
        (folder / "sources/shop.yaml").write_text("source: shop\nconnector: scripted\ntables: [public.orders]\nowner: me\n")
        steps = "steps:\n  - name: large\n    sql: SELECT id, amount FROM shop.public.orders WHERE amount > 100\n"
        sinks = "sinks:\n  - {from: large, jsonl: {file: large.jsonl}}\n"
        (folder / "pipelines/large.yaml").write_text(f"pipeline: large\nowner: me\n{steps}{sinks}")

    def __call__(self, *arguments: str) -> Answer:
        kind = Scripted("scripted", Options, "", make=lambda name: ScriptedSource(name, self.database))
        self._capture.readouterr()
        wiring = Wiring(self._env, sources=(kind,), sinks=sink_kinds.KINDS)
        code = call(["--project", str(self.folder), *arguments], wiring, Secrets())
        return Answer(code, *self._capture.readouterr())


@pytest.fixture
def listen() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def until(true: Callable[[], bool]) -> None:
    give_up, pause = time.monotonic() + 60, threading.Event()
    while not true():
        assert time.monotonic() < give_up
        pause.wait(0.02)


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except OSError:
        return False
    return True


def when_it_answers(url: str, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as a registry answers there; then stop this process's command by SIGTERM."""

    def work() -> None:
        try:
            host, port = url.removeprefix("http://").split(":")
            until(lambda: answers(host, int(port)))
            act()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_running_mesh_serves_its_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str], listen: str) -> None:
    project = Project(tmp_path, capsys, f'{{listen: "{listen}", token: "${{TOKEN}}"}}', {"TOKEN": "s3cret-token"})
    assert project("apply").code == 0
    seen: dict[str, Any] = {}

    def look() -> None:
        with SchemaRegistryClient({"url": f"http://{listen}"}) as client:
            seen["subjects"] = client.get_subjects()
            seen["fields"] = json.loads(client.get_latest_version(SUBJECT).schema.schema_str)["fields"][0]["name"]
            seen["id"] = client.register_schema("others-value", Schema(OTHERS, "AVRO"))
        for header in ({}, {"authorization": "Bearer s3cret-token"}):
            seen.setdefault("deleted", []).append(httpx2.delete(f"http://{listen}/subjects/{SUBJECT}", headers=header).json()["error_code"])

    thread = when_it_answers(f"http://{listen}", look)
    answer = project("run")
    thread.join()
    assert answer.code == 0, answer.err
    assert {SUBJECT, "shop.public.orders-key", "large.large-value"} <= set(seen["subjects"])
    assert seen["fields"] == "before"
    assert listen in answer.out
    assert seen["deleted"] == [40101, 42205]
    engine = sqlite_engine(tmp_path / ".millstream/mesh.db")
    assert SqlRegistry(engine).by_id(seen["id"]) == '{"type":"record","name":"Other","fields":[]}'
    engine.dispose()
    assert "s3cret-token" not in answer.out + answer.err


def test_serving_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], listen: str) -> None:
    project = Project(tmp_path, capsys, "{}")
    seen = []
    thread = when_it_answers(f"http://{listen}", lambda: seen.append(httpx2.get(f"http://{listen}/config").json()))
    answer = project("registry", "serve", "--listen", listen)
    thread.join()
    assert (answer.code, seen) == (0, [{"compatibilityLevel": "BACKWARD"}])
    assert listen in answer.out


@pytest.mark.parametrize(("at", "code"), [("0.0.0.0:8081", "registry_open"), ("8081", "bad_value"), ("127.0.0.1:http", "bad_value")])
def test_where_it_does_not_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str, code: str) -> None:
    answer = Project(tmp_path, capsys, "{}")("registry", "serve", "--listen", at)
    assert answer.code == 2
    assert f"error[{code}]" in answer.err


def test_an_address_that_is_taken_is_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        project = Project(tmp_path, capsys, f'{{listen: "127.0.0.1:{holder.getsockname()[1]}"}}')
        project("apply")
        answer = project("run", "--until-caught-up")
    assert answer.code == 2
    assert "address_in_use" in answer.err


@pytest.mark.parametrize(
    ("registry", "where"),
    [
        ("{listen: 0.0.0.0:8081}", "give a token"),
        ("{lisen: 127.0.0.1:8081}", "did you mean listen"),
        ("127.0.0.1:8081", "registry is a list of options"),
        ("{url: 'http://mill:hunter2@host'}", "options of their own"),
        ("{url: 'http://host', password: '${NOSUCH}', user: x}", "the environment has no NOSUCH"),
    ],
)
def test_what_mesh_yaml_may_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str], registry: str, where: str) -> None:
    answer = Project(tmp_path, capsys, registry)("validate")
    assert answer.code == 2
    said = answer.out + answer.err
    assert "mesh.yaml:2" in said
    assert where in said
    assert "hunter2" not in said


class Others:
    """Another's registry, which is one of ours; it can go and come again."""

    def __init__(self, folder: Path, listen: str) -> None:
        self._listen, self.address = listen, f"http://{listen}"
        self._engine = sqlite_engine(folder / "others.db")
        registry = SqlRegistry(self._engine)
        registry.register("something", OTHERS)  # so that its ids are not those that a registry of our own would give
        self._api = Api(Subjects(registry.database, check, lambda subject: False), Settings(registry.database))
        self._serving = ExitStack()

    def come(self) -> None:
        self._serving.enter_context(served(app(self._api, None), self._listen))

    def go(self) -> None:
        self._serving.close()

    def close(self) -> None:
        self.go()
        self._engine.dispose()


@pytest.fixture
def others(tmp_path: Path, listen: str) -> Iterator[Others]:
    with closing(Others(tmp_path, listen)) as made:
        made.come()
        yield made


def test_a_mesh_with_anothers_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str], others: Others) -> None:
    address = others.address
    said_of_it = f"{{url: '{address}', user: mill, password: '${{SECRET}}'}}"
    project = Project(tmp_path / "mesh", capsys, said_of_it, {"SECRET": "hunter2-and-more"})
    assert project("apply").code == 0
    answer = project("run", "--until-caught-up")
    assert answer.code == 0, answer.out + answer.err
    rows = [json.loads(line) for line in (tmp_path / "mesh/large.jsonl").read_text().splitlines()]
    assert {row["after"]["id"] for row in rows} == {2}
    versions = httpx2.get(f"{address}/subjects/{SUBJECT}/versions/1").json()
    assert versions["id"] > 1
    engine = sqlite_engine(tmp_path / "mesh/.millstream/mesh.db")
    with engine.connect() as connection:
        tables = {name for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master")}
    engine.dispose()
    assert "registry_schemas" not in tables, "there is no second registry beside it"
    served = project("registry", "serve")
    assert served.code == 2
    assert "registry_elsewhere" in served.err
    shown = project("schemas", "list")
    assert "shop.public.orders" in shown.out
    for said in (answer, served, shown):
        assert "hunter2-and-more" not in said.out + said.err
    os.environ["SECRET"] = "hunter2-and-more"
    try:
        assert millstream.read("shop.public.orders", tmp_path / "mesh").to_arrow().num_rows == 2
    finally:
        del os.environ["SECRET"]


def test_while_anothers_registry_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str], others: Others) -> None:
    """What is known goes on; a new schema waits until it is back, and nothing is lost or twice."""
    project = Project(tmp_path / "mesh", capsys, f"{{url: '{others.address}', timeout_s: 5}}")
    project("apply")
    file = tmp_path / "mesh/large.jsonl"
    seen: dict[str, Any] = {}

    def ids() -> list[int]:
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [row["after"]["id"] for row in rows]

    def commit(number: int, **more: Any) -> None:
        project.database.commit(Change("public.orders", None, {"id": number, "amount": 200, **more}))

    def play() -> None:
        try:
            until(lambda: 2 in ids())
            others.go()
            commit(3)
            until(lambda: 3 in ids())
            project.database.alter("public.orders", RowSchema((*ORDERS.fields, Field("note", Type("text"), 3)), ("id",)))
            commit(4, note="new")
            until(lambda: "registry_down" in str(parts(tmp_path / "mesh")))
            seen["while away"] = ids()
            others.come()
            until(lambda: others_versions(others.address) == [1, 2])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=play)
    thread.start()
    answer = project("run")
    thread.join()
    assert answer.code == 0, answer.out + answer.err
    assert 4 not in seen["while away"]
    events = millstream.read("shop.public.orders", tmp_path / "mesh", events=True).to_arrow().to_pylist()
    assert [e["after"]["id"] for e in events if e["op"] == "c"][-2:] == [3, 4]
    assert events[-1]["after"] == {"id": 4, "amount": 200, "note": "new"}


def parts(mesh: Path) -> list[Any]:
    """What the parts last said of themselves."""
    engine = sqlite_engine(mesh / ".millstream/mesh.db")
    found = Catalogue(engine).states()
    engine.dispose()
    return list(found.values())


def others_versions(address: str) -> list[int]:
    found: list[int] = httpx2.get(f"{address}/subjects/{SUBJECT}/versions").json()
    return found
