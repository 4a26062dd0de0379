"""What a CockroachDB can no longer tell, end to end: away longer than its garbage collection, TRUNCATE, DROP of one of several tables.

While the process is down, and while it runs. `status` says it, a backfill compares the table with its topic, and topic, file and index are
the table's rows in the end, deletes included; the other table is never held up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_cockroach import CLUSTER, NOT_SHOWN, RECENT, SOURCE, STANDIN_ALONE, URL, Cockroach
from faults_cockroach_workload import SCHEMA
from faults_events import Event, Row
from faults_files import Readings
from faults_project import Process, Project, until

pytestmark = [pytest.mark.faults, pytest.mark.servers]

ROWS = 40
MOVIE, STUDIO = "public.movie", "public.studio"
FILES = {
    "mesh.yaml": "mesh: lost\n",
    "sources/shop.yaml": SOURCE,
    "pipelines/documents.yaml": """\
pipeline: documents
owner: o
steps:
  - name: document
    sql: |
      SELECT m.id, m.title, m.year, s.name AS studio FROM shop.public.movie m LEFT JOIN shop.public.studio s ON s.id = m.studio_id
    key: [id]
sinks:
  - {from: document, search: {index: documents}}
  - {from: document, jsonl: {file: documents.jsonl}}
""",
    "pipelines/studios.yaml": """\
pipeline: studios
owner: o
steps:
  - {name: studio, sql: "SELECT id, name FROM shop.public.studio"}
sinks:
  - {from: studio, jsonl: {file: studios.jsonl}}
""",
    "pipelines/recents.yaml": f"""\
pipeline: recents
owner: o
steps:
  - {{name: recent, sql: "{RECENT}"}}
