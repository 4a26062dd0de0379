"""Columns that come, go and change under load and SIGKILLs: who is concerned, nobody else, and not one event lost or repeated."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults_events import Row
from faults_oracle import made_of
from faults_project import until
from faults_schema import MOVIE, STUDIO, Altered, Pipeline
from faults_schema_oracle import Wanted
from test_faults_gate import POINTS as GATE

from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

ALL = ("jsonl", "iceberg", "search")


def plain(sql: str) -> str:
    """A pipeline's query as Postgres takes it over the tables."""
    return sql.replace("archive.archive", "movie").replace("studio.public.", "")


def picks(*columns: str) -> Callable[[Row], Row]:
    return lambda found: {c: found[c] for c in columns}


def noted(found: Row) -> Row | None:
    return picks("id", "title", "note")(found) if found["note"] is not None else None


def recent(found: Row) -> Row | None:
    return found if found["year"] is not None and found["year"] >= 2000 else None


whole = picks("id", "title", "year", "rating", "note", "studio_id")


TITLES = f"SELECT id, title FROM {MOVIE}"
NOTED = f"SELECT id, title, note FROM {MOVIE} WHERE note IS NOT NULL"
REMARKED = f"SELECT m.id, m.note, s.name AS studio FROM {MOVIE} m LEFT JOIN {STUDIO} s ON s.id = m.studio_id"
ARCHIVE = f"SELECT * FROM {MOVIE}"
SHELF = f"SELECT m.*, s.name AS studio FROM archive.archive m LEFT JOIN {STUDIO} s ON s.id = m.studio_id"
RECENT = "SELECT * FROM archive.archive WHERE year >= 2000"
WHOLE = "SELECT id, title, year, rating, note, studio_id FROM movie"
SIGNS = f"SELECT m.*, s.name AS studio FROM {MOVIE} m JOIN {STUDIO} s ON s.id = m.studio_id"
YEARS = f"SELECT id, year FROM {MOVIE}"
PIPELINES = {
    "titles": Pipeline(TITLES, ("jsonl", "search"), Wanted(plain(TITLES), MOVIE, picks("id", "title"))),
    "noted": Pipeline(NOTED, ALL, Wanted(plain(NOTED), MOVIE, noted)),
    "remarked": Pipeline(REMARKED, ("jsonl",), Wanted(plain(REMARKED)), follow=True),
    "archive": Pipeline(ARCHIVE, ALL, Wanted(plain(ARCHIVE), MOVIE, lambda found: found), follow=True),
    "shelf": Pipeline(SHELF, ALL, Wanted(plain(SHELF)), follow=True),
}


CHAIN = {
    "archive": PIPELINES["archive"],
    "recent": Pipeline(RECENT, ("jsonl",), Wanted(plain(RECENT), "archive.archive", recent), follow=True),
    "shelf": Pipeline(
        SHELF.replace("archive.archive", "recent.recent"),
        ALL,
        Wanted(plain(SHELF).replace("FROM movie", "FROM (SELECT * FROM movie WHERE year >= 2000)")),
        follow=True,
    ),
    "titles": PIPELINES["titles"],
    "whole": Pipeline(ARCHIVE, ("jsonl",), Wanted(WHOLE, MOVIE, whole)),
    "signs": Pipeline(SIGNS, ("search",), Wanted(plain(SIGNS).replace("m.*", "m.id, m.title, m.year, m.rating, m.note, m.studio_id"))),
}
"""Three that follow, each but the first reading the one before, and three that are pinned, one of them with state."""
CHANGED = {
    "titles": PIPELINES["titles"],
    "years": Pipeline(YEARS, ("jsonl", "iceberg"), Wanted(plain(YEARS), MOVIE, picks("id", "year"))),
    "archive": PIPELINES["archive"],
    "shelf": PIPELINES["shelf"],
}


@pytest.fixture
def world(faults_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Altered]:
    """Over PIPELINES, or what a test is marked with."""
    with Altered(faults_server, tmp_path, getattr(request, "param", PIPELINES), seed=request.node.name) as made:
        yield made


over_chain = pytest.mark.parametrize("world", [pytest.param(CHAIN, id="chain")], indirect=True)
over_changed = pytest.mark.parametrize("world", [pytest.param(CHANGED, id="changed")], indirect=True)


def killed(world: Altered, times: int, rng: random.Random, lives_s: float = 3.0) -> None:
    """Run, and be killed at any moment, again and again."""
    for _ in range(times):
        with world.project.running() as process:
            threading.Event().wait(rng.uniform(0.5, lives_s))  # not to await anything: to hit any moment
            assert process.running, f"it ended by itself:\n{process.words[-3000:]}"
            process.signal(signal.SIGKILL)


def drop_note(world: Altered) -> None:
    world.alter("DROP COLUMN note", lambda found: found.pop("note", None) and None)


