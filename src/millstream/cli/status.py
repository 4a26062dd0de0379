"""`millstream status`: what each part is doing, read from what it left in topics and catalogue; no part is asked or disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from millstream.capture.backfill import Backfill, id_of, load_of
from millstream.capture.losses import open_ones
from millstream.catalogue.store import AppliedPipeline, AppliedSource, Asked, State
from millstream.cli import backfillview, running, topics
from millstream.cli.exits import FAILED, OK, PAUSED
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output
from millstream.cli.session import Here, not_applied
from millstream.engine.requests import OPEN
from millstream.engine.sinkrun import NEW_TARGET
from millstream.topics.contract import Kept, ProducerRecord, Topics
from millstream.topics.incarnations import ENDED, Ended

_NEWS_S = 7 * 86_400
_SOONER = "nothing is lost; let it run at least once within `history`, or raise `history` or `behind_mib` in mesh.yaml"


@dataclass(frozen=True)
class PartView:
    """One part as it is seen from outside. `lag` counts records of its topics that it has not read; None for a source, whose
    server is not asked. `loading` is what is left of a source's initial loads; `lost` is what it can never tell, made good or not."""

    part: str
    state: str
    reason: str
    cure: str
    since: float | None
    position: Mapping[str, Any] | None
    lag: int | None
    fence: int
    sequence: int
    progress: Mapping[str, str]
    loading: Mapping[str, Any]
    lost: Sequence[Mapping[str, Any]]
    figures: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return {**vars(self), "since": when(self.since)}


def status(*, session: Here) -> int:
    """Show what each part is doing: its state, why and what to do, how far it is behind.

    Works beside a running `millstream run` and without one. Ends with 1 if a part has failed, 4 if none has but one is paused.

    Example: `millstream status`

    Example: `millstream status --json | jq '.parts[] | select(.lag > 0)'`
    """
    with session.mesh() as mesh:
        sources, pipelines = mesh.catalogue.sources(), mesh.catalogue.pipelines()
        if not sources and not pipelines:
            raise not_applied("nothing is applied yet")
        is_running = running.is_held(mesh.place.running)
        kept = {t.name: mesh.topics.kept(t.name) for t in mesh.topics.topics()}
        parts = list(views(mesh, sources, pipelines, is_running, kept))
        backfills = [b for b in backfillview.everything(mesh) if b.order.asks and not b.is_over]
        asked = [a for a in mesh.catalogue.requests() if a.state in OPEN]
        ruled = [k for k in mesh.catalogue.verdicts.everything() if time.time() - k.at < _NEWS_S]
    _show(parts, is_running, session.output)
    for k in ruled:
        if k.how:
            session.output.say(f"{k.consumer}: took version {k.version} of {k.topic} at {when(k.at)}, {k.how}")
    for a in asked:
        session.output.say(f"pipeline.{a.request.pipeline}: {in_words_of(a)}", "yellow")
    for b in backfills:
        session.output.say(f"source.{b.order.source}: backfill {backfillview.in_words(b)}", "yellow")
    space = [{"topic": name, **topics.space(k)} for name, k in kept.items()]
    size = sum(k.stored_bytes for k in kept.values())
    session.output.say(f"{len(kept)} topics hold {topics.mib(size)} MiB; of what is older than the history, the last event of each key")
    for s in space:
        if s["held_by"]:
            session.output.say(f"{s['topic']}: {topics.held(s)}", "yellow")
    lags = [p.lag for p in parts if p.lag is not None]
    session.output.document(
        {
            "mesh": session.project.mesh.name,
            "running": is_running,
            "lag": sum(lags),
            "loading": any(p.loading for p in parts),
            "parts": [p.document() for p in parts],
            "topics": space,
            "verdicts": [
                {"consumer": k.consumer, "topic": k.topic, "version": k.version, "verdict": k.verdict, "how": k.how, "at": when(k.at)}
                for k in ruled
            ],
            "backfills": [b.document() for b in backfills],
            "requests": [
                {
                    "request": a.request.name,
                    "pipeline": a.request.pipeline,
                    "kind": a.request.kind,
                    "state": a.state,
                    "done": a.done,
                    "total": a.total,
                }
                for a in asked
            ],
        }
    )
    return FAILED if any(p.state == "failed" for p in parts) else PAUSED if any(p.state == "paused" for p in parts) else OK


