"""The one place that knows all rooms: opens what a project names, and is the `millstream` command.

Nothing is decided here. What a mesh is made of stands in `build_mesh`, one line a part.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine

from millstream.capture.connector import Connector
from millstream.catalogue.controller import Change
from millstream.catalogue.generations import Switches, sweep
from millstream.catalogue.judge import Judges, Versions
from millstream.catalogue.store import Catalogue
from millstream.cli.app import call
from millstream.cli.mesh import Mesh, Place
from millstream.cli.output import DEBUG, Secrets
from millstream.components import Component, find
from millstream.engine.guard import Guard
from millstream.engine.handover import Handover
from millstream.engine.matches import Matches, Served
from millstream.engine.pipeline import Pipeline
from millstream.engine.runner import Figures, Report, Runner
from millstream.engine.sinkrun import SinkRun
from millstream.errors import Refused, without_secrets
from millstream.events.types import RowSchema
from millstream.notices.kinds import NOTIFY
from millstream.notices.teller import Notice
from millstream.pipelines import descriptions
from millstream.pipelines import project as projects
from millstream.pipelines.definitions import Project, SourceDefinition
from millstream.pipelines.plan import Plan, SinkPlan
from millstream.pipelines.rollout import generation_name
from millstream.pipelines.searches import LiveSearches, matches_topic
from millstream.queries.treatment import Treatment
from millstream.schemas.avrocompat import check
from millstream.schemas.kinds import REGISTRY
from millstream.schemas.options import Options as RegistryOptions
from millstream.schemas.registry import Registry
from millstream.schemas.rest.endpoints import Api
from millstream.schemas.rest.server import app, served
from millstream.schemas.rest.settings import Settings
from millstream.schemas.rest.subjects import Subjects
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks import kinds as sink_kinds
from millstream.sinks.contract import Sink
from millstream.sinks.search import generations
from millstream.sinks.search.query import search
from millstream.sinks.search.suggest import suggest
from millstream.sources import kinds as source_kinds
from millstream.sources.contract import Source
from millstream.topics.local import LocalTopics
from millstream.topics.local.compaction import Keep

LOG = "MILLSTREAM_LOG"

# How long after a write a sink gathers for the next. An Iceberg commit makes files and a table snapshot: fewer, larger ones.
LINGER_S: Mapping[str, float] = {"iceberg": 2.0}
LINGER_OTHERS_S = 0.1


def main() -> None:
    """The console script."""
    secrets = Secrets()
    set_up_logging(secrets.blot, os.environ)
    sys.exit(call(sys.argv[1:], Wiring(os.environ), secrets))


@dataclass(frozen=True)
class Wiring:
    """How the commands reach everything. `sources` and `sinks` are the lists of components that a project may name."""

    env: Mapping[str, str]
    sources: tuple[Component, ...] = source_kinds.KINDS
    sinks: tuple[Component, ...] = sink_kinds.KINDS

    def load(self, folder: Path) -> Project:
        return projects.load(folder, self.env, self.sources, self.sinks)

    def open(self, project: Project) -> AbstractContextManager[Mesh]:
        return build_mesh(project, self.sources, self.sinks)


@contextmanager
def build_mesh(
    project: Project, sources: tuple[Component, ...] = source_kinds.KINDS, sinks: tuple[Component, ...] = sink_kinds.KINDS
) -> Iterator[Mesh]:
    """The parts of a project's mesh, opened and at the end closed. Sources and sinks are opened by those who use them."""
    place = Place.of(project)
    with ExitStack() as stack:
        engine = sqlite_engine(place.catalogue)
        stack.callback(engine.dispose)
        asked = registry_options(project)
        registry = stack.enter_context(opened_registry(asked, engine))
        keep = Keep(float(project.mesh.history_s), project.mesh.behind_mib << 20)
        topics = LocalTopics(place.topics, registry, keep=keep)
        stack.callback(topics.close)
        open_source = _source_opener(project, sources)
        open_sink = _sink_opener(place, sinks)
        guards = _Guards(project, sources)
        stack.callback(guards.close)

        said = descriptions.of_topics(project)

        def describe(topic: str, schema: RowSchema) -> RowSchema:
            return descriptions.described(schema, descriptions.of_topic(topic, said))

        catalogue = Catalogue(engine)
        switches = Switches(catalogue, project.reread, partial(generations.switch, place.home))

        def parts(given: Project, plans: Sequence[Plan]) -> tuple[list[Pipeline], list[SinkRun]]:
            judges, said = Judges(given, catalogue, Versions(topics, registry)), descriptions.of_topics(given)
            state_mib = given.mesh.state_memory_mib

            def pipeline(p: Plan) -> Pipeline:
                judge = judges.of_pipeline(p)
                path = place.state(p.pipeline)
                return Pipeline(p, topics, registry, path, state_mib, guard=guards.of, requests=catalogue, judge=judge)

            def sink(p: Plan, s: SinkPlan) -> SinkRun:
                schema, schema_id = judges.version(p, s)
                schema = descriptions.described(schema, descriptions.of_topic(s.topic, said))
                return SinkRun(s, schema, schema_id, open_sink(s), topics, registry, linger_s(s.kind), judge=judges.of_sink(p, s))

            return [pipeline(p) for p in plans if p.nodes], [sink(p, s) for p in plans for s in p.sinks]

        def connector(source: str) -> Connector:
            folder, orders = place.copies(source), catalogue.backfills
            return Connector(open_source(source), topics, registry, describe=describe, folder=folder, orders=orders)

        def runner(change: Change, report: Report, figures: Figures) -> Runner:
            versions, memory_mib = Versions(topics, registry), project.mesh.state_memory_mib
            pipelines, sinks = parts(project, change.plans)

            def handover(product: str, generation: int) -> Handover:
                pipeline = next(p for p in pipelines if p.plan.pipeline == generation_name(product, generation))
                mine = [s for s in sinks if s.plan in pipeline.plan.sinks]
                tell = partial(report, f"product.{product}")
                return Handover(pipeline, mine, topics, partial(switches.to, product, generation), tell)

            saved = LiveSearches(project.root, project.searches, partial(projects.load_searches, project.root, {}))
            plans = {p.pipeline: p for p in change.plans}

            def served(product: str) -> Served | None:
                row = catalogue.products().get(product)
                plan = plans.get(generation_name(product, row.live)) if row and row.live else None
                applied = catalogue.pipelines().get(plan.pipeline) if plan else None
                if plan is None or applied is None:
                    return None
                topic = plan.outputs[-1].topic
                schema_id = applied.outputs[topic]  # as it is published now: it may have followed what it reads
                return Served(topic, versions.of(topic)[schema_id], schema_id, treatments(plan))

            def matches(product: str) -> Matches:
                topic = matches_topic(product)
                schema = (change.wanted.topics.get(topic) or change.known.topics[topic]).schema
                tell = lambda search, state, reason, cure: report(f"search.{search}", state, reason, cure)  # noqa: E731
                mine = (partial(saved.of, product), partial(served, product), schema)
                return Matches(product, *mine, topics, registry, place.state(product), memory_mib, tell)

            return Runner(
                topics,
                [connector(s.name) for s in project.sources],
                pipelines,
                sinks,
                report,
                [handover(name, p.next) for name, p in change.wanted.products.items() if p.next],
                figures,
                [matches(p.name) for p in project.products if topics.topic(matches_topic(p.name)) is not None],
            )

        yield Mesh(
            project=project,
            place=place,
            catalogue=catalogue,
            registry=registry,
            topics=topics,
            source=open_source,
            runner=runner,
            parts=parts,
            switches=switches,
            told=partial(_told, project),
            sweep=lambda: sweep(
                catalogue,
                topics,
                project.reread,
                place.home / "state",
                partial(generations.folders, place.home),
                partial(generations.remove, place.home),
            ),
            registry_served=lambda listen: _registry_served(registry, topics, asked, listen),
            ask=partial(search, place.home),
            suggest=lambda index, name, prefix, limit, exact: suggest(place.home, index, name, prefix, limit, exact=exact),
        )


