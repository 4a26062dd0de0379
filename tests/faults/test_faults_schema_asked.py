"""What is asked or refused before anything runs: nothing is changed by it, in no file of the mesh and nowhere in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from faults_schema import MOVIE, STUDIO, Altered, Pipeline, pipeline
from faults_schema_oracle import Wanted

from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

TITLES = f"SELECT id, title FROM {MOVIE}"
SHELF = f"SELECT m.id, m.title AS name, s.name AS studio FROM {MOVIE} m LEFT JOIN {STUDIO} s ON s.id = m.studio_id WHERE m.year > 1990"
LONG = "SELECT id, name FROM shelf.shelf WHERE length(name) > 5"
PIPELINES = {
    "titles": Pipeline(TITLES, ("jsonl",), Wanted("SELECT id, title FROM movie")),
    "shelf": Pipeline(SHELF, ("search", "iceberg"), Wanted(SHELF.replace("studio.public.", ""))),
    "long": Pipeline(LONG, ("jsonl",), Wanted("")),
    "years": Pipeline(f"SELECT id, year FROM {MOVIE}", ("jsonl",), Wanted("SELECT id, year FROM movie")),
}
MISTAKES = {
    "a column that is none": (pipeline("wrong", f"SELECT id, tilte FROM {MOVIE}", "search"), "unknown_column", "tilte"),
    "a join of other types": (
        pipeline("wrong", f"SELECT m.id, s.name AS studio FROM {MOVIE} m LEFT JOIN {STUDIO} s ON s.name = m.year", "search"),
        "type_clash",
        "s.name = m.year",
    ),
    "a cycle": (
        pipeline("wrong", "SELECT id, title FROM round.round", "jsonl")
        + "---\n"
        + pipeline("round", "SELECT id, title FROM wrong.wrong", "jsonl"),
        "cycle",
        "→ round",
    ),
    "SQL that is not of the subset": (pipeline("wrong", f"SELECT id, random() AS dice FROM {MOVIE}", "iceberg"), "volatile", "random()"),
    "a source that is none": (
        pipeline("wrong", "SELECT id, title FROM nowhere.public.movie", "jsonl"),
        "unknown_table",
        "nowhere.public.movie",
    ),
}


@pytest.fixture(scope="module")
def world(faults_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Altered]:
    with Altered(faults_server, tmp_path_factory.mktemp("asked"), PIPELINES, seed="asked") as made:
        made.workload.stop()
        made.project.catch_up()
        yield made


def everything(world: Altered) -> dict[str, str]:
    """A digest of every file of the mesh, and what there is in the database."""
    found = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(world.project.state.rglob("*")) if p.is_file()}
    with world.connect() as connection:
        for name, sql in {
            "slots": "SELECT slot_name, restart_lsn, confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()",
            "publications": "SELECT pubname, tablename, attnames, rowfilter FROM pg_publication_tables ORDER BY 1, 2",
            "tables": "SELECT oid, relname, relnatts, relreplident FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
        }.items():
            found[name] = str(connection.execute(sql.encode()).fetchall())
    return found


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_its_place_and_nothing_is_changed(mistake: str, world: Altered) -> None:
    text, code, names = MISTAKES[mistake]
    before = everything(world)
    wrong = [world.project.folder / f"pipelines/wrong{n}.yaml" for n, _ in enumerate(text.split("---\n"))]
    for path, part in zip(wrong, text.split("---\n"), strict=True):
        path.write_text(part)
    try:
        said = world.project.command("apply", code=2)
        assert f"error[{code}]" in said and names in said and "pipelines/wrong0.yaml:" in said and "cure: " in said, said
        assert "Traceback" not in said
        assert everything(world) == before
    finally:
        for path in wrong:
            path.unlink()


def test_lineage_lists_exactly_who_uses_a_column_and_impact_who_would_pause(world: Altered) -> None:
    before = everything(world)
    found = world.project.json("lineage", f"{MOVIE}.title")
    said = world.project.json("schemas", "impact", MOVIE, "ALTER TABLE movie DROP COLUMN title", code=4)
    assert everything(world) == before
    assert {f["name"] for f in found["fields"]} == {
        f"{MOVIE}.title",
        *("titles.titles.title", "titles.titles.jsonl.title"),
        *("shelf.shelf.name", "shelf.shelf.search.name", "shelf.shelf.iceberg.name"),
        *("long.long.name", "long.long.jsonl.name"),
        *("long.long", "long.long.jsonl"),  # which rows there are
    }
    assert {p["name"]: p["owner"] for p in found["parts"]} == {n: f"team-{n}" for n in ("titles", "shelf", "long")}
    assert {a["pipeline"]: a["verdict"] for a in said["affected"]} == {"titles": "pause", "shelf": "pause", "years": "ignore"}
    assert said["waiting"] == {"long": "shelf"}


RULE = """\
from millstream.schemas.rules import Change, Violation, rule


@rule(scope="step:years.*")
def no_personal_data(change: Change):
    for operation in change.operations:
        if operation.kind == "add" and "email" in operation.column:
            where = f"{change.topic}.{operation.column}"
            yield Violation("an address is personal", where, "everybody reads years", "ask the privacy team")
"""


def test_a_rule_of_ten_lines_stops_one_teams_pipeline_and_nobody_elses(world: Altered) -> None:
    path = world.project.folder / "rules/personal.py"
    path.parent.mkdir()
    path.write_text(RULE)
    world.alter("ADD COLUMN email text", lambda found: found.setdefault("email", None))
    with world.connect() as connection:
        connection.execute("UPDATE movie SET email = 'someone@example.com' WHERE id <= 20")
    world.project.command("run", "--until-caught-up", code=4)
    assert world.paused() == world.behind() == {"pipeline.years"}
    years = world.parts()["pipeline.years"]
    assert "an address is personal" in years["reason"] and "ask the privacy team" in years["cure"]
    assert "an address is personal" in world.project.command("resume", "years", code=2)
    path.unlink()
    world.project.command("resume", "years")
    world.project.catch_up()
    assert world.paused() == world.behind() == set()


def test_what_is_foretold_is_what_happens(world: Altered) -> None:
    said = world.project.json("schemas", "impact", MOVIE, "ALTER TABLE movie DROP COLUMN title", code=4)
    before = everything(world)
    world.alter("DROP COLUMN title", lambda found: found.pop("title", None))
    with world.connect() as connection:
        connection.execute("UPDATE movie SET year = 2000 WHERE id = 1")
    world.project.command("run", "--until-caught-up", code=4)
    assert world.paused() == {f"pipeline.{a['pipeline']}" for a in said["affected"] if a["verdict"] == "pause"}
    verdicts = {v["consumer"]: v["verdict"] for v in world.history(MOVIE)[-1]["verdicts"]}
    assert verdicts == {f"pipeline.{a['pipeline']}": a["verdict"] for a in said["affected"]}
    assert everything(world) != before  # so that the tests above are able to fail
