"""Derived tables from the files to the topics: plan says who filters, topics hold what passes, mistakes have their places."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.catalogue.controller import source_fingerprint
from millstream.cli.app import call
from millstream.cli.output import Secrets
from millstream.testing.cockroach.faults import RECORDED
from millstream.testing.cockroach.server import CockroachServer
from millstream.wiring import Wiring

SOURCE = """\
source: shop
connector: cockroachdb
url: ${SHOP_URL}
owner: team-shop
tables:
  - public.orders
  - {table: public.orders, as: large, select: [amount], where: "amount > 100", doc: Orders that count.}
  - table: public.orders
    as: odd
    where: weight < 1
"""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "sources").mkdir()
    (tmp_path / "mesh.yaml").write_text("mesh: derived\n")
    (tmp_path / "sources" / "shop.yaml").write_text(SOURCE)

    def run(server_url: str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call(["--project", str(tmp_path), *arguments], Wiring({"SHOP_URL": server_url}), Secrets())
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("version", ["26.1", pytest.param("22.1", marks=pytest.mark.long)])
def test_from_the_files_to_the_topics(run: Any, version: str) -> None:
    with CockroachServer(version, timing=replace(RECORDED[version], pace=40)) as server:
        server.execute("CREATE TABLE orders (id INT8 PRIMARY KEY, amount INT8, weight FLOAT8)")
        server.execute("INSERT INTO orders VALUES (1, 50, 0.5), (2, 500, 2), (3, 900, NULL)")
        code, out, err = run(server.url(), "plan")
        assert code == 0, err
        who = {"26.1": "filtered by the server", "22.1": "filtered here: the server is 22.1"}[version]
        assert f"source shop: {'2 feeds' if version == '26.1' else '1 feed'} of the server" in out
        assert f"large from public.orders, {who}" in out
        assert "odd from public.orders, filtered here" in out
        if version == "26.1":
            assert "weight is FLOAT8" in out
        readings = json.loads(run(server.url(), "plan", "--json")[1])["readings"]["shop"]
        assert [d["table"] for d in readings["derived"]] == ["large", "odd"]

        assert run(server.url(), "apply")[0] == 0
        assert run(server.url(), "run", "--until-caught-up")[0] == 0
        server.execute("UPDATE orders SET amount = 70 WHERE id = 2")
        server.execute("UPDATE orders SET amount = 700, weight = 0 WHERE id = 1")
        assert run(server.url(), "run", "--until-caught-up")[0] == 0
        told = [json.loads(line) for line in run(server.url(), "topics", "read", "shop.large", "--json")[1].splitlines()]
        events = [(e["op"], (e["after"] or e["before"])["id"]) for e in (t.get("event", t) for t in told) if e.get("op")]
        assert sorted(events) == [("c", 1), ("d", 2), ("r", 2), ("r", 3)]
        assert "Orders that count." in run(server.url(), "topics", "show", "shop.large")[1]


@pytest.mark.parametrize(
    ("written", "becomes", "said"),
    [
        ("amount > 100", "amount >", "here stands a literal"),
        ("select: [amount]", "select: [amount, amount]", "column amount is selected twice"),
        ("as: odd", "as: large", "large"),
        ("as: odd", "called: odd", "called"),
        ("connector: cockroachdb", "connector: postgres", "derived tables .* are of CockroachDB"),
    ],
)
def test_mistakes_have_their_places(run: Any, tmp_path: Path, written: str, becomes: str, said: str) -> None:
    (tmp_path / "sources" / "shop.yaml").write_text(SOURCE.replace(written, becomes))
    code, out, err = run("postgresql://root@localhost/shop", "validate")
    assert code != 0
    assert re.search(said, out + err), out + err
    assert "sources/shop.yaml:" in out + err


def test_a_server_that_is_away_hides_nothing_of_the_plan(run: Any, tmp_path: Path) -> None:
    with CockroachServer("26.1", timing=replace(RECORDED["26.1"], pace=40)) as server:
        server.execute("CREATE TABLE orders (id INT8 PRIMARY KEY, amount INT8, weight FLOAT8)")
        assert run(server.url(), "apply")[0] == 0
        url = server.url()
    code, out, err = run(url, "plan")
    assert code == 0 and "does not answer" in out + err


def test_what_is_derived_counts_in_the_fingerprint(tmp_path: Path, run: Any) -> None:
    def fingerprint(text: str) -> str:
        (tmp_path / "sources" / "shop.yaml").write_text(text)
        (source,) = Wiring({"SHOP_URL": "postgresql://root@localhost/shop"}).load(tmp_path).sources
        return source_fingerprint(source)

    assert fingerprint(SOURCE) == fingerprint(SOURCE.replace("Orders that count.", "Others."))
    assert fingerprint(SOURCE) != fingerprint(SOURCE.replace("> 100", "> 101"))