def views(
    mesh: Mesh, sources: Mapping[str, AppliedSource], pipelines: Mapping[str, AppliedPipeline], is_running: bool, kept: Mapping[str, Kept]
) -> Iterator[PartView]:
    """Every applied part: sources, pipelines, saved searches by product and each that is set aside, sinks, then products of which a
    generation is on its way."""
    states, readers, figures = mesh.catalogue.states(), mesh.topics.readers(), mesh.catalogue.figures()

    def view(part: str, reads: Mapping[str, int] | None) -> PartView:
        record = mesh.topics.producer_record(part)
        state = _told(part, _state(states.get(part), is_running), [t for t, k in kept.items() if part in k.lost], record)
        lag = None if reads is None else sum(max(0, mesh.topics.end(topic) - offset) for topic, offset in reads.items())
        return PartView(
            part,
            state.state,
            state.reason,
            state.cure,
            state.at or None,
            _position(record) if reads is None else reads,
            lag,
            record.fence if record else 0,
            record.sequence if record else 0,
            dict(record.state.get("progress", {})) if record else {},
            _loading(record),
            list(record.state.get("lost", ())) if record else [],
            {**figures.get(part, {}), **({"dropped": dict(dropped)} if record and (dropped := record.state.get("dropped")) else {})},
        )

    for name in sources:
        yield view(f"source.{name}", None)
    for name, pipeline in pipelines.items():
        if pipeline.outputs:  # one without steps only has sinks
            yield view(f"pipeline.{name}", _reads(mesh.topics, f"pipeline.{name}", pipeline, readers))
    for name in mesh.catalogue.products():
        if (record := mesh.topics.producer_record(f"pipeline.{name}")) is not None:
            yield view(f"pipeline.{name}", {**record.state.get("positions", {}), **readers.get(f"pipeline.{name}", {})})
    for search in mesh.project.searches:
        if (said := states.get(f"search.{search.name}")) is not None and said.state == "failed":
            yield view(f"search.{search.name}", None)
    for pipeline in pipelines.values():
        for name, sink in pipeline.sinks.items():
            yield view(f"sink.{name}", {sink.topic: readers.get(f"sink.{name}", {}).get(sink.topic, 0)})
    for name, product in mesh.catalogue.products().items():
        if product.next:
            yield view(f"product.{name}", None)


def _state(said: State | None, is_running: bool) -> State:
    """What a part said last; a process that was killed had no time to say that it stopped."""
    if said is None:
        return State("", "not running", "never started", "", 0)
    if is_running or said.state in ("stopped", "failed", "paused"):
        return said
    return State(said.part, "not running", f"the process ended while this was {said.state}", "start `millstream run` again", said.at)


def _told(part: str, state: State, lost: list[str], record: ProducerRecord | None) -> State:
    """The state with, where it says nothing itself, which tables a source has set aside, that the part has lost its place, or was
    rebuilt for that within a week."""
    rebuilt = dict(record.state.get("rebuilt", {})) if record else {}
    is_news = time.time() - rebuilt.get("at", 0) < _NEWS_S
    if state.state not in ("failed", "paused") and record is not None and (news := list(_of_tables(record))):
        return State(state.part, state.state, "; ".join(said for said, _ in news), news[0][1], state.at)
    if state.state in ("failed", "paused") or not (lost or is_news):
        return state
    where = "was compacted further than it had read"
    if lost and part.startswith("sink."):
        reason, cure = f"it has lost its place: {', '.join(lost)} {where}, so it will stop", NEW_TARGET
    elif lost:
        reason, cure = f"it has lost its place: {', '.join(lost)} {where}, so it is rebuilt from the start", _SOONER
    else:
        reason = f"it was rebuilt at {when(rebuilt['at'])}, as {', '.join(rebuilt['lost'])} {where}"
        cure = _SOONER
    said = f"{state.reason}; " if state.reason else ""
    return State(state.part, state.state, said + reason, state.cure or cure, state.at)


def _of_tables(record: ProducerRecord) -> Iterator[tuple[str, str]]:
    """What there is to say of a source's tables, and what to do: those set aside, and those of which a part was lost."""
    for table, why in record.state.get("aside", {}).items():
        yield f"{table} is set aside at {why['position']}: {why['reason']}", why["cure"]
    for table, entries in record.state.get(ENDED, {}).items():
        yield from _gone_on(record, table, Ended.of(entries[-1]))
    for entry in open_ones(record.state.get("lost", ()), record.state.get("aside", {})):
        table, backfill = entry["table"], id_of(record.name.removeprefix("source."), entry["table"], entry["backfill"])
        wanted = any(b["name"] == entry["backfill"] and b["wanted"] for b in record.state["backfills"].values() if b["table"] == table)
        span = f"between {entry['after'] or 'its beginning'} and {entry['resumed_at']}"
        said = f"what happened to {table} {span} is lost: {entry['reason']}; {entry['may_lack']}"
        if wanted:
            yield said, f"nothing: backfill {backfill} compares it with its topic, and then nothing is amiss"
        else:
            yield said, f"`millstream backfill resume {backfill}` compares it with its topic"


