"""Wanted and actual → the steps that turn one into the other: the list that `plan` prints and `apply` does.

Pure. The same list every time for the same two sides; nothing to do is an empty list, and doing the list leaves nothing to do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from millstream.events.types import RowSchema
from millstream.pipelines import reads
from millstream.pipelines.descriptions import undescribed
from millstream.pipelines.plan import Plan
from millstream.schemas.operations import operations

Kind = Literal[
    "create_topic", "register_schema", "describe_topic", "raise_incarnation",
    "start_connector", "restart_connector", "stop_pipeline", "stop_sink", "deploy_pipeline", "rebuild_pipeline", "accept_schema",
    "start_sink", "restart_sink", "stop_connector", "drop_generation", "build_generation", "switch_generation", "stop_product",
]  # fmt: skip

_WORDS: Mapping[Kind, str] = {
    "create_topic": "create topic", "register_schema": "register schema of", "describe_topic": "describe topic",
    "raise_incarnation": "begin anew topic",
    "start_connector": "start connector", "restart_connector": "restart connector", "stop_connector": "stop connector",
    "stop_pipeline": "stop pipeline", "deploy_pipeline": "deploy pipeline", "rebuild_pipeline": "rebuild pipeline",
    "accept_schema": "accept schema for", "start_sink": "start sink", "restart_sink": "restart sink", "stop_sink": "stop sink",
    "drop_generation": "drop generation", "build_generation": "build generation", "switch_generation": "switch to generation",
    "stop_product": "stop product",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing to do. `subject` is a topic, connector, pipeline or sink by name; `detail` says why or what, for people."""

    kind: Kind
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{_WORDS[self.kind]} {self.subject}{f': {self.detail}' if self.detail else ''}"


@dataclass(frozen=True)
class Topic:
    """`schema_id` None: not registered yet (only on the wanted side)."""

    schema: RowSchema
    schema_id: int | None = None


@dataclass(frozen=True)
class Pipeline:
    """`fingerprint` changes where its rows may; `accepts` are topic → schema id; `sinks` are name → fingerprint."""

    fingerprint: str
    accepts: Mapping[str, int] = field(default_factory=dict)
    sinks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """The generations of a product (number → text of its definition): `live` is searched, `next` becomes live when it is caught
    up, `applied` is the one that the files last asked for; 0 is none. Each is a pipeline called `generation_name`."""

    generations: Mapping[int, str]
    live: int
    next: int
    applied: int


def generation_name(product: str, generation: int) -> str:
    return f"{product}@{generation}"


def generation_of(name: str) -> tuple[str, int] | None:
    """The product and number that a pipeline or topic of this name belongs to."""
    product, at, number = name.partition(".")[0].partition("@")
    return (product, int(number)) if at else None


@dataclass(frozen=True)
class Wanted:
    """What the project's files ask for. `connectors` are name → fingerprint; pipelines stand in their order of compilation.

    `descriptions` are topic → the version of its schema that says what the files say of its columns, where none does yet.
    """

    topics: Mapping[str, Topic]
    pipelines: Mapping[str, Pipeline]
    connectors: Mapping[str, str] = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)
    descriptions: Mapping[str, RowSchema] = field(default_factory=dict)


@dataclass(frozen=True)
class Actual:
    """What runs. Topics of things that are gone stay until a person removes them."""

    topics: Mapping[str, Topic] = field(default_factory=dict)
    pipelines: Mapping[str, Pipeline] = field(default_factory=dict)
    connectors: Mapping[str, str] = field(default_factory=dict)
    products: Mapping[str, Product] = field(default_factory=dict)


def rollout(wanted: Wanted, actual: Actual) -> tuple[Step, ...]:
    """The steps, in the order in which they are done: products, topics, connectors, then each pipeline after those it reads,
    removals last."""
    begun = {s.subject for s in _topics(wanted, actual) if s.kind == "raise_incarnation"}
    return (
        *_products(wanted, actual),  # first: from now on the number of a generation is its own, and so is the topic that bears it
        *_topics(wanted, actual),
        *_changed("connector", wanted.connectors, actual.connectors),
        *_pipelines(wanted, actual, begun),
        *_removed(wanted, actual),
    )