""",
}


CHANGES = (
    "DELETE FROM movie WHERE id <= 5",
    "UPDATE movie SET title = 'Changed' WHERE id BETWEEN 6 AND 9",
    "INSERT INTO movie VALUES (1001, 1, 'New', 2002, NULL, true, NULL, 1)",
    "DELETE FROM studio WHERE id = 0",
    "UPSERT INTO studio VALUES (3, 1, 'S3', NULL)",
)
"""Rows go, change and come, of both tables."""


class Lost(Readings):
    """Two tables of some rows, and a mesh that has loaded them."""

    def __init__(self, cockroach: Cockroach, folder: Path) -> None:
        super().__init__(Project(folder, {"SHOP_URL": cockroach.url}, FILES))
        self.cockroach = cockroach
        cockroach.run(
            *SCHEMA,
            f"INSERT INTO movie SELECT g, 1, 'Movie', 2001, 1.5, true, NULL, g % 4 FROM generate_series(1, {ROWS}) AS s(g)",
            "INSERT INTO studio VALUES (0, 1, 'S0', NULL), (1, 1, 'S1', NULL), (2, 1, 'S2', NULL)",
        )
        self.project.command("apply")
        self.project.catch_up()

    def status(self) -> dict[str, Any]:
        """Of the source, as `millstream status` shows it."""
        process = self.project.start("--json", "status")
        process.wait()
        return next(p for p in json.loads(process.words)["parts"] if p["part"] == "source.shop")

    def state(self) -> dict[str, Any]:
        with self.topics() as topics:
            record = topics.producer_record("source.shop")
        return {} if record is None else dict(record.state)

    def topic(self, table: str) -> dict[int, Row]:
        with self.topics() as topics:
            return _folded(self.events(topics, f"shop.{table}"))

    def written(self, file: str) -> dict[int, Row]:
        return _folded(self.lines(file))

    def wanted(self) -> dict[int, Row]:
        studios = self.cockroach.rows("studio")
        return {
            key: {"id": key, "title": m["title"], "year": m["year"], "studio": studios.get(m["studio_id"], {}).get("name")}
            for key, m in self.cockroach.rows("movie").items()
        }

    def until_equal(self, process: Process) -> None:
        def equal() -> bool:
            assert process.running, process.words
            wanted = self.wanted()
            return (
                self.topic(MOVIE) == self.cockroach.rows("movie")
                and self.topic(STUDIO) == self.cockroach.rows("studio")
                and self.written("documents.jsonl") == wanted
                and {d["id"]: d for d in self.index()} == wanted
                and {k: r["name"] for k, r in self.written("studios.jsonl").items()}
                == {k: r["name"] for k, r in self.cockroach.rows("studio").items()}
            )

        until("topic, file and index are the table", equal, 90)

    def check_versions(self) -> None:
        """Of no key does a version come twice, or an older one after a newer."""
        self.reread()
        with self.topics() as topics:
            for table in (MOVIE, STUDIO):
                last: dict[int, str] = {}
                for event in self.events(topics, f"shop.{table}"):
                    # What a comparison deletes has the row's own version: it tells no change of the database's.
                    assert event.version > last.get(event.key, "") or (event.cause == "backfill" and event.op == "d"), event
                    last[event.key] = event.version


def _folded(events: list[Event]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for event in events:
        rows.pop(event.key, None)
        if event.after is not None:
            rows[event.key] = event.after
    return rows


@pytest.fixture(params=["26.1", pytest.param("22.1", marks=pytest.mark.long), CLUSTER])
def lost(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lost]:
    """On a cluster what is done by SQL alone; what else must happen to a server, the stand-in alone can be made to do."""
    if request.param == CLUSTER and not URL:
        pytest.skip(NOT_SHOWN)
    if request.param == CLUSTER and request.node.get_closest_marker("standin"):
        pytest.skip(STANDIN_ALONE)
    with Cockroach(request.param, "--pace", "20") as cockroach:
        made = Lost(cockroach, tmp_path)
        yield made
        made.project.close()


def closed(world: Lost, table: str) -> bool:
    return any(e["table"] == table and e["closed_at"] is not None for e in world.state().get("lost", ()))


def check_shown(world: Lost, tables: set[str], words: str) -> None:
    """While it is open as well as when it was made good: which tables, why, and what may be missing."""
    entries = {e["table"]: e for e in world.status()["lost"]}
    assert set(entries) == tables
    for entry in entries.values():
        assert words in entry["reason"] + entry["code"], entry
        assert "deletes" in entry["may_lack"]
        assert entry["after"] is not None and entry["resumed_at"] > entry["after"]


@pytest.mark.standin
def test_away_longer_than_garbage_collection_keeps(lost: Lost) -> None:
    lost.cockroach.run(*CHANGES)
    lost.cockroach.tell("gc 0")
    with lost.project.running() as process:
        until("it is made good", lambda: closed(lost, MOVIE) and closed(lost, STUDIO), 90)
        lost.cockroach.run("UPDATE movie SET title = 'After' WHERE id = 20", "DELETE FROM movie WHERE id = 21")
        lost.until_equal(process)
        check_shown(lost, {MOVIE, STUDIO}, "gc_threshold")
        assert process.end() == 0
    lost.check_versions()


@pytest.mark.long
@pytest.mark.standin
def test_held_up_longer_than_garbage_collection_keeps(lost: Lost) -> None:
    with lost.project.running() as process:
        lost.cockroach.run("UPDATE movie SET title = 'Followed' WHERE id = 20")
        until("it follows", lambda: lost.topic(MOVIE)[20]["title"] == "Followed")
        lost.cockroach.tell("drain 2")
        for statement in CHANGES:  # others get in, we do not
            lost.cockroach.tell(f"sql {statement}")
        lost.cockroach.tell("gc 0")
        until("it is made good", lambda: closed(lost, MOVIE) and closed(lost, STUDIO), 90)
        lost.until_equal(process)
        check_shown(lost, {MOVIE, STUDIO}, "gc_threshold")
        assert process.end() == 0
    lost.check_versions()


@pytest.mark.parametrize("is_running", [pytest.param(False, marks=pytest.mark.long), True], ids=["down", "running"])
def test_truncated(is_running: bool, lost: Lost) -> None:
    process = lost.project.start("run") if is_running else None
    if process is not None:
        lost.cockroach.run("UPDATE movie SET title = 'Followed' WHERE id = 20")
        until("it follows", lambda: lost.topic(MOVIE)[20]["title"] == "Followed")
    lost.cockroach.run(
        "TRUNCATE movie",
        "INSERT INTO movie VALUES (3, 7, 'Again', 2003, NULL, true, NULL, 2), (1002, 1, 'New', 2004, NULL, true, NULL, NULL)",
        "UPSERT INTO studio VALUES (2, 2, 'Other', NULL)",
    )
    process = process or lost.project.start("run")
    until("it is made good", lambda: closed(lost, MOVIE), 90)
    lost.cockroach.run("UPSERT INTO movie VALUES (4, 1, 'After', 2005, NULL, true, NULL, 1)")
    lost.until_equal(process)
    check_shown(lost, {MOVIE}, "truncated")
    assert process.end() == 0
    lost.check_versions()


@pytest.mark.parametrize("is_running", [pytest.param(False, marks=pytest.mark.long), True], ids=["down", "running"])
def test_dropped(is_running: bool, lost: Lost) -> None:
    """The table is set aside with its reason; its topic stays; the other table goes on."""
    process = lost.project.start("run") if is_running else None
    if process is not None:
        lost.cockroach.run("UPSERT INTO studio VALUES (1, 2, 'Followed', NULL)")
        until("it follows", lambda: lost.topic(STUDIO)[1]["name"] == "Followed")
    before = lost.topic(MOVIE)
    lost.cockroach.run("DROP TABLE movie")
    process = process or lost.project.start("run")
    until("the table is set aside", lambda: MOVIE in lost.state().get("aside", {}))
    lost.cockroach.run("UPSERT INTO studio VALUES (2, 2, 'After', NULL)", "DELETE FROM studio WHERE id = 1")
    until(
        "the other goes on",
        lambda: lost.topic(STUDIO) == lost.cockroach.rows("studio") and lost.written("studios.jsonl").keys() == {0, 2},
    )
    said = lost.status()
    assert "public.movie is set aside" in said["reason"] and "dropped" in said["reason"], said
    assert said["cure"]
    assert lost.topic(MOVIE) == before
    process.end()
    with lost.project.running() as again:
        lost.cockroach.run("UPSERT INTO studio VALUES (3, 1, 'Begun again', NULL)")
        until("the other goes on after another start", lambda: again.running and 3 in lost.topic(STUDIO))


def test_one_changefeed_whatever_reads_the_source(lost: Lost) -> None:
    """Three pipelines, three sinks and two tables: the server is asked for one."""
    before = 0 if lost.cockroach.is_cluster else lost.cockroach.changefeeds()
    with lost.project.running() as process:
        lost.cockroach.run(*CHANGES)
        lost.until_equal(process)
        assert lost.cockroach.feeds() == 1
        asked = 2 if lost.cockroach.kind == "22.1" else 1  # it is asked first with an option that 22.1 does not know
        assert lost.cockroach.is_cluster or lost.cockroach.changefeeds() - before == asked
        assert process.end() == 0
