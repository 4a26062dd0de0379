"""Chains of schema changes under pipelines that read tables and each other, as a property, in one process that is killed at any moment.

What was predicted beforehand is what is ruled then. Each pipeline's output is its query over the rows as they are; a paused one's over
those before its place; after its owner's edit over all. Every event ever written decodes. Nobody is rebuilt for whom nothing was ruled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from schema_chains_database import INT, TEXT
from schema_chains_mesh import Chains, Process, run_until_quiet
from schema_chains_oracle import check_decodes, check_outputs, check_sinks
from schema_chains_queries import MOVIE

from millstream.catalogue.judge import Versions
from millstream.cli.impact import Asking
from millstream.cli.mesh import Mesh
from millstream.events.types import Field, RowSchema
from millstream.pipelines import impact
from millstream.schemas.rules import gravest
from millstream.testing.scripted_source import Row

SEEDS, MORE_SEEDS = range(2), (*range(2, 61), *range(100, 103))
ROUNDS = 4

Ruled = dict[tuple[str, str, int], str]
"""(part, topic, version's schema id) → verdict."""


def ruled(mesh: Mesh) -> Ruled:
    """What counts by now, of what the gates have ruled."""
    kept = [k for t in mesh.topics.topics() for k in mesh.catalogue.verdicts.on(t.name)]
    return {(k.consumer, k.topic, k.schema_id): k.verdict for k in kept}


def one_change(world: Chains, process: Process) -> Process:
    """One change of one table, asked about before: what the command says is what happens, hop by hop."""
    table = world.rng.choice(world.tables_read)
    topic = f"src.{table}"
    kind = world.database.change(table)
    new = world.database.tables[table]
    with world.opened() as mesh:
        asking = Asking.of(mesh)
        found = asking.impact(topic, asking.now(topic), new)
    before, stopped = ruled(process.mesh), set(process.paused) | late(world, process)
    versions = {t.name: len(process.mesh.registry.versions(f"{t.name}-value")) for t in process.mesh.topics.topics()}
    world.database.write(table, 3)
    process = run_until_quiet(world, process)
    happened = {(c, t): v for (c, t, i), v in ruled(process.mesh).items() if before.get((c, t, i)) != v and c not in stopped}
    foretold: dict[tuple[str, str], list[str]] = {}
    for a in found.affected:
        part = a.part.replace("sink ", "sink.") if a.part.startswith("sink ") else f"pipeline.{a.pipeline}"
        asks = any(o.leaf.kind not in ("doc", "tags") for o in a.operations)  # what is only described otherwise is met by nobody
        if asks and part not in stopped:
            foretold.setdefault((part, a.topic), []).append(a.verdict.kind)
    expected = {k: gravest(v) for k, v in foretold.items()}
    same = {k for k, v in expected.items() if v == "ignore" and len(process.mesh.registry.versions(f"{k[1]}-value")) == versions.get(k[1])}
    assert happened == {k: v for k, v in expected.items() if k not in same or k in happened}, (
        f"{kind} of a column of {table}: {[str(o) for o in found.topics[topic]]}"
    )
    return process


def late(world: Chains, process: Process) -> set[str]:
    """The parts that have an earlier version to rule on yet, which no event has borne so far, and those behind them."""
    found: set[str] = set()
    now = {o.topic: n.schema for p in process.pipelines for o in p.plan.outputs for n in p.plan.nodes if n.name == o.node}
    for part in process.pipelines:
        read = {i.topic: i.schema for i in part.plan.inputs if i.topic in now}
        if any(shape(schema) != shape(now[topic]) or topic in found for topic, schema in read.items()):
            found |= {part.name, *(o.topic for o in part.plan.outputs)}
    accepted = process.mesh.catalogue.verdicts.accepted()
    versions = Versions(process.mesh.topics, process.mesh.registry)
    for sink in process.sinks:
        topic, schema_id = accepted.get(sink.plan.name, ("", 0))
        if topic in found or (topic in now and shape(versions.of(topic)[schema_id]) != shape(now[topic])):
            found.add(sink.name)
    return found


def many_changes(world: Chains, process: Process) -> Process:
    """Several changes of several tables at once, with and without events between them, predicted in any order of the tables."""
    rng, db = world.rng, world.database
    at, tables = len(db.log), rng.sample(world.tables_read, min(2, len(world.tables_read)))
    for _ in range(rng.randint(3, 6)):
        table = rng.choice(tables)
        db.change(table)
        if rng.random() < 0.7:
            db.write(table, rng.randint(1, 3))
    for table in tables:
        db.write(table, 2)
    met: dict[str, list[RowSchema]] = {}
    for entries, entry in enumerate(db.log[at:], at):
        for table in {c.table for c in entry} if isinstance(entry, list) else ():
            met.setdefault(f"src.{table}", []).append(db.schema(table, entries))
    consumers, before = world.consumers(), len_of(process.mesh)
    stopped = set(process.paused)
    foretold = {c.plan.pipeline: foretell(c, met) for c in consumers if f"pipeline.{c.plan.pipeline}" not in stopped}
    process = run_until_quiet(world, process)
    versions = Versions(process.mesh.topics, process.mesh.registry)
    for c in consumers:
        name, plan = f"pipeline.{c.plan.pipeline}", c.plan
        happened = process.mesh.catalogue.verdicts.of(name)[before[name] :]
        expected = foretold.get(c.plan.pipeline, {})
        for k in happened:
            schema = versions.of(k.topic)[k.schema_id]
            ruling = impact.rule(plan, c.compiles, k.topic, schema, k.schema_id, c.evolving)
            assert ruling.verdict.kind == k.verdict, f"{name} on {k.topic}, version {k.version}"
            plan = ruling.following or plan
            if k.topic in met:
                assert expected.pop((k.topic, shape(schema)), k.verdict) == k.verdict, f"{name} on {k.topic}, version {k.version}"
        if name in stopped:  # opened anew it goes on with its other topics, and stops where it did
            assert name in process.paused
        elif name not in process.paused:
            left = {k: v for k, v in expected.items() if v != "ignore"}
            assert not left, f"{name} was to rule on these, and did not"
        else:
            assert "pause" in {k.verdict for k in happened}  # a kill may have it rule anew on its other topics, after that
    return process


def foretell(consumer: impact.Consumer, met: Mapping[str, list[RowSchema]]) -> dict[tuple[str, Shape], str]:
    """What becomes of it at each version, topic by topic."""
    plan, found = consumer.plan, dict[tuple[str, Shape], str]()
    for topic in {i.topic for i in plan.inputs} & met.keys():
        for schema in met[topic]:
            accepted = next(i.schema for i in plan.inputs if i.topic == topic)
            if shape(schema) == shape(accepted) or (topic, shape(schema)) in found:
                continue
            ruling = impact.rule(plan, consumer.compiles, topic, schema, 0, consumer.evolving)
            found[topic, shape(schema)] = ruling.verdict.kind
            if ruling.verdict.kind == "pause":
                break
            plan = ruling.following or plan
    return found


Shape = tuple[tuple[int, str, str, bool], ...]


def shape(schema: RowSchema) -> Shape:
    return tuple((f.id, f.name, str(f.type), f.nullable) for f in schema.fields)


def len_of(mesh: Mesh) -> dict[str, int]:
    return {f"pipeline.{p}": len(mesh.catalogue.verdicts.of(f"pipeline.{p}")) for p in mesh.catalogue.pipelines()}


def edits(world: Chains, process: Process) -> Process:
    """The owners of what is paused make it fit again, one after the other, until nothing is paused that can go on."""
    for _ in range(20):
        paused = [m for m in world.made.values() if world.paused(process, m)]
        if not paused:
            return process
        made = next((m for m in paused if m.kind != "product"), paused[0])
        as_it_is = world.rng.random() < 0.3 or f"pipeline.{made.pipeline}" not in process.paused or made.kind == "product"
        resumed = as_it_is and world.killed("resume", made.name) == 0
        if not resumed and made.kind == "product":
            process = edited_products(world, process)
            continue
        if not resumed:
            world.edit(made)
            assert world.killed("resume", made.name) == 0, f"{made.name}, edited for its topics as they are, is not resumed"
        world.may_rebuild.add(made.pipeline)
        if world.rng.random() < 0.5:
            process.put_in_place(made.name)
        else:
            process.end()
            process = Process(world)
        process = run_until_quiet(world, process)
        check_outputs(world, process)
    raise AssertionError(f"still paused: {process.paused}")


def edited_products(world: Chains, process: Process) -> Process:
    """Another definition of a product is another generation of it, and `apply` makes that; what pipelines read may be newer then, too."""
    for made in world.broken():
        if made.kind == "product":
            world.edit(made)
    process.end()
    world.apply()
    process = run_until_quiet(world, None)
    check_outputs(world, process)
    return process


def everything_applied(world: Chains, process: Process) -> None:
    """In the end everybody holds over the topics as they are, and all that is published is what that makes of the whole tables."""
    process = edits(world, process)
    process.end()
    while broken := [m for m in world.broken() if m.kind != "product"]:
        world.edit(broken[0])
        assert world.killed("resume", broken[0].name) == 0
    for made in world.broken():
        world.edit(made)
    world.apply()
    process = edits(world, run_until_quiet(world, None))  # a sink has a version of its own, which its owner accepts by a resume
    assert not process.paused
    versions = Versions(process.mesh.topics, process.mesh.registry)
    for part in process.pipelines:
        for i in part.plan.inputs:
            assert shape(i.schema) == shape(list(versions.of(i.topic).values())[-1]), f"{part.name} does not read {i.topic} as it is"
    check_outputs(world, process)
    check_sinks(world, process)
    check_decodes(process.mesh)
    process.end()


def play(world: Chains) -> None:
    world.may_rebuild |= {m.pipeline for m in world.made.values()}
    process = run_until_quiet(world, None)
    check_outputs(world, process)
    for _ in range(ROUNDS):
        process = world.rng.choice([one_change, many_changes, many_changes])(world, process)
        check_outputs(world, process)
        if world.rng.random() < 0.6:
            process = edits(world, process)
        check_sinks(world, process)
    check_decodes(process.mesh)
    everything_applied(world, process)


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(s, marks=pytest.mark.long) for s in MORE_SEEDS)])
def test_chains(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(Chains.begin(tmp_path, seed, 0.01 if seed % 3 else 0.0, monkeypatch))


STARS = [("star", "follow", MOVIE), ("join_star", "follow", MOVIE), *(("behind_star", "follow", f"{p}.out") for p in ("p0", "p1"))]


def test_a_column_under_the_name_of_one_that_was_dropped_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of before have nothing in it, of the values that the dropped one had in them; of whatever type."""
    world = Chains.begin(tmp_path, 1, 0.0, monkeypatch, STARS)
    world.may_rebuild |= {m.pipeline for m in world.made.values()}
    table, db = "public.movie", world.database
    process = run_until_quiet(world, None)
    for number, type_ in enumerate((INT, None, TEXT, None, INT)):
        was = db.tables[table]
        left = tuple(f for f in was.fields if f.name != "note")
        new = () if type_ is None else (Field("note", type_, 20 + number),)
        db.turn(table, RowSchema((*left, *new), was.key), lambda r, new=new: {**r, "note": None} if new else without(r, "note"))
        db.write(table, 2)
        process = run_until_quiet(world, process)
        assert not process.paused
        check_outputs(world, process)
        check_sinks(world, process)
    check_decodes(process.mesh)
    process.end()


def without(row: Row, name: str) -> Row:
    return {n: v for n, v in row.items() if n != name}