def _topics(wanted: Wanted, actual: Actual) -> Iterator[Step]:
    for name, topic in wanted.topics.items():
        now = actual.topics.get(name)
        if now is None:
            yield Step("create_topic", name, f"key ({', '.join(topic.schema.key)})")
            yield Step("register_schema", name, f"{len(topic.schema.fields)} columns")
            continue
        changes = operations(undescribed(now.schema), undescribed(topic.schema))
        if changes:
            yield Step("register_schema", name, "; ".join(map(str, changes)))
        elif name in wanted.descriptions:
            said = operations(now.schema, wanted.descriptions[name])
            yield Step("describe_topic", name, "; ".join(str(o) for o in said if o.leaf.kind in ("doc", "tags")))
        if any(c.kind == "rekey" or c.uncovered for c in changes):
            # Design §3: a key or a type that no reader schema covers starts the order afresh.
            yield Step("raise_incarnation", name, "; ".join(map(str, changes)) + "; its readers fill it again")


def _products(wanted: Wanted, actual: Actual) -> Iterator[Step]:
    for name, product in wanted.products.items():
        now = actual.products.get(name, Product({}, 0, 0, 0))
        for generation in sorted(set(now.generations) - set(product.generations)):
            yield Step("drop_generation", generation_name(name, generation), "a product has two generations at most; its topic stays")
        for generation in sorted(set(product.generations) - set(now.generations)):
            yield Step("build_generation", generation_name(name, generation), _beside(name, product))
        if product.applied in now.generations and product.applied != now.applied:
            yield Step("switch_generation", generation_name(name, product.applied), "the files say again what it was built from")
    for name in actual.products:
        if name not in wanted.products:
            yield Step("stop_product", name, "no longer defined; its topics and indexes stay")


def _beside(name: str, product: Product) -> str:
    if not product.live:
        return "the first; searches find it when it is caught up"
    live = generation_name(name, product.live)
    return f"beside {live}, which is searched until this one is caught up; then searches switch in one step, and {live} is kept"


def _pipelines(wanted: Wanted, actual: Actual, begun: set[str]) -> Iterator[Step]:
    for name, pipeline in wanted.pipelines.items():
        now = actual.pipelines.get(name)
        anew = sorted(begun & (set(pipeline.accepts) | {t for t in wanted.topics if t.startswith(name + ".")}))
        if now is None:
            yield Step("deploy_pipeline", name, _reading(pipeline))
        elif now.fingerprint != pipeline.fingerprint:
            yield Step(
                "rebuild_pipeline", name, "its definition changed: its output is compared with what is published, the difference follows"
            )
        elif anew:
            yield Step("rebuild_pipeline", name, f"{', '.join(anew)} begins anew")
        if now is not None:
            for topic, schema_id in sorted(pipeline.accepts.items()):
                was = now.accepts.get(topic)
                if was != schema_id:
                    yield Step("accept_schema", name, f"{topic} at {_id(schema_id)}" + (f", was {_id(was)}" if was is not None else ""))
        yield from _changed("sink", pipeline.sinks, now.sinks if now else {})


def _changed(what: Literal["connector", "sink"], wanted: Mapping[str, str], actual: Mapping[str, str]) -> Iterator[Step]:
    start: Kind = "start_connector" if what == "connector" else "start_sink"
    again: Kind = "restart_connector" if what == "connector" else "restart_sink"
    for name, fingerprint in wanted.items():
        if name not in actual:
            yield Step(start, name)
        elif actual[name] != fingerprint:
            yield Step(again, name, "its options changed")


def _removed(wanted: Wanted, actual: Actual) -> Iterator[Step]:
    for name, pipeline in actual.pipelines.items():
        kept = wanted.pipelines[name].sinks if name in wanted.pipelines else {}
        yield from (Step("stop_sink", s, "no longer defined; its target stays as it is") for s in pipeline.sinks if s not in kept)
        if name not in wanted.pipelines:
            yield Step("stop_pipeline", name, "no longer defined; its topics stay")
    for name in actual.connectors:
        if name not in wanted.connectors:
            yield Step("stop_connector", name, "no longer defined; its topics stay")


def _reading(pipeline: Pipeline) -> str:
    return f"reads {', '.join(sorted(pipeline.accepts))}" if pipeline.accepts else ""


def _id(schema_id: int) -> str:
    return f"schema {schema_id}" if schema_id else "a schema not registered yet"


def wanted_pipeline(plan: Plan) -> Pipeline:
    """A plan's side of the comparison."""
    return Pipeline(
        fingerprint=reads.fingerprint(plan),
        accepts={i.topic: i.schema_id for i in plan.inputs},
        sinks={s.name: fingerprint(f"{s.kind} {s.topic} {s.options!r}") for s in plan.sinks},
    )


def fingerprint(text: str) -> str:
    """Sixteen hex digits that differ where the text does."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
