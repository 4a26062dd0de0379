"""Who answers a query: this process, or the one that runs the mesh where a state is asked for that it has open."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa

from millstream.cli import running
from millstream.cli.mesh import Mesh
from millstream.control import client
from millstream.control.protocol import Answer, socket_path
from millstream.control.server import Handler
from millstream.engine import query as engine
from millstream.engine import reconcile
from millstream.engine.query import STATE, Limits
from millstream.errors import Refused
from millstream.pipelines.plan import Plan

VERSION = 1
REPLACED_S = 300.0  # what stops ends its commit first
DIGESTS_S = 600.0  # a state is read whole, at some 20 M rows a second
LISTING = pa.schema([("table", pa.string()), ("column", pa.string()), ("type", pa.string())])

Connect = Callable[[], duckdb.DuckDBPyConnection]


@dataclass(frozen=True)
class Request:
    """`rows` None: all. `events`: topics are tables of their events. `sql` empty: the list of tables is asked for."""

    sql: str
    events: bool = False
    rows: int | None = None
    seconds: float = 60.0


class Listing:
    """Every table with its columns, as an answer."""

    def __init__(self, tables: engine.Tables) -> None:
        self._tables = tables

    def begin(self) -> pa.Schema:
        found = [(name, f.name, str(f.type)) for name, table in self._tables.items() for f in table().columns]
        self._rows = pa.table([list(column) for column in zip(*found, strict=True)] or [[], [], []], schema=LISTING)
        return LISTING

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._rows.to_batches()

    def end(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


def ask(mesh: Mesh, request: Request) -> Answer:
    """The answer, begun. Topics can be read from anywhere: the running process is asked for states only, and not burdened with more.

    Raises Refused with what is wrong with the query. Close the answer.
    """
    about_states = not request.sql or f"{STATE}." in request.sql.replace('"', "").lower()
    if about_states and running.is_held(mesh.place.running):
        return client.ask(socket_path(mesh.place.home), {"version": VERSION, "query": asdict(request)}, request.seconds + 30)
    return _answered(mesh, request, _closed(mesh) if about_states else {})


class Said:
    """One text, as an answer."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def begin(self) -> pa.Schema:
        self._rows = pa.table({"text": [self._text()]})
        return self._rows.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._rows.to_batches()

    def end(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


def digests(mesh: Mesh, plan: Plan) -> dict[str, Any]:
    """What `engine.reconcile.digests` says of the pipeline's state: asked of the running process where one has it open.

    Raises Refused("state_not_open") where the running process has not, or the state is not there.
    """
    if not running.is_held(mesh.place.running):
        path = mesh.place.state(plan.pipeline)
        if not path.exists():
            raise Refused("the pipeline has no state yet", code="state_not_open", where=plan.pipeline, cure="let `millstream run` build it")
        return reconcile.digests(plan, engine.read_only(path))
    with closing(client.ask(socket_path(mesh.place.home), {"version": VERSION, "digests": plan.pipeline}, DIGESTS_S)) as answer:
        answer.begin()
        return dict(json.loads(next(answer.batches()).column("text")[0].as_py()))


def replaced(mesh: Mesh, pipeline: str) -> str:
    """Let the running process put a pipeline and its sinks in place anew, as it is applied now; what it says. Raises Retryable where it
    does not listen."""
    with closing(client.ask(socket_path(mesh.place.home), {"version": VERSION, "resume": pipeline}, REPLACED_S)) as answer:
        answer.begin()
        return str(next(answer.batches()).column("text")[0].as_py())


def handler(
    mesh: Mesh,
    plans: Callable[[], Sequence[Plan]],
    states: Callable[[], Mapping[str, Connect]],
    resume: Callable[[str], str],
) -> Handler:
    """What the running process answers with: `plans` and `states` give what its pipelines are and have open now, `resume` puts one in
    place anew."""

    def digested(pipeline: str) -> str:
        connect, plan = states().get(pipeline), next((p for p in plans() if p.pipeline == pipeline), None)
        if connect is None or plan is None:
            cure = "`millstream status` says what the pipeline is doing"
            raise Refused("the running process has not opened this state", code="state_not_open", where=pipeline, cure=cure)
        return json.dumps(reconcile.digests(plan, connect))

    def handle(request: Mapping[str, Any]) -> Answer:
        if request.get("version") == VERSION and isinstance(pipeline := request.get("digests"), str):
            return Said(lambda: digested(pipeline))
        if request.get("version") == VERSION and isinstance(name := request.get("resume"), str):
            return Said(lambda: resume(name))
        if request.get("version") != VERSION or not isinstance(given := request.get("query"), dict):
            raise Refused("the running process does not know this request", code="request_unknown", cure="run one version of millstream")
        return _answered(mesh, Request(**given), states())

    return handle


def _closed(mesh: Mesh) -> dict[str, Connect]:
    """The states that lie there. Not for the running process: a state that it is about to open must not be open in another way."""
    return {p.stem: engine.read_only(p) for p in sorted((mesh.place.home / "state").glob("*.duckdb"))}


def _answered(mesh: Mesh, request: Request, states: Mapping[str, Connect]) -> Answer:
    tables = dict(engine.tables_of_topics(mesh.topics, mesh.registry, events=request.events))
    for pipeline, connect in states.items():
        tables |= engine.tables_of_state(pipeline, connect)
    if not request.sql:
        return Listing(tables)
    return engine.Answer(request.sql, tables, Limits(request.rows, request.seconds), mesh.place.home)