@contextmanager
def _told(project: Project, blot: Callable[[str], str]) -> Iterator[Callable[[Notice], None]]:
    """What tells owners, where mesh.yaml says how."""
    if not project.mesh.notify:
        yield lambda notice: None
        return
    with NOTIFY.open(_options(NOTIFY, project.mesh.notify, "mesh.notify"), blot) as teller:
        yield teller.tell


def registry_options(project: Project) -> RegistryOptions:
    options: RegistryOptions = _options(REGISTRY, project.mesh.registry, "mesh.registry")
    return options


@contextmanager
def opened_registry(options: RegistryOptions, engine: Engine) -> Iterator[Registry]:
    """The project's registry: our own in the mesh's database, or the one at `url`."""
    if not options.url:
        yield SqlRegistry(engine)
        return
    with closing(REGISTRY.open(options)) as registry:
        yield registry


def _registry_served(registry: Registry, topics: LocalTopics, options: RegistryOptions, listen: str) -> AbstractContextManager[str]:
    if not isinstance(registry, SqlRegistry):
        cure = "ask it there, or take url out of `registry:` in mesh.yaml"
        raise Refused(f"this project's registry is {options.url}", code="registry_elsewhere", where="mesh.registry", cure=cure)
    owned = lambda subject: topics.topic(subject.rpartition("-")[0]) is not None and subject.endswith(("-key", "-value"))  # noqa: E731
    api = Api(Subjects(registry.database, check, owned), Settings(registry.database))
    return served(app(api, options.token.get_secret_value() if options.token else None), listen)


