"""What was applied, and what each part says of itself: the catalogue's tables on an engine that wiring hands in.

SQLite on one machine, Postgres for a mesh. Topics and schemas are not here: topics and the registry know them. Texts
that come in must be free of secrets (invariant 10); the store blots what looks like one all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import sqlalchemy as sa

from millstream.catalogue.backfills import Backfills
from millstream.catalogue.tables import NAME, STATE, WORD, Tables, table
from millstream.catalogue.verdicts import Kept, Verdicts
from millstream.engine.requests import OPEN, Request, RequestState
from millstream.errors import Refused, without_secrets
from millstream.pipelines.plan import Plan

PartState = Literal["starting", "running", "caught_up", "waiting", "retrying", "paused", "stopped", "failed"]

_METADATA = sa.MetaData()
_SOURCES = table(_METADATA, "catalogue_sources", "name", fingerprint=WORD, connector=WORD, owner=NAME, tables=sa.JSON, applied_at=sa.Float)
_PIPELINES = table(
    _METADATA,
    "catalogue_pipelines",
    "name",
    fingerprint=WORD,
    owner=NAME,
    definition=sa.Text,
    inputs=sa.JSON,
    outputs=sa.JSON,
    sinks=sa.JSON,
    applied_at=sa.Float,
)
_PRODUCTS = table(
    _METADATA,
    "catalogue_products",
    "name",
    live=sa.Integer,
    next=sa.Integer,
    applied=sa.Integer,
    switching=sa.Integer,
    generations=sa.JSON,
    changed_at=sa.Float,
)
_STATES = table(_METADATA, "catalogue_states", "part", state=STATE, reason=sa.Text, cure=sa.Text, at=sa.Float)
_TOLD = table(_METADATA, "catalogue_told", "part", reason=sa.Text, at=sa.Float)
_FIGURES = table(_METADATA, "catalogue_figures", "part", figures=sa.JSON, at=sa.Float)
_REQUESTS = table(
    _METADATA,
    "catalogue_requests",
    "name",
    pipeline=NAME,
    request=sa.JSON,
    state=STATE,
    done=sa.BigInteger,
    total=sa.BigInteger,
    reason=sa.Text,
    asked_at=sa.Float,
    changed_at=sa.Float,
)


@dataclass(frozen=True)
class AppliedSource:
    """A source as applied: `tables` by their names in the definition; `applied_at` in seconds since 1970."""

    name: str
    fingerprint: str
    connector: str
    owner: str
    tables: tuple[str, ...]
    applied_at: float = 0.0


@dataclass(frozen=True)
class AppliedSink:
    """A sink as applied: the topic it reads, and the fingerprint of its kind and options."""

    topic: str
    fingerprint: str


@dataclass(frozen=True)
class AppliedPipeline:
    """A pipeline as applied. `inputs` maps each topic that it or a sink of it reads, but does not publish, to the schema id
    that was accepted (invariant 6), `outputs` each topic it publishes to its schema id, `sinks` each sink's name to what it
    is. `held`: step → topic → the schema id that this step has accepted, where the pipeline reads a later one. `definition` is
    its explanation, without secrets."""

    name: str
    fingerprint: str
    owner: str
    definition: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    sinks: Mapping[str, AppliedSink]
    applied_at: float = 0.0
    held: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class AppliedProduct:
    """A product's generations (number → text of its definition): `live` is searched, `next` becomes live when it is caught up,
    `applied` is the one that the files last asked for, `switching` one that searches are being switched to; 0 is none."""

    name: str
    live: int
    next: int
    applied: int
    generations: Mapping[int, str]
    switching: int = 0
    changed_at: float = 0.0


@dataclass(frozen=True)
class State:
    """What a part (source.x, pipeline.y, sink.z) last said of itself, and when (seconds since 1970)."""

    part: str
    state: str
    reason: str
    cure: str
    at: float


@dataclass(frozen=True)
class Asked:
    """A request to a pipeline and how far it is: rows done, and about how many there are. Times in seconds since 1970."""

    request: Request
    state: str
    done: int
    total: int
    reason: str
    asked_at: float
    changed_at: float


class Catalogue(Tables):
    """The catalogue on one engine. Safe for several threads and processes.

    Every call may raise Retryable("catalogue_busy") or ("catalogue_down") where the database does not answer,
    Irrecoverable("disk_full") where it has no room; nothing is half written.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        super().__init__(engine, clock, _METADATA)
        self.verdicts = Verdicts(engine, clock)
        self.backfills = Backfills(engine, clock)

    # ---- what was applied

    def put_source(self, source: AppliedSource) -> None:
        """Remember it as applied now, over what stood under its name."""
        self._put(_SOURCES, "name", {**vars(source), "tables": list(source.tables), "applied_at": self._clock()})

    def put_pipeline(self, pipeline: AppliedPipeline, *told: Kept) -> None:
        """Remember it as applied now, over what stood under its name; `told` are noted in the same commit."""
        row = {
            **vars(pipeline),
            "definition": without_secrets(pipeline.definition),
            "inputs": _inputs(pipeline),
            "outputs": dict(pipeline.outputs),
            "sinks": {name: vars(sink) for name, sink in pipeline.sinks.items()},
            "applied_at": self._clock(),
        }
        del row["held"]
        self._put(_PIPELINES, "name", row, self.verdicts.noting(*told))

    def move_pipeline(self, was: AppliedPipeline, now: AppliedPipeline, *told: Kept) -> bool:
        """Put `now` in the place of `was`, and note `told`. False, and nothing is changed, where that is not what stands there any more."""
        stands = (
            (_PIPELINES.c.name == was.name) & (_PIPELINES.c.fingerprint == was.fingerprint) & (_PIPELINES.c.applied_at == was.applied_at)
        )
        said = {"fingerprint": now.fingerprint, "definition": without_secrets(now.definition)}
        ids = {"inputs": _inputs(now), "outputs": dict(now.outputs), "applied_at": self._clock()}
        return self._changed(_PIPELINES.update().where(stands).values(**said, **ids), self.verdicts.noting(*told)) == 1

    def forget_source(self, name: str) -> None:
        """It is no longer applied; its topics stay. A name that is not known changes nothing."""
        self._delete(_SOURCES, _SOURCES.c.name == name)
        self._delete(_STATES, _STATES.c.part == f"source.{name}")
        self.backfills.forget(name)

    def forget_pipeline(self, name: str) -> None:
        """It is no longer applied; its topics stay. A name that is not known changes nothing."""
        known = self.pipelines().get(name)
        sinks = [] if known is None else [f"sink.{s}" for s in known.sinks]
        self._delete(_PIPELINES, _PIPELINES.c.name == name)
        self._delete(_STATES, _STATES.c.part.in_([f"pipeline.{name}", *sinks]))
        self._delete(_FIGURES, _FIGURES.c.part.in_([f"pipeline.{name}", *sinks]))
        self.forget_told(f"pipeline.{name}", *sinks)
        self.verdicts.forget([f"pipeline.{name}", *sinks])

    def sources(self) -> dict[str, AppliedSource]:
        """By name."""
        rows = self._rows(sa.select(_SOURCES).order_by(_SOURCES.c.name))
        return {r["name"]: AppliedSource(**{**r, "tables": tuple(r["tables"])}) for r in rows}

    def pipelines(self) -> dict[str, AppliedPipeline]:
        """By name."""
        rows = self._rows(sa.select(_PIPELINES).order_by(_PIPELINES.c.name))
        return {r["name"]: AppliedPipeline(**{**r, **_read(r)}) for r in rows}

    # ---- products

    def put_product(self, product: AppliedProduct) -> None:
        """Remember it over what stood under its name. Its texts are kept as they are: no secret stands in one."""
        generations = {str(g): text for g, text in product.generations.items()}
        self._put(_PRODUCTS, "name", {**vars(product), "generations": generations, "changed_at": self._clock()})

    def products(self) -> dict[str, AppliedProduct]:
        """By name."""
        rows = self._rows(sa.select(_PRODUCTS).order_by(_PRODUCTS.c.name))
        return {r["name"]: AppliedProduct(**{**r, "generations": {int(g): t for g, t in r["generations"].items()}}) for r in rows}

    def forget_product(self, name: str) -> None:
        """It is no longer applied. A name that is not known changes nothing."""
        self._delete(_PRODUCTS, _PRODUCTS.c.name == name)
        self._delete(_STATES, _STATES.c.part == f"product.{name}")

    def decide_switch(self, name: str, generation: int, live: int) -> bool:
        """From now on a switch to this generation is to be finished. False, and nothing is changed, where another than `live` is
        live by now or another switch was decided first."""
        free = (_PRODUCTS.c.name == name) & (_PRODUCTS.c.live == live) & _PRODUCTS.c.switching.in_([0, generation])
        return self._changed(_PRODUCTS.update().where(free).values(switching=generation)) == 1

    def finish_switch(self, name: str, generation: int) -> None:
        """It is live. A second call changes nothing."""
        decided = (_PRODUCTS.c.name == name) & (_PRODUCTS.c.switching == generation)
        now = {"live": generation, "next": 0, "switching": 0, "changed_at": self._clock()}
        self._changed(_PRODUCTS.update().where(decided).values(**now))

    # ---- what parts say of themselves

    def report(self, part: str, state: str, reason: str = "", cure: str = "") -> None:
        """Keep the part's present state. Raises ValueError for a state that is not in `PartState`."""
        if state not in get_args(PartState):
            raise ValueError(f"{state!r} is not a state of a part")
        texts = {"reason": without_secrets(reason), "cure": without_secrets(cure)}
        self._put(_STATES, "part", {"part": part, "state": state, **texts, "at": self._clock()})

    def states(self) -> dict[str, State]:
        """Part → its last state, by name."""
        return {r["part"]: State(**r) for r in self._rows(sa.select(_STATES).order_by(_STATES.c.part))}

    def note_told(self, part: str, reason: str) -> None:
        """The part's owner was told that it has paused, and why."""
        self._put(_TOLD, "part", {"part": part, "reason": reason, "at": self._clock()})

    def forget_told(self, *parts: str) -> None:
        """They go on, or are no longer there."""
        self._delete(_TOLD, _TOLD.c.part.in_(parts))

    def told(self) -> dict[str, str]:
        """Part → the reason of the pause that its owner was told of last."""
        return {r["part"]: r["reason"] for r in self._rows(sa.select(_TOLD))}

    def note_figures(self, part: str, figures: Mapping[str, Any]) -> None:
        """Keep the part's present figures."""
        self._put(_FIGURES, "part", {"part": part, "figures": dict(figures), "at": self._clock()})

    def figures(self) -> dict[str, dict[str, Any]]:
        """Part → its last figures."""
        return {r["part"]: r["figures"] for r in self._rows(sa.select(_FIGURES))}

    # ---- what was asked of pipelines

    def ask(self, request: Request) -> None:
        """Keep a request until its pipeline takes it up. Raises Refused("request_exists") where its name was used."""
        if request.name in {a.request.name for a in self.requests()}:
            raise Refused(f"there is a request {request.name} already", code="request_exists", cure="give it another name")
        times = {"asked_at": self._clock(), "changed_at": self._clock()}
        row = {"name": request.name, "pipeline": request.pipeline, "request": request.json(), "state": "waiting", "done": 0, "total": 0}
        self._put(_REQUESTS, "name", {**row, "reason": "", **times})

    def requests(self) -> list[Asked]:
        """Oldest first, those that are over too."""
        rows = self._rows(sa.select(_REQUESTS).order_by(_REQUESTS.c.asked_at, _REQUESTS.c.name))
        kept = ("state", "done", "total", "reason", "asked_at", "changed_at")
        return [Asked(Request.of(r["request"]), *(r[k] for k in kept)) for r in rows]

    def next(self, pipeline: str) -> Request | None:
        """The oldest of a pipeline that is not over."""
        mine = sa.select(_REQUESTS.c.request).where(_REQUESTS.c.pipeline == pipeline, _REQUESTS.c.state.in_(OPEN))
        rows = self._rows(mine.order_by(_REQUESTS.c.asked_at, _REQUESTS.c.name).limit(1))
        return Request.of(rows[0]["request"]) if rows else None

    def tell(self, name: str, state: RequestState, done: int, total: int, reason: str = "") -> None:
        """How far a request is. One that is over stays so."""

        def tell() -> None:
            told = {"state": state, "done": done, "total": total, "reason": without_secrets(reason), "changed_at": self._clock()}
            with self._engine.begin() as connection:
                connection.execute(_REQUESTS.update().where(_REQUESTS.c.name == name, _REQUESTS.c.state.in_(OPEN)).values(**told))

        self._explained(tell)


def held_of(plan: Plan) -> dict[str, dict[str, int]]:
    """`AppliedPipeline.held` of a plan."""
    held: dict[str, dict[str, int]] = {}
    for given in plan.inputs:
        for h in given.held:
            held.setdefault(h.step, {})[given.topic] = h.schema_id
    return held


def _inputs(pipeline: AppliedPipeline) -> dict[str, Any]:
    """Topic → schema id; where steps are held to an earlier one, with these: [schema id, {step: schema id}]. One column, so that they
    change together."""
    found: dict[str, Any] = dict(pipeline.inputs)
    for step, topics in pipeline.held.items():
        for topic, schema_id in topics.items():
            now = found[topic] if isinstance(found[topic], list) else [found[topic], {}]
            found[topic] = [now[0], {**now[1], step: schema_id}]
    return found


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in the row as JSON."""
    inputs: dict[str, int] = {}
    held: dict[str, dict[str, int]] = {}
    for topic, said in row["inputs"].items():
        inputs[topic], steps = said if isinstance(said, list) else (said, {})
        for step, schema_id in steps.items():
            held.setdefault(step, {})[topic] = schema_id
    return {"inputs": inputs, "held": held, "sinks": {n: AppliedSink(**s) for n, s in row["sinks"].items()}}
