"""A rule that a user has written, in a running mesh: it stops those in its scope before the change, with its words, and nobody else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.testing.scripted_source import Change

from .conftest import ORDERS

GUIDE = Path(__file__).parents[3] / "docs/how-to/write-a-rule.md"
WITH_EMAIL = RowSchema((*ORDERS.fields, Field("buyer_email", Type("text"), 4)), ORDERS.key)

WIDER = RowSchema((ORDERS.fields[0], Field("amount", Type("int64"), 2), ORDERS.fields[2]), ORDERS.key)


def pipeline(name: str, sql: str) -> str:
    return (
        f"pipeline: {name}\nowner: team-{name}\nevolve: follow\nsteps:\n  - name: page\n    sql: {sql}\n"
        f"sinks:\n  - {{from: page, jsonl: {{file: {name}.jsonl}}}}\n"
    )


@pytest.fixture
def mesh(shop):
    """The shop with two teams' pipelines that do the same, all caught up."""
    (shop.folder / "pipelines/large.yaml").unlink()
    for name in ("catalogue", "ledger"):
        shop.write(f"pipelines/{name}.yaml", pipeline(name, "SELECT * FROM shop.public.orders"))
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def add(shop, number: int, **values: object) -> None:
    shop.database.commit(Change("public.orders", None, {"id": number, "amount": number, **values}))


def told(shop, name: str) -> list[dict]:
    lines = [json.loads(line) for line in (shop.folder / f"{name}.jsonl").read_text().splitlines()]
    return [line["after"] for line in lines if line["op"] != "r"]


def states(shop) -> dict[str, dict]:
    return {p["part"]: p for p in shop("--json", "status").json["parts"]}


def test_the_rule_of_the_guide_stops_one_teams_pipeline_and_nobody_elses(mesh) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    mesh.write("rules/personal.py", text)
    add(mesh, 4, note="d")
    assert mesh("run", "--until-caught-up").code == 0
    mesh.database.alter("public.orders", WITH_EMAIL)
    add(mesh, 5, note="e", buyer_email="a@b.c")
    assert mesh("run", "--until-caught-up").code == 4
    assert told(mesh, "ledger")[-1] == {"id": 5, "amount": 5, "note": "e", "buyer_email": "a@b.c"}
    assert [row["id"] for row in told(mesh, "catalogue")] == [1, 2, 3, 4]
    paused = states(mesh)["pipeline.catalogue"]
    assert paused["state"] == "paused"
    assert "buyer_email may hold personal data" in paused["reason"] and "shop.public.orders.buyer_email" in paused["reason"]
    assert {p["state"] for name, p in states(mesh).items() if name != "pipeline.catalogue"} <= {"stopped", "caught_up"}

    # Nobody can accept it as it stands.
    for command in (("resume", "catalogue"), ("apply",)):
        refused = mesh(*command)
        assert refused.code == 2 and "buyer_email may hold personal data" in refused.err and "[forbidden]" in refused.err
    planned = mesh("plan")
    assert "forbidden" in planned.err and "catalogue.page (team-catalogue)" in planned.err
    assert [f["rule"] for f in mesh("plan", "--json").json["forbidden"]] == ["no_personal_data"]
    assert mesh("run", "--until-caught-up").code == 4

    # Its owner leaves the column out: what waited comes, once.
    mesh.write("pipelines/catalogue.yaml", pipeline("catalogue", "SELECT id, amount, note FROM shop.public.orders"))
    assert mesh("plan", "--json").json["forbidden"] == []
    assert mesh("resume", "catalogue").code == 0
    assert mesh("run", "--until-caught-up").code == 0
    assert [row["id"] for row in told(mesh, "catalogue")] == [1, 2, 3, 4, 5]


def test_a_mode_that_is_broken_holds_until_the_owner_says_otherwise(mesh) -> None:
    for name in ("catalogue", "ledger"):
        mesh.write(f"pipelines/{name}.yaml", pipeline(name, "SELECT * FROM shop.public.orders") + "compatibility: FULL\n")
    mesh.database.alter("public.orders", WIDER)
    mesh.database.commit(Change("public.orders", None, {"id": 4, "amount": 1 << 40, "note": "d"}))
    assert mesh("run", "--until-caught-up").code == 4
    assert "not FULL" in states(mesh)["pipeline.ledger"]["reason"]
    assert mesh("resume", "ledger").code == 2
    mesh.write("pipelines/ledger.yaml", pipeline("ledger", "SELECT * FROM shop.public.orders") + "compatibility: BACKWARD\n")
    assert mesh("resume", "ledger").code == 0
    assert mesh("run", "--until-caught-up").code == 4
    assert told(mesh, "ledger")[-1] == {"id": 4, "amount": 1 << 40, "note": "d"}
    assert [row["id"] for row in told(mesh, "catalogue")] == [1, 2, 3]


def test_a_rule_that_raises_stops_whom_it_is_for(mesh) -> None:
    mesh.write(
        "rules/broken.py",
        "from millstream.schemas.rules import rule\n\n@rule(scope='step:ledger.*')\ndef counts(change):\n    return 1 / 0\n",
    )
    mesh.database.alter("public.orders", WITH_EMAIL)
    add(mesh, 4, note="d", buyer_email="a@b.c")
    assert mesh("run", "--until-caught-up").code == 4
    assert [row["id"] for row in told(mesh, "catalogue")] == [1, 2, 3, 4]
    assert [row["id"] for row in told(mesh, "ledger")] == [1, 2, 3]
    paused = states(mesh)["pipeline.ledger"]
    assert paused["state"] == "paused" and "it raised ZeroDivisionError" in paused["reason"]
    assert "return 1 / 0" in paused["reason"]
    assert "rules/broken.py:3" in paused["cure"]
