"""Backfills as people see them: those that were asked for from the catalogue, all others from what their connector left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from millstream.capture.backfill import OVER, Backfill, BackfillState, Order
from millstream.capture.orders import Told
from millstream.catalogue.backfills import Ordered
from millstream.cli import running
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output
from millstream.errors import Refused
from millstream.sources.contract import Scope
from millstream.topics.contract import ProducerRecord

LOOK_EVERY_S = 0.25
SAY_EVERY_S = 5.0
SCANNED = "the server scans the table in a changefeed of its own: that cannot go on in the middle, so after a restart it begins again"


@dataclass(frozen=True)
class Seen:
    """A backfill and how far it is. `is_ordered`: the catalogue has an order of it; a `state` "waiting" is taken up by the next look
    of the process that runs the mesh."""

    order: Order
    told: Told
    state: BackfillState
    is_ordered: bool
    asked_at: float | None = None

    @property
    def name(self) -> str:
        return self.order.name

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def left_s(self) -> float | None:
        """Seconds that it still takes, at its present rate."""
        if self.state != "running" or self.told.rate <= 0:
            return None
        return max(0, self.told.estimate - self.told.read) / self.told.rate

    def document(self) -> dict[str, Any]:
        order = asdict(self.order)
        del order["asks"], order["wanted"], order["estimate"]
        return {**order, **asdict(self.told), "state": self.state, "left_s": None if self.left_s is None else round(self.left_s, 1)}


def everything(mesh: Mesh) -> list[Seen]:
    """Of every applied source: what its connector has by itself, then what was asked for, oldest first."""
    is_running = running.is_held(mesh.place.running)
    ordered = {o.order.name: o for o in mesh.catalogue.backfills.everything()}
    found = []
    for source, applied in mesh.catalogue.sources().items():
        record = mesh.topics.producer_record(f"source.{source}")
        found += [_own(source, b, ordered, is_running) for b in _kept(record) if b.table in applied.tables and not b.is_asked]
    return found + [_asked(o, is_running) for o in ordered.values() if o.order.asks]


def find(mesh: Mesh, name: str) -> Seen:
    return next(s for s in everything(mesh) if s.name == name)


def _kept(record: ProducerRecord | None) -> list[Backfill]:
    kept: Mapping[str, Any] = record.state.get("backfills", {}) if record else {}
    return [Backfill(**given) for given in kept.values()]


def used(mesh: Mesh, source: str) -> set[str]:
    """Names of backfills that its connector knows to have been asked for: also of a source that was taken out, and is back."""
    return {b.name for b in _kept(mesh.topics.producer_record(f"source.{source}")) if b.is_asked}


def _own(source: str, b: Backfill, ordered: Mapping[str, Ordered], is_running: bool) -> Seen:
    name = b.id(source)
    of_it = ordered.get(name)
    order = replace(of_it.order if of_it else Order(name, source, b.table, reconcile=b.reconcile, asks=False), reconcile=b.reconcile)
    read = max(b.read, b.rows)
    paused = order.wanted == "pause"
    state: BackfillState = (
        "done" if b.done else "offered" if not b.wanted else "paused" if paused else "running" if is_running else "waiting"
    )
    rate = of_it.told.rate if of_it and state == "running" else 0.0
    return Seen(order, Told(state, read, b.rows, b.gone, max(b.estimate, read), rate, b.why), state, of_it is not None)


def _asked(o: Ordered, is_running: bool) -> Seen:
    state = o.told.state
    if not o.is_over:
        asked: dict[str, BackfillState] = {"cancel": "cancelled", "pause": "paused"}
        # What is asked shows before the process has looked.
        state = asked.get(o.order.wanted, "waiting" if state == "paused" or not is_running else state)
    return Seen(o.order, o.told, state, True, o.asked_at)


# ---- in words ----------------------------------------------------------------------------------------------------------------


def what(scope: Scope) -> str:
    """Which rows, in words."""
    if scope.where is not None:
        return f"where {scope.where}"
    if scope.keys is not None:
        return f"{len(scope.keys):,} keys" if len(scope.keys) != 1 else "1 key"
    ends = [f"{word} {', '.join(end)}" for word, end in (("from", scope.first), ("to", scope.last)) if end is not None]
    return " ".join(ends) or "all rows"


def in_words(seen: Seen) -> str:
    """A backfill and how far it is, in one line."""
    parts = [f"{seen.name} of {seen.order.table}: {seen.state}", _done(seen)]
    parts += [f"{seen.told.rate:,.0f} rows/s"] if seen.state == "running" and seen.told.rate else []
    parts += [f"{seen.left_s:,.0f} s left"] if seen.left_s is not None else []
    return ", ".join([*parts, *([seen.told.reason] if seen.told.reason else [])])


def _done(seen: Seen) -> str:
    return f"{seen.told.read:,} rows" if seen.is_over else f"{seen.told.read:,} of about {seen.told.estimate:,} rows"


def show_all(all_: list[Seen], out: Output) -> None:
    rows = [
        (
            s.name,
            s.order.source,
            s.order.table,
            what(s.order.scope) + (", reconciling" if s.order.reconcile else ", by a changefeed" if s.order.method == "changefeed" else ""),
            s.state,
            _done(s),
            round(s.told.rate) or None,
            None if s.left_s is None else f"{s.left_s:,.0f} s",
            s.told.reason or None,
        )
        for s in all_
    ]
    out.table(("backfill", "source", "table", "reads", "state", "done", "/s", "left", "reason"), rows, "nothing was ever read")
    out.document([s.document() for s in all_])


def show_one(seen: Seen, out: Output) -> None:
    told, order = seen.told, seen.order
    out.say(in_words(seen), "bold")
    out.say(f"  reads: {what(order.scope)}{', and compares with the topic' if order.reconcile else ''}")
    if order.method == "changefeed":
        out.say(f"  {SCANNED}")
    out.say(f"  appended: {told.rows:,} rows" + (f", and {told.gone:,} deletes" if order.reconcile else ""))
    if order.to is not None:
        out.say(f"  goes into: {order.to} alone")
    out.say(f"  throttle: {'none, as its readers bear it' if order.throttle is None else f'{order.throttle:,g} rows/s'}")
    out.document(seen.document())


# ---- as it goes on -----------------------------------------------------------------------------------------------------------


def follow(mesh: Mesh, name: str, out: Output, sleep: Callable[[float], None] = time.sleep) -> Seen:
    """Shows a backfill until it is over: a bar in a terminal, lines elsewhere, JSON lines for programs. Raises Refused where no process
    runs that could go on with it."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[words]}"), console=out.out)
    moving = out.out.is_terminal and not out.as_json
    shown: AbstractContextManager[object] = bar if moving else nullcontext()
    said, said_at = "", 0.0
    with shown:
        task = bar.add_task(name, total=None, words="")
        while True:
            seen = find(mesh, name)
            if not (seen.is_over or running.is_held(mesh.place.running)):
                raise Refused(
                    f"{in_words(seen)}, and no process runs this mesh",
                    code="not_running",
                    cure="start `millstream run`: it goes on from there",
                )
            words = in_words(seen)
            if moving:
                bar.update(task, total=seen.told.estimate or None, completed=seen.told.read, words=words)
            elif words != said and (out.as_json or seen.is_over or time.monotonic() - said_at >= SAY_EVERY_S):
                said, said_at = words, time.monotonic()
                out.say(words)
                out.line(seen.document())
            if seen.is_over:
                return seen
            sleep(LOOK_EVERY_S)