def treatments(plan: Plan) -> Mapping[str, Treatment]:
    """How the search index of a plan treats its fields."""
    found: Mapping[str, Treatment] = next((s.options.get("fields") or {} for s in plan.sinks if s.kind == "search"), {})
    return found


def linger_s(kind: str) -> float:
    return LINGER_S.get(kind, LINGER_OTHERS_S)


def _source_opener(project: Project, kinds: Sequence[Component]) -> Callable[[str], Source]:
    definitions = {s.name: s for s in project.sources}

    def open_source(name: str) -> Source:
        definition = definitions[name]
        component = _component(kinds, definition.connector)
        source: Source = component.open(name, _source_options(component, definition))
        return source

    return open_source


class _Guards:
    """What asks the sources for rows: one for each source that is asked, shared by all pipelines. For several threads."""

    def __init__(self, project: Project, kinds: Sequence[Component]) -> None:
        self._definitions, self._kinds = {s.name: s for s in project.sources}, kinds
        self._made: dict[str, Guard] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Guard:
        with self._lock:
            if name not in self._made:
                definition = self._definitions[name]
                component = _component(self._kinds, definition.connector)
                self._made[name] = Guard(component.open_lookup(name, _source_options(component, definition)))
            return self._made[name]

    def close(self) -> None:
        for guard in self._made.values():
            guard.close()


def _source_options(component: Component, definition: SourceDefinition) -> Any:
    tables = {"tables": definition.entries} if "tables" in component.options.model_fields else {}
    return _options(component, {**definition.options, **tables}, f"source {definition.name}")


def _sink_opener(place: Place, kinds: Sequence[Component]) -> Callable[[SinkPlan], Sink]:
    def open_sink(plan: SinkPlan) -> Sink:
        component = _component(kinds, plan.kind)
        sink: Sink = component.open(plan.name, _options(component, plan.options, f"sink {plan.name}"), place.home)
        return sink

    return open_sink


def _component(kinds: Sequence[Component], name: str) -> Component:
    component = find(tuple(kinds), name)
    if component is None:  # `load` refuses it with file and line
        raise Refused(f"there is no component {name}", code="unknown_component", cure=f"one of {', '.join(c.name for c in kinds)}")
    return component


def _options(component: Component, given: Mapping[str, Any], where: str) -> Any:
    try:
        return component.options.model_validate(dict(given))
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False, include_input=False))
        raise Refused(without_secrets(said), code="bad_option", where=where, cure=f"see the options of {component.name}") from None


# ---- logging


def set_up_logging(blot: Callable[[str], str], env: Mapping[str, str]) -> None:
    """One handler for every logger of the process: to stderr, without secrets (invariant 10). MILLSTREAM_LOG sets the level."""
    handler = _ToStderr()
    handler.setFormatter(_Formatter(blot, with_traces=bool(env.get(DEBUG))))
    level = env.get(LOG, "warning").upper()
    logging.basicConfig(handlers=[handler], level=level if level in logging.getLevelNamesMapping() else "WARNING", force=True)


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at the moment: a live display puts itself in between."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        raise AttributeError("it is always sys.stderr")


class _Formatter(logging.Formatter):
    """Blots the whole text, arguments and traces included: a filter would see only the message."""

    def __init__(self, blot: Callable[[str], str], *, with_traces: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._blot, self._with_traces = blot, with_traces

    def format(self, record: logging.LogRecord) -> str:
        if not self._with_traces:
            record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None})
        return self._blot(super().format(record))