def told_of_pauses(world: Altered, concerned: set[str]) -> None:
    """Each owner once, whatever was killed since; nobody else."""
    told = {n["part"]: n for n in world.hook.told}
    assert sorted(n["part"] for n in world.hook.told) == sorted(concerned), world.hook.told
    for part, notice in told.items():
        name = part.removeprefix("pipeline.")
        assert (notice["state"], notice["owner"], notice["mesh"]) == ("paused", f"team-{name}", "altered")
        assert f"{MOVIE}.note" in notice["reason"] and f"step {name} uses it" in notice["reason"], notice
        assert f"millstream resume {name}" in notice["cure"], notice


def drop_a_consumed_column(world: Altered, kills: int) -> None:
    rng = random.Random(f"drop {kills}")
    concerned = {"pipeline.noted", "pipeline.remarked"}
    foretold = world.project.json("schemas", "impact", MOVIE, "ALTER TABLE movie DROP COLUMN note", code=4)
    assert {f"pipeline.{a['pipeline']}" for a in foretold["affected"] if a["verdict"] == "pause"} == concerned
    with world.project.running() as process:
        world.written()
        drop_note(world)
        until("those concerned are paused", lambda: concerned <= world.paused())
        world.written()
        with world.workload.paused():
            world.until_up_to_date(but=concerned)
        assert process.running
        parts = world.parts()
        assert {name for name, p in parts.items() if p["state"] == "paused"} == concerned
        for name, step in (("noted", "noted"), ("remarked", "remarked")):
            said = parts[f"pipeline.{name}"]
            assert f"{MOVIE}.note" in said["reason"] and f"step {step} uses it" in said["reason"], said
            assert f"millstream resume {name}" in said["cure"], said
    told_of_pauses(world, concerned)
    killed(world, kills, rng)
    with world.workload.paused():
        world.project.command("run", "--until-caught-up", code=4)
        world.verdict(but={"noted", "remarked"})
        with world.topics() as topics:
            before = [e for e in world.events(topics, MOVIE) if "note" in e.schema.names]
            assert not made_of("noted before the change", world.events(topics, "noted.noted"), before, noted)
            since = {name: world.events(topics, f"{name}.{name}")[-1].offset + 1 for name in ("noted", "remarked")}
    told_of_pauses(world, concerned)
    world.edit("noted", TITLES, Wanted(plain(TITLES), MOVIE, picks("id", "title"), changed_at=since["noted"]))
    now = REMARKED.replace("m.note", "m.title")
    world.edit("remarked", now, Wanted(plain(now), changed_at=since["remarked"]))
    with world.project.running() as process:
        world.written()
        world.project.command("resume", "noted")
        threading.Event().wait(rng.uniform(0, 1.0))
        process.signal(signal.SIGKILL)
    world.project.command("resume", "remarked")
    killed(world, kills, rng)
    world.check()
    with world.topics() as topics:
        after = [e for e in world.events(topics, MOVIE) if "note" not in e.schema.names]
        edited = [e for e in world.events(topics, "noted.noted") if e.offset >= since["noted"]]
        # Before these stands what the edit has made of rows that were published earlier.
        assert not made_of("noted after the change", edited[-len(after) :], after, picks("id", "title"))


