"""What compaction keeps and for whom, and who has lost its place, as `status` and `topics list` tell it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.topics.local import LocalTopics
from millstream.topics.local.compaction import Keep

ORDERS = "shop.public.orders"


@contextmanager
def topics(shop, keep: Keep) -> Iterator[LocalTopics]:
    engine = sqlite_engine(shop.home / "mesh.db")
    opened = LocalTopics(shop.home / "topics.db", SqlRegistry(engine), keep=keep)
    yield opened
    opened.close()
    engine.dispose()


def part(shop) -> dict[str, object]:
    return next(p for p in shop("status", "--json").json["parts"] if p["part"] == "pipeline.large")


def test_who_holds_compaction_back_and_who_has_lost_its_place_is_told(shop) -> None:
    text = (shop.folder / "pipelines/large.yaml").read_text()
    shop.write("pipelines/large.yaml", text.replace("  - {from: large, search: {index: orders}}\n", ""))
    shop.write("mesh.yaml", "mesh: shop_mesh\nhistory: 1m\nbehind_mib: 3\n")
    shop("apply")
    for number in (4, 5, 6):
        assert shop("run", "--until-caught-up").code == 0
        shop.order(number, 200)
    assert shop("run", "--until-caught-up").code == 0

    told = next(t for t in shop("topics", "list", "--json").json if t["topic"] == ORDERS)
    assert (told["compacted_to"], told["held_by"], told["held_bytes_max"], told["lost"]) == (0, None, 3 << 20, [])
    assert told["stored_bytes"] > 0
    assert "2 topics hold 0.0 MiB" in shop("status").out

    with topics(shop, Keep(0)) as opened:
        opened.join("notebook", {ORDERS: 1})
        opened.compact(lambda seconds: False)  # too little for a round: it only notes how old what is
        marks = opened.kept(ORDERS)
        assert marks.held_by == "notebook" and marks.held_bytes > 0

    # As a pipeline that was away for long: it would go on at 1.
    with topics(shop, Keep(0, behind_bytes_max=0, round_bytes_min=0)) as opened:
        producer = opened.open_producer("pipeline.large")
        state = {**producer.record.state, "positions": {ORDERS: 1}}
        producer.commit([], state, sequence=producer.record.sequence + 1)
        opened.join("pipeline.large", {ORDERS: 1})
        opened.compact(lambda seconds: False)
        assert set(opened.kept(ORDERS).lost) == {"notebook", "pipeline.large"}
    lost = part(shop)
    assert f"it has lost its place: {ORDERS} was compacted further than it had read, so it is rebuilt from the start" in lost["reason"]
    assert "raise `history` or `behind_mib`" in lost["cure"]

    assert shop("run", "--until-caught-up").code == 0
    after = part(shop)
    assert f"as {ORDERS} was compacted further than it had read" in after["reason"] and "it was rebuilt at" in after["reason"]
    assert "behind_mib" in after["cure"]
    assert next(t for t in shop("status", "--json").json["topics"] if t["topic"] == ORDERS)["lost"] == ["notebook"]
