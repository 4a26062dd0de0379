"""`millstream preview`: the edited step over live rows, beside what is published; nothing applied, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

PIPELINE = """\
pipeline: large
owner: team-shop
steps:
  - name: large
    sql: SELECT id, amount, note FROM shop.public.orders WHERE amount >= 100
"""
JOINED = """\
pipeline: paired
owner: team-shop
steps:
  - name: large
    sql: SELECT id, CAST(amount AS bigint) AS amount, note FROM shop.public.orders WHERE amount >= 100
  - name: paired
    sql: SELECT o.id, o.amount, n.note AS other FROM large o LEFT JOIN shop.public.orders n ON n.id = o.amount
    key: [id]
"""


@pytest.fixture
def live(shop):
    shop.write("pipelines/large.yaml", PIPELINE)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def kept(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_step_that_is_published_stays_as_it_is(live) -> None:
    said = live("preview", "large", "--json").json
    assert said["step"] == "large.large"
    assert said["columns"][0] == {"name": "id", "type": "int64", "key": True}
    assert said["rows"] == [{"id": 2, "amount": 150, "note": "green tea"}, {"id": 3, "amount": 250, "note": "black tea"}]
    assert (said["sample"], said["published"], said["changes"]) == (False, True, [])
    assert "stays as it is" in live("preview", "large").out


def test_an_edited_step_shows_what_would_change_and_changes_nothing(live) -> None:
    live.write(
        "pipelines/large.yaml", PIPELINE.replace("amount, note", "amount * 2 AS amount, note").replace(">= 100", "BETWEEN 10 AND 200")
    )
    before = kept(live.home)
    said = live("preview", "large", "--json").json
    assert [(r["id"], r["amount"]) for r in said["rows"]] == [(1, 100), (2, 300)]
    changes = {c["key"]["id"]: c["change"] for c in said["changes"]}
    assert changes[1] == "new"
    assert "amount was 150" in changes[2]
    assert {n: b for n, b in kept(live.home).items() if not n.endswith(("-wal", "-shm"))} == {
        n: b for n, b in before.items() if not n.endswith(("-wal", "-shm"))
    }
    shown = live("preview", "large", "--key", "3")
    assert shown.code == 0
    assert "would be removed" in shown.out


def test_a_join_is_shown_with_what_joins_before_it_is_applied(live) -> None:
    live.order(150, 7, "of 150")
    assert live("run", "--until-caught-up").code == 0
    live.write("pipelines/paired.yaml", JOINED)
    said = live("preview", "paired", "--json")
    assert said.code == 0, said.err
    said = said.json
    assert said["rows"] == [{"id": 2, "amount": 150, "other": "of 150"}, {"id": 3, "amount": 250, "other": None}]
    assert said["published"] is False
    assert live("preview", "paired.large", "--json").json["rows"][0]["note"] == "green tea"
    assert live("preview", "paired", "--key", "3", "--json").json["rows"] == [{"id": 3, "amount": 250, "other": None}]


def test_a_joined_step_beside_what_is_published(live) -> None:
    live.write("pipelines/paired.yaml", JOINED)
    assert live("apply").code == 0
    assert live("run", "--until-caught-up").code == 0
    assert live("preview", "paired", "--json").json["changes"] == []
    live.write("pipelines/paired.yaml", JOINED.replace("LEFT JOIN", "JOIN"))
    said = live("preview", "paired", "--json").json
    assert said["rows"] == []
    assert [(c["key"]["id"], c["change"]) for c in said["changes"]] == [(2, "removed"), (3, "removed")]


def test_a_sample_is_said_to_be_one_and_is_the_same_every_time(live) -> None:
    for number in range(10, 40):
        live.order(number, 200 + number)
    assert live("run", "--until-caught-up").code == 0
    live.write("pipelines/paired.yaml", JOINED)
    for step in ("large", "paired"):
        said = live("preview", step, "--limit", "5", "--json").json
        assert len(said["rows"]) == 5
        assert said["sample"] is True
        assert {r["id"] for r in said["rows"]} != set(range(2, 7))
        assert live("preview", step, "--limit", "5", "--json").json == said
    assert "a sample of 5 rows" in live("preview", "large", "--limit", "5").out


def test_a_table_that_is_no_topic_yet_is_read_from_its_database(shop) -> None:
    shop.write("pipelines/large.yaml", PIPELINE)
    shop.database.visible = len(shop.database.log)
    said = shop("preview", "large", "--json")
    assert said.code == 0, said.err
    assert [r["id"] for r in said.json["rows"]] == [2, 3]
    assert said.json["first_rows_of"] == ["shop.public.orders"]
    assert shop("plan", "--json").json["steps"] != []
    shop.down = True
    assert "source_down" in shop("preview", "large").err


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("lage",), "did you mean large?"),
        (("large.lage",), "did you mean large?"),
        (("large", "--limit", "0"), "millstream query"),
        (("large", "--key", "two"), "--explain"),
        (("large", "--key", "9999999999999999999999"), "--explain"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_cure(live, arguments: tuple[str, ...], cure: str) -> None:
    said = live("preview", *arguments)
    assert said.code == 2
    assert cure in said.err