def test_a_consumed_column_is_dropped(world: Altered) -> None:
    drop_a_consumed_column(world, 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_consumed_column_is_dropped_and_killed_again_and_again(world: Altered) -> None:
    drop_a_consumed_column(world, 15)


# ---- a column is added


def add_columns(world: Altered, kills: int) -> None:
    """One with a constant for old rows, one without."""
    rng = random.Random(f"add {kills}")
    pinned = ("titles", "whole", "signs")
    with world.project.running() as process:
        world.written()
        with world.workload.paused():
            world.until_up_to_date()
        before = world.parts()
        world.alter("ADD COLUMN extra text DEFAULT 'x'", lambda found: found.setdefault("extra", "x"))
        world.written()
        with world.workload.paused():
            world.until_up_to_date()
        after = world.parts()
        for name in pinned:
            assert after[f"pipeline.{name}"]["fence"] == before[f"pipeline.{name}"]["fence"], f"{name} was opened anew"
            assert len(world.history(f"{name}.{name}")) == 1, f"{name} has another version"
        assert process.running
        assert process.end() == 0
    said = {v["consumer"]: v for v in world.history(MOVIE)[-1]["verdicts"]}
    assert {said[f"pipeline.{name}"]["verdict"] for name in pinned} == {"ignore"}
    assert said["pipeline.archive"]["verdict"] == "propagate"
    (shelf,) = [v for v in world.history("recent.recent")[-1]["verdicts"] if v["consumer"] == "pipeline.shelf"]
    assert (shelf["verdict"], shelf["how"].partition(":")[0]) == ("propagate", "in place"), shelf
    with world.workload.paused():
        world.project.command("run", "--until-caught-up")
        world.verdict()
        with world.topics() as topics:
            told = world.events(topics, MOVIE)
    last = {e.key: e for e in told}.values()
    assert any(e.after and "extra" not in e.schema.names for e in last), "no row is left that was written before the column"
    assert not any(e.op == "r" and "extra" in e.schema.names for e in told), "the table was read again"
    world.alter("ADD COLUMN later text", lambda found: found.setdefault("later", None))
    killed(world, kills, rng)
    world.check()


@over_chain
def test_a_column_is_added(world: Altered) -> None:
    add_columns(world, 1)


@over_chain
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_column_is_added_and_killed_again_and_again(world: Altered) -> None:
    add_columns(world, 15)


# ---- a column that nobody names is dropped; another gets narrower, gets another name, gets wider


def change_columns(world: Altered, kills: int) -> None:
    rng = random.Random(f"change {kills}")
    table = documented()

    def done(actions: str, becomes: Callable[[Row], object], operation: str, **wanted: str) -> None:
        """Make the change beside a run that is killed, and hold what is ruled against the documented table."""
        with world.project.running():
            world.written(15)
            world.alter(actions, becomes)
            world.written(15)
            threading.Event().wait(rng.uniform(0, 2.0))  # not to await anything: to hit any moment
        killed(world, kills - 1, rng)
        with world.workload.paused():
            world.project.command("run", "--until-caught-up", code=4 if "pause" in wanted.values() else 0)
            version = world.history(MOVIE)[-1]
            said = {v["consumer"]: v["verdict"] for v in version["verdicts"]}
            assert {name: said[f"pipeline.{name}"] for name in wanted} == wanted, version
            assert wanted == {name: table[operation][USED[name, operation]] for name in wanted}
            world.verdict(but=[name for name, verdict in wanted.items() if verdict == "pause"])

    everyone = {"titles": "ignore", "years": "ignore"}
    done("DROP COLUMN note", lambda found: found.pop("note", None), "drop", **everyone, archive="propagate")
    done("ALTER COLUMN rating TYPE numeric(5,2)", lambda found: None, "narrow", **everyone, archive="ignore")
    world.expect("titles", Wanted("SELECT id, name AS title FROM movie", MOVIE, titled))
    # It takes the name, and with it the narrower type, which need not hold what its topic has: that is told again.
    with world.topics() as topics:
        since = world.events(topics, "archive.archive")[-1].offset + 1
    archive = world.pipelines["archive"].wanted
    world.expect("archive", replace(archive, changed_at=since))
    done("RENAME COLUMN title TO name", renamed, "rename", **everyone, archive="propagate")
    done("ALTER COLUMN year TYPE bigint", lambda found: None, "widen", titles="ignore", years="pause", archive="propagate")
    with world.project.running():
        world.written()
        world.project.command("resume", "years")
        threading.Event().wait(rng.uniform(0, 1.0))
    world.check()
    with world.topics() as topics:
        told = world.events(topics, MOVIE)
    shapes = [tuple((f.name, str(f.type)) for f in e.schema.fields) for e in told]
    assert len(set(shapes)) == 5 and shapes == sorted(shapes, key=list(dict.fromkeys(shapes)).index), "versions do not follow each other"
    assert any(e.after and (e.after["year"] or 0) > 1 << 31 for e in told), "nothing needed the wider type"


USED = {
    ("titles", "drop"): 0, ("years", "drop"): 0, ("archive", "drop"): 3,
    ("titles", "narrow"): 0, ("years", "narrow"): 0, ("archive", "narrow"): 3,
    ("titles", "rename"): 1, ("years", "rename"): 0, ("archive", "rename"): 3,
    ("titles", "widen"): 0, ("years", "widen"): 1, ("archive", "widen"): 3,
}  # fmt: skip
"""Which column of the documented table a pipeline's verdict on each of the changes stands in."""


def documented() -> dict[str, list[str]]:
    """The table of verdicts, as the reference has it: operation → what stands in its columns."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "schema-changes.md").read_text().partition("## Verdicts")[2]
    rows = [[cell.strip(" `*") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    return {operation: verdicts for operation, *verdicts in rows}


def renamed(found: Row) -> None:
    if "title" in found:
        found["name"] = found.pop("title")


def titled(found: Row) -> Row:
    return {"id": found["id"], "title": found["title"] if "title" in found else found["name"]}


@over_changed
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_columns_change_one_after_the_other(world: Altered) -> None:
    change_columns(world, 6)


# ---- killed wherever a schema is taken up

COMES = (*GATE, "sink.iceberg.changed")
"""Moments of a column that comes."""


@over_chain
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_wherever_a_column_is_taken_up(world: Altered) -> None:
    for number, moment in enumerate(COMES):
        column = f"more_{number}"
        process = world.project.start("run", fault=f"{moment}:1:KILL")
        world.written(10)
        world.alter(f"ADD COLUMN {column} text DEFAULT '{number}'", lambda f, c=column, n=number: f.setdefault(c, str(n)))
        code = process.wait()
        assert code == -signal.SIGKILL, f"{moment} was not reached; the run ended with {code}:\n{process.words[-3000:]}"
        if number % 3 == 2:
            world.check()
    world.check()
