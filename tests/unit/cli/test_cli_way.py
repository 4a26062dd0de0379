"""The way a user goes: validate, plan, apply, run, status, topics, search; with exit codes, and without the secret anywhere."""

from __future__ import annotations

import json

import pytest

SCRIPT_STEPS = [
    "create_topic",
    "register_schema",
    "create_topic",
    "register_schema",
    "start_connector",
    "deploy_pipeline",
    "start_sink",
    "start_sink",
]


def test_the_way_through(shop) -> None:
    assert shop("validate").code == 0
    planned = shop("plan", "--json")
    assert [s["kind"] for s in planned.json["steps"]] == SCRIPT_STEPS
    applied = shop("apply", "--json")
    assert applied.code == 0
    assert applied.json["done"] == planned.json["steps"]
    assert shop.checked == ["shop"]
    ran = shop("run", "--until-caught-up")
    assert ran.code == 0, ran.out + ran.err
    assert "caught up" in ran.out
    found = shop("--json", "search", "orders", "tea", "--limit", "5").json
    assert sorted(hit["document"]["id"] for hit in found) == [2, 3]
    file = [json.loads(line) for line in (shop.folder / "large.jsonl").read_text().splitlines()]
    assert sorted(line["after"]["id"] for line in file) == [2, 3]
