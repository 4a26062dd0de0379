"""`millstream resend`: asked, taken up by the next run, through to the sinks, and told of; what cannot be asked is refused."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def ran(shop):
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def marked(shop, topic: str) -> list[tuple[str, str, int]]:
    events = shop("topics", "read", topic, "--json", "--limit", "0").lines
    return [(e["backfill"], e["cause"], e["key"]["id"]) for e in events if e["cause"] == "resend"]


def test_rows_go_out_again_and_reach_the_sinks(ran) -> None:
    asked = ran("resend", "large", "--all", "--json").json
    assert ran("status", "--json").json["requests"] == [
        {"request": asked["name"], "pipeline": "large", "kind": "resend", "state": "waiting", "done": 0, "total": 0}
    ]
    assert asked["name"] in ran("status").out
    assert ran("run", "--until-caught-up").code == 0
    assert marked(ran, "large.large") == [(asked["name"], "resend", 2), (asked["name"], "resend", 3)]
    (told,) = ran("resend", "list", "--json").json
    assert (told["name"], told["state"], told["done"]) == (asked["name"], "done", 2)
    file = [json.loads(line) for line in (ran.folder / "large.jsonl").read_text().splitlines()]
    assert [line["op"] for line in file].count("r") >= 2
    assert sorted(hit["document"]["id"] for hit in ran("--json", "search", "orders", "tea").json["hits"]) == [2, 3]
    assert ran("status", "--json").json["requests"] == []


def test_only_some_rows(ran) -> None:
    ran("resend", "large", "large", "--key", "3", "--key", "77")
    ran("resend", "large", "--where", "amount < 200")
    assert ran("run", "--until-caught-up").code == 0
    assert [key for _, _, key in marked(ran, "large.large")] == [3, 2]


def test_a_request_can_be_cancelled(ran) -> None:
    name = ran("resend", "large", "--all", "--json").json["name"]
    assert ran("resend", "cancel", name).code == 0
    assert ran("run", "--until-caught-up").code == 0
    assert marked(ran, "large.large") == []
    assert "cancelled" in ran("resend", "list").out
    assert "is over" in ran("resend", "cancel", name).err


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("large",), "give --key, --where or --all"),
        (("large", "--all", "--key", "1"), "give --key, --where or --all"),
        (("lage", "--all"), "did you mean large?"),
        (("large", "lage", "--all"), "did you mean large?"),
        (("large", "--key", "x"), "schemas show"),
        (("large", "--where", "amont > 1"), "id, amount, note"),
        (("large", "--where", "id IN (SELECT 1)"), "without SELECT"),
        (("large", "--where", "1); DROP TABLE x; --"), "SELECT"),
        (("cancel", "nothing"), "requests"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_cure(ran, arguments: tuple[str, ...], cure: str) -> None:
    said = ran("resend", *arguments)
    assert said.code == 2, said.out + said.err
    assert cure in said.err
