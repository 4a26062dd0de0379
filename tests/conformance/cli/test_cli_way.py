"""The way a user goes: validate, plan, apply, run, status, topics, search; and no secret anywhere on it."""

from __future__ import annotations

import json
from pathlib import Path

STEPS = [
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
    said = [shop("validate"), shop("plan"), shop("sources", "list"), shop("sources", "show", "shop")]
    assert [a.code for a in said] == [0, 0, 0, 0]
    assert "large.large" in said[1].out
    planned = shop("plan", "--json", "--explain")
    assert [s["kind"] for s in planned.json["steps"]] == STEPS
    applied = shop("apply", "--json")
    assert applied.json["done"] == planned.json["steps"]
    assert shop("apply", "--json").json["done"] == []
    assert shop("plan", "--json").json["steps"] == []
    assert shop.checked == ["shop"]

    ran = shop("run", "--until-caught-up")
    assert ran.code == 0, ran.out + ran.err
    assert "caught up" in ran.out
    status = shop("status", "--json")
    assert_everything_is_through(status.json)

    found = shop("--json", "search", "orders", "tea", "--limit", "5").json
    assert sorted(hit["document"]["id"] for hit in found["hits"]) == [2, 3]
    assert "green tea" in shop("search", "orders", "green").out
    file = [json.loads(line) for line in (shop.folder / "large.jsonl").read_text().splitlines()]
    assert sorted(line["after"]["id"] for line in file) == [2, 3]
    assert_topics_read(shop)
    assert_schemas_show(shop)

    said += [planned, applied, ran, status, shop("status"), shop("sources", "show", "shop", "--json"), shop("plan", "--explain")]
    assert_no_secret(shop, said)


def assert_everything_is_through(status) -> None:
    assert status["mesh"] == "shop_mesh"
    assert not status["running"]
    assert status["lag"] == 0
    parts = {p["part"]: p for p in status["parts"]}
    assert set(parts) == {"source.shop", "pipeline.large", "sink.large.large.search", "sink.large.large.jsonl"}
    assert {p["state"] for p in parts.values()} == {"stopped"}
    assert all(p["fence"] == 1 for p in parts.values())
    assert parts["source.shop"]["sequence"] >= 1
    assert parts["pipeline.large"]["position"].keys() == {"shop.public.orders"}
    assert parts["source.shop"]["progress"].keys() == {"shop"}


def assert_topics_read(shop) -> None:
    listed = {t["topic"]: t for t in shop("topics", "list", "--json").json}
    assert set(listed) == {"shop.public.orders", "large.large"}
    assert listed["shop.public.orders"]["readers"]["pipeline.large"]["lag"] == 0
    assert listed["large.large"]["writer"] == "pipeline.large"
    events = shop("topics", "read", "shop.public.orders", "--json", "--limit", "0").lines
    rows = {e["key"]["id"]: e["after"] for e in events}
    assert rows == {n: {"id": n, "amount": a, "note": t} for n, a, t in ((1, 50, "small"), (2, 150, "green tea"), (3, 250, "black tea"))}
    assert [e["offset"] for e in events] == sorted({e["offset"] for e in events})
    middle = events[1]["offset"]
    assert shop("topics", "read", "shop.public.orders", "--json", "--from", str(middle), "--limit", "1").lines == [events[1]]
    assert "no event at or after offset 999" in shop("topics", "read", "shop.public.orders", "--from", "999").out
    assert "black tea" in shop("topics", "read", "shop.public.orders").out
    wrong = shop("topics", "read", "shop.public.order")
    assert (wrong.code, wrong.out) == (2, "")
    assert "did you mean shop.public.orders?" in wrong.err


def assert_schemas_show(shop) -> None:
    subjects = {s["subject"] for s in shop("schemas", "list", "--json").json}
    assert subjects == {f"{t}-{k}" for t in ("shop.public.orders", "large.large") for k in ("key", "value")}
    shown = shop("schemas", "show", "large.large-value", "--json").json
    assert [(c["name"], c["type"], c["key"]) for c in shown["columns"]] == [
        ("id", "int64", True),
        ("amount", "int32", False),
        ("note", "text", False),
    ]
    assert shown["schema"]["name"] == "Envelope"
    assert '"name": "Key"' in shop("schemas", "show", "large.large-key").out
    assert "did you mean large.large-key?" in shop("schemas", "show", "large.large-keys").err
    assert shop("schemas", "show", "large.large-value", "--version", "7").code == 2


def assert_no_secret(shop, said) -> None:
    """Invariant 10: not in what was printed, not in what was kept."""
    password = shop.password
    assert all(password not in a.out + a.err for a in said)
    assert any("scripted://reader:***@db.example:5432/shop" in a.out for a in said)
    kept = [p for p in Path(shop.home).rglob("*") if p.is_file()]
    assert len(kept) > 3
    assert [p for p in kept if password.encode() in p.read_bytes()] == []
