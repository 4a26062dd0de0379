"""`push_down: true`, from the files to the topics: what comes of a pipeline is the same as without, and fewer bytes leave the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.cli.app import call
from millstream.cli.output import Secrets
from millstream.sources.cockroach.feeds import Feed
from millstream.testing.cockroach.faults import RECORDED
from millstream.testing.cockroach.server import CockroachServer
from millstream.wiring import Wiring

TABLES = {False: "[public.movie]", True: "[public.studio]"}
PIPELINE = """\
pipeline: recent
owner: team-recent
push_down: PUSH
steps:
  - name: kept
    sql: SELECT id, title, year FROM shop.public.movie WHERE year >= 2000 AND length(title) > 1
  - name: shown
    sql: SELECT k.id, upper(k.title) AS title FROM kept k WHERE k.year < 2020
examples:
  - name: those of late
    inputs:
      shop.public.movie: {key: [id], columns: {id: int64, title: text, year: int64, plot: text}}
    given: {shop.public.movie: [{id: 1, title: old, year: 1999, plot: p}, {id: 2, title: new, year: 2001, plot: p}]}
    expect: {shown: [{id: 2, title: NEW}]}
"""
CHANGES = (
    "UPDATE movie SET year = 1990 WHERE id IN (3, 4)",  # leaves
    "UPDATE movie SET year = 2005 WHERE id = 1",  # comes
    "UPDATE movie SET title = 'x' WHERE id = 5",  # leaves by what the server does not know
    "UPDATE movie SET plot = 'another' WHERE id < 10",
    "UPDATE movie SET year = NULL WHERE id = 6",
    "DELETE FROM movie WHERE id IN (7, 2)",
    "INSERT INTO movie VALUES (100, 'Born', 2010, 'p'), (101, 'Old', 1910, 'p')",
    "UPDATE movie SET year = 2030 WHERE id = 8",
)

Run = Callable[..., tuple[int, str, str]]


def project(folder: Path, *, push: bool, capsys: pytest.CaptureFixture[str], tables: str = "", pipeline: str = PIPELINE) -> Run:
    for name, text in {
        "mesh.yaml": "mesh: pushed\n",
        "sources/shop.yaml": "source: shop\nconnector: cockroachdb\nurl: ${SHOP_URL}\nowner: o\ntables: " + (tables or TABLES[push]) + "\n",
        "pipelines/recent.yaml": pipeline.replace("PUSH", str(push).lower()),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def run(url: str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call(["--project", str(folder), *arguments], Wiring({"SHOP_URL": url}), Secrets())
        return (code, *capsys.readouterr())

    return run


def told(run: Run, url: str, topic: str) -> list[Any]:
    lines = [json.loads(line) for line in run(url, "topics", "read", topic, "--json", "--limit", "0")[1].splitlines()]
    return [(e["op"], e["before"], e["after"]) for e in (t.get("event", t) for t in lines) if e.get("op")]


@pytest.mark.parametrize("version", ["26.1", pytest.param("22.1", marks=pytest.mark.long)])
def test_the_same_comes_of_it_and_fewer_bytes_leave_the_server(
    version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of: dict[bool, int] = {}
    events: dict[bool, list[Any]] = {}
    close = Feed.close
    with CockroachServer(version, timing=replace(RECORDED[version], pace=40)) as server:
        server.faults.repeats = server.faults.disorder = 0.0
        server.execute("CREATE TABLE studio (id INT8 PRIMARY KEY)")
        for push in (False, True):
            server.execute("DROP TABLE IF EXISTS movie")
            server.execute("CREATE TABLE movie (id INT8 PRIMARY KEY, title STRING, year INT8, plot STRING)")
            server.execute("INSERT INTO movie SELECT g, 'Movie', 1999 + g % 8, repeat('plot ', 1000) FROM generate_series(1, 40) AS s(g)")
            run, url = project(tmp_path / str(push), push=push, capsys=capsys), server.url()
            code, out, err = run(url, "plan")
            assert code == 0, out + err
            if push:
                who = {"26.1": "filtered by the server", "22.1": "filtered here: the server is 22.1"}[version]
                assert f"from public.movie, {who}" in out and "pushed down for recent" in out and "no bytes are saved" not in out
            assert run(url, "test")[0] == 0
            assert run(url, "apply")[0] == 0
            assert run(url, "run", "--until-caught-up")[0] == 0
            bytes_of[push], feeds = 0, set()

            def closed(feed: Feed, push: bool = push, feeds: set[int] = feeds) -> None:
                if id(feed) not in feeds and any(t.name.table == "movie" for t in feed.tables):
                    feeds.add(id(feed))
                    bytes_of[push] += feed.received
                close(feed)

            with monkeypatch.context() as patched:
                patched.setattr(Feed, "close", closed)
                for change in CHANGES:
                    server.execute(change)
                assert run(url, "run", "--until-caught-up")[0] == 0
            events[push] = told(run, url, "recent.shown")
            if push:
                topics = [line for line in run(url, "topics", "list")[1].splitlines() if "movie" in line]
                assert len(topics) == 1 and "shop.public.movie_" in topics[0], "the whole table is no topic"
    by_key = lambda told: sorted(told, key=lambda e: ((e[1] or e[2])["id"], str(e)))  # noqa: E731
    assert by_key(events[True]) == by_key(events[False])
    assert {op for op, _, _ in events[True]} >= {"r", "c", "d"}
    saved = 1 - bytes_of[True] / bytes_of[False]
    print(f"\n{version}: {bytes_of[False]:,} bytes of the table, {bytes_of[True]:,} of what was pushed down: {saved:.0%} saved")
    assert saved > 0.3 if version == "26.1" else bytes_of[True] >= bytes_of[False] * 0.8


@pytest.mark.parametrize(
    ("written", "becomes", "said"),
    [
        ("connector: cockroachdb", "connector: postgres", "has no derived tables"),
        ("FROM shop.public.movie WHERE", "FROM shop.public.movie m JOIN shop.public.studio s ON s.id = m.id WHERE", "more than columns"),
        (
            "SELECT id, title, year FROM shop.public.movie WHERE year >= 2000 AND ",
            "SELECT * FROM shop.public.movie WHERE ",
            "takes all columns",
        ),
        ("FROM kept k WHERE", "FROM kept k JOIN shop.public.movie m ON m.id = k.id WHERE", "read by more than the first step"),
        ("push_down: PUSH", "push_down: perhaps", "true or false"),
        ("shop.public.movie WHERE", "other.movie WHERE", "no source's table"),
    ],
)
def test_what_cannot_be_pushed_down_is_said_at_its_place(
    written: str, becomes: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = project(tmp_path, push=True, capsys=capsys, pipeline=PIPELINE.replace(written, becomes))
    if "connector" in written:
        path = tmp_path / "sources" / "shop.yaml"
        path.write_text(path.read_text().replace(written, becomes) + "slot: shop\n")
    code, out, err = run("postgresql://root@localhost/shop", "validate")
    assert code != 0 and said in out + err, out + err
    assert "pipelines/recent.yaml:3:" in out + err


def test_plan_says_what_is_compared_otherwise_and_what_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with CockroachServer("26.1", timing=replace(RECORDED["26.1"], pace=40)) as server:
        server.execute("CREATE TABLE movie (id INT8 PRIMARY KEY, title STRING, year FLOAT8, plot STRING)")
        run = project(tmp_path, push=True, capsys=capsys, tables="[public.movie]")
        code, out, err = run(server.url(), "plan")
        assert code != 0 and "year is float64" in out + err and "a step behind" in out + err
        run = project(
            tmp_path, push=True, capsys=capsys, tables="[public.movie]", pipeline=PIPELINE.replace("year >= 2000", "title <> 'x'")
        )
        code, out, err = run(server.url(), "plan")
        assert code == 0 and "public.movie comes whole as well, so no bytes are saved" in out, out + err
        assert list(json.loads(run(server.url(), "plan", "--json")[1])["pushed_down"]) == ["recent"]


def test_another_condition_is_another_table_and_what_is_published_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with CockroachServer("26.1", timing=replace(RECORDED["26.1"], pace=40)) as server:
        server.execute("CREATE TABLE studio (id INT8 PRIMARY KEY)")
        server.execute("CREATE TABLE movie (id INT8 PRIMARY KEY, title STRING, year INT8, plot STRING)")
        server.execute("INSERT INTO movie SELECT g, 'Movie', 1990 + g, 'p' FROM generate_series(1, 25) AS s(g)")
        for since in (2000, 2005, 1995, 2005):
            run = project(tmp_path, push=True, capsys=capsys, pipeline=PIPELINE.replace("year >= 2000", f"year >= {since}"))
            code, out, err = run(server.url(), "apply")
            assert code == 0, out + err
            assert run(server.url(), "run", "--until-caught-up")[0] == 0
            server.execute("UPSERT INTO movie VALUES (26, 'Last', 2016, 'p'), (1, 'First', 1991, 'changed')")
            assert run(server.url(), "run", "--until-caught-up")[0] == 0
            rows = {(after or before)["id"]: after for _, before, after in told(run, server.url(), "recent.shown")}
            wanted = {g for g in range(1, 27) if since <= 1990 + g < 2020} | {26}
            assert {key for key, after in rows.items() if after is not None} == wanted, since
