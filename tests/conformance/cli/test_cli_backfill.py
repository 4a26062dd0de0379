"""`millstream backfill`: asked, taken up by the run, marked on every event, told of; what cannot be asked is refused with a cure."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.cli import backfillview
from millstream.cli.output import Output
from millstream.events.batch import batch
from millstream.schemas.sql import SqlRegistry
from millstream.topics.local import LocalTopics


@pytest.fixture
def ran(shop):
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def marked(shop, topic: str = "shop.public.orders") -> list[tuple[str, str, str, int]]:
    events = shop("topics", "read", topic, "--json", "--limit", "0").lines
    return [(e["op"], e["backfill"], e["cause"], e["key"]["id"]) for e in events if e["backfill"] not in (None, "initial")]


def lose_a_delete(shop, number: int) -> None:
    """The topic has an order that the table has not."""
    with shop.catalogue() as catalogue:
        registry = SqlRegistry(catalogue._engine)
        topics = LocalTopics(shop.home / "topics.db", registry)
        record = topics.producer_record("source.shop")
        schema = topics.read("shop.public.orders", 0, bytes_max=1)[0].schema
        made = batch(
            "shop.public.orders",
            schema,
            {
                "op": ["c"],
                "after": [{"id": number, "amount": 500, "note": "lost"}],
                "incarnation": [1],
                "major": [record.state["position"]["major"]],
                "minor": [record.state["position"]["minor"]],
                "ts_us": [1],
                "position": [""],
            },
            record.state["schemas"]["shop.public.orders"],
        )
        rogue = topics.open_producer("rogue")
        rogue.commit([topics.encode(made)], {}, sequence=rogue.record.sequence + 1)
        topics.close()


def test_rows_are_read_again_and_told_of(ran) -> None:
    asked = ran("backfill", "start", "shop", "public.orders", "--where", "amount = 150", "--name", "again", "--json").json
    assert (asked["name"], asked["state"], asked["estimate"], asked["scope"]["where"]) == ("again", "waiting", 1, "amount = 150")
    assert "again of public.orders: waiting" in ran("status").out
    assert [b["name"] for b in ran("status", "--json").json["backfills"]] == ["again"]
    assert ran("run", "--until-caught-up").code == 0
    assert marked(ran) == [("r", "again", "backfill", 2)]
    own, told = ran("backfill", "list", "--json").json
    assert (own["name"], own["state"]) == ("shop.public.orders:initial", "done")
    assert (told["name"], told["state"], told["read"], told["rows"]) == ("again", "done", 1, 1)
    assert "where amount = 150" in ran("backfill", "show", "again").out
    assert ran("status", "--json").json["backfills"] == []
    assert "is over" in ran("backfill", "pause", "again").err
    assert "another name" in ran("backfill", "start", "shop", "public.orders", "--name", "again").err


def test_keys_ranges_and_all_rows(ran) -> None:
    (ran.folder / "ids.txt").write_text("1\n3\n\n77\n")
    ran("backfill", "start", "shop", "public.orders", "--keys", "@ids.txt", "--keys", "3", "--name", "k")
    ran("backfill", "start", "shop", "public.orders", "--from", "2", "--name", "f")
    ran("backfill", "start", "shop", "public.orders", "--name", "w", "--throttle", "1e9")
    assert ran("run", "--until-caught-up").code == 0
    said = marked(ran)
    assert {n: sorted(key for _, name, _, key in said if name == n) for n in "kfw"} == {"k": [1, 3], "f": [2, 3], "w": [1, 2, 3]}


def test_a_changefeed_reads_whole_tables_of_a_database_that_has_them(ran) -> None:
    for part in (("--where", "amount = 1"), ("--keys", "1"), ("--from", "1"), ("--to", "2"), ("--reconcile",)):
        refused = ran("backfill", "start", "shop", "public.orders", "--method", "changefeed", *part)
        assert (refused.code, "leave --method away" in refused.err) == (2, True), part
    assert "whole table" in ran("backfill", "start", "shop", "public.orders", "--method", "changefeed", "--keys", "1").err
    refused = ran("backfill", "start", "shop", "public.orders", "--method", "changefeed")
    assert (refused.code, "no changefeeds" in refused.err) == (2, True)
    assert len(ran("backfill", "list", "--json").json) == 1, "nothing was asked"


def test_reconcile_deletes_what_the_database_has_not(ran) -> None:
    lose_a_delete(ran, 9)
    assert ran("run", "--until-caught-up").code == 0
    found = lambda: sorted(hit["document"]["id"] for hit in ran("--json", "search", "orders", "lost OR tea").json["hits"])  # noqa: E731
    assert found() == [2, 3, 9]
    ran("backfill", "start", "shop", "public.orders", "--name", "plain")
    assert ran("run", "--until-caught-up").code == 0
    assert found() == [2, 3, 9], "a plain one can never show a lost delete"
    ran("backfill", "start", "shop", "public.orders", "--name", "compare", "--reconcile")
    assert ran("run", "--until-caught-up").code == 0
    assert [s for s in marked(ran) if s[1] == "compare"] == [("d", "compare", "backfill", 9)], "what is there as it is needs no event"
    assert found() == [2, 3]
    assert ran("backfill", "show", "compare", "--json").json["gone"] == 1


def test_paused_it_waits_and_cancelled_it_is_over(ran) -> None:
    for name in ("one", "two"):
        ran("backfill", "start", "shop", "public.orders", "--name", name)
    assert ran("backfill", "pause", "one").code == 0
    assert ran("backfill", "cancel", "two").code == 0
    assert ran("run", "--until-caught-up").code == 0
    assert marked(ran) == []
    told = {b["name"]: b["state"] for b in ran("backfill", "list", "--json").json}
    assert (told["one"], told["two"]) == ("paused", "cancelled")
    assert ran("backfill", "resume", "one").code == 0
    assert ran("backfill", "throttle", "one", "100").code == 0
    assert ran("backfill", "show", "one", "--json").json["throttle"] == 100
    assert ran("run", "--until-caught-up").code == 0
    assert [key for _, name, _, key in marked(ran)] == [1, 2, 3]


def test_waiting_for_it_shows_how_far_it_is(ran, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ran("backfill", "start", "shop", "public.orders", "--wait")
    assert (refused.code, "no process runs" in refused.err) == (2, True)
    assert len(ran("backfill", "list", "--json").json) == 1, "nothing was asked"
    ran("backfill", "start", "shop", "public.orders", "--name", "seen")
    assert "no process runs" in ran("backfill", "show", "seen", "--follow").err
    shown: list[dict[str, Any]] = []
    line = Output.line
    monkeypatch.setattr(Output, "line", lambda self, document: (shown.append(dict(document)), line(self, document)))
    monkeypatch.setattr(backfillview.follow, "__defaults__", (lambda seconds: ran("run", "--until-caught-up"),))
    monkeypatch.setattr(backfillview.running, "is_held", lambda path: True)
    assert ran("backfill", "show", "seen", "--follow", "--json").code == 0
    states = [document["state"] for document in shown if document.get("name") == "seen"]
    assert (states[0], states[-1]) == ("waiting", "done")


REFUSED = (
    (("start", "shopp", "public.orders"), "did you mean shop?"),
    (("start", "shop", "public.order"), "did you mean public.orders?"),
    (("start", "shop", "public.orders", "--where", "x = 1", "--keys", "1"), "one of --where, --keys and --from/--to"),
    (("start", "shop", "public.orders", "--throttle", "0"), "above 0"),
    (("start", "shop", "public.orders", "--throttle", "inf"), "as fast as its readers bear"),
    (("start", "shop", "public.orders", "--keys", "@nothing"), "one a line"),
    (("start", "shop", "public.orders", "--name", "initial"), "are taken"),
    (("start", "shop", "public.orders", "--name", "Big One"), "small letters"),
    (("show", "b-1"), "backfills"),
    (("cancel", "shop.public.orders:initial"), "begins another"),
)


def test_what_cannot_be_asked_is_refused_with_a_cure(ran) -> None:
    for arguments, cure in REFUSED:
        said = ran("backfill", *arguments)
        assert said.code == 2, said.out + said.err
        assert cure in said.err


def test_into_one_pipeline_the_others_pass_over_it(shop) -> None:
    shop.write(
        "pipelines/other.yaml", (shop.folder / "pipelines/large.yaml").read_text().replace("large", "other").replace("orders}", "others}")
    )
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    asked = shop("backfill", "start", "shop", "public.orders", "--keys", "2", "--into", "other", "--name", "mine", "--json").json
    assert asked["to"] == "other"
    assert shop("run", "--until-caught-up").code == 0
    assert marked(shop) == [("r", "mine", "backfill", 2)]
    assert marked(shop, "other.other") == [("r", "mine", "backfill", 2)]
    assert marked(shop, "large.large") == []
    shop.order(4, 400)
    assert shop("run", "--until-caught-up").code == 0
    assert [e["key"]["id"] for e in shop("topics", "read", "large.large", "--json", "--limit", "0").lines][-1] == 4, (
        "it goes on behind them"
    )
    assert "leave --into away" in shop("backfill", "start", "shop", "public.orders", "--into", "other", "--reconcile").err
    assert "did you mean other?" in shop("backfill", "start", "shop", "public.orders", "--into", "othr").err