def _gone_on(record: ProducerRecord, table: str, ended: Ended) -> Iterator[tuple[str, str]]:
    """That a table's topic goes on as another, as long as that is news or its load is not done."""
    load = load_of({slot: Backfill(**b) for slot, b in record.state["backfills"].items()}, table)
    if load.done and time.time() - ended.at > _NEWS_S:
        return
    far = "" if load.done else f", which is loaded: {load.rows:,} of about {max(load.estimate, load.rows):,} rows are there"
    readers = f"who reads {ended.topic} pauses at its end, and `millstream resume PIPELINE` moves it over"
    yield f"{ended.topic} is complete up to {ended.position} and goes on as {ended.goes_on_as}{far}: {ended.reason}", readers


def _reads(carrier: Topics, part: str, pipeline: AppliedPipeline, readers: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Topic → where the pipeline reads next. Invariant 3: the positions that count are those in its own commit; what it noted
    may be ahead, where a round published nothing."""
    record = carrier.producer_record(part)
    committed = dict(record.state.get("positions", {})) if record else {}
    noted = readers.get(part, {})
    only_sinks = {s.topic for s in pipeline.sinks.values()} - {*committed, *noted}
    inputs = [t for t in pipeline.inputs if t not in only_sinks]
    return {topic: max(committed.get(topic, 0), noted.get(topic, 0)) for topic in inputs}


def _position(record: ProducerRecord | None) -> dict[str, Any] | None:
    return None if record is None else record.state.get("position")


def _loading(record: ProducerRecord | None) -> dict[str, Any]:
    """Table → rows done and estimated, of the backfills that are not done and that nobody asked for; what is only offered has not begun."""
    loads = record.state.get("backfills", {}) if record else {}
    return {
        table: {
            "backfill": b["name"],
            "rows": b["rows"],
            "estimate": max(b["estimate"], b["rows"]),
            "offered": not b.get("wanted", True),
        }
        for table, b in loads.items()
        if not (b["done"] or Backfill(**b).is_asked)
    }


def _show(parts: list[PartView], is_running: bool, output: Output) -> None:
    output.say("a process runs this mesh" if is_running else "no process runs this mesh: `millstream run` starts one", "bold")
    rows = [(p.part, p.state, p.lag, _place(p), f"{p.fence}/{p.sequence}", when(p.since)) for p in parts]
    output.table(("part", "state", "lag", "position", "fence/sequence", "since"), rows, "")
    for p in parts:
        if words := in_words(p.figures):
            output.say(f"{p.part}: {words}")
        if p.reason:
            output.say(f"{p.part}: {p.reason}", "red" if p.state == "failed" else "yellow")
        if p.cure:
            output.say(f"  cure: {p.cure}", "green")


def in_words(figures: Mapping[str, Any]) -> str:
    """What a part's figures say to a person; empty where there is nothing to say."""
    said = []
    if figures.get("pending"):
        said.append(f"{figures['pending']:,.0f} keys wait to be refreshed")
        if "pending_rate" in figures:
            said.append(f"{figures['pending_rate']:,.0f}/s, {figures['pending_left_s']:,.0f} s left")
    if "documents_per_trigger" in figures:
        ratio, since = figures["documents_per_trigger"], when(figures["counted_since"])
        said.append(f"{ratio:,.2f} rows written for each of {figures['triggers']:,.0f} keys that changes touched since {since}")
    if dropped := figures.get("dropped"):
        said.append("left out so far: " + ", ".join(f"{count:,} {what}" for what, count in dropped.items()))
    said += [f"source {name} {state}" for name, state in figures.get("sources", {}).items()]
    if "freshness_p50_ms" in figures:
        said.append(f"written {figures['freshness_p50_ms']:,.0f} ms after the commit (99 of 100: {figures['freshness_p99_ms']:,.0f} ms)")
    return ", ".join(said)


def _place(part: PartView) -> str | None:
    if part.loading:
        return ", ".join(
            f"{'offered: ' if b['offered'] else ''}loading {table}: {b['rows']:,} of about {b['estimate']:,}"
            for table, b in part.loading.items()
        )
    if part.position is None:
        return None
    if part.lag is None:
        return f"{part.position['major']:016x}.{part.position['minor']:08x}"
    return ", ".join(f"{topic}@{offset}" for topic, offset in part.position.items())


def when(seconds: float | None) -> str | None:
    """A moment as ISO 8601, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def in_words_of(asked: Asked) -> str:
    """A request and how far it is."""
    return f"{asked.request.kind} {asked.request.name}: {asked.state}, {rows_done(asked)} rows"


def rows_done(asked: Asked) -> str:
    return f"{asked.done:,} of about {asked.total:,}" if asked.state in OPEN and asked.total else f"{asked.done:,}"
