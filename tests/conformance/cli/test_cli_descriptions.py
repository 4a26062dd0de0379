"""Descriptions in the files: applied, they are in the registry; a change of them alone stops and rebuilds nobody, and reaches targets."""

from __future__ import annotations

import pytest

from millstream.sinks.iceberg.read import table

SOURCE = """\
source: shop
connector: scripted
url: ${{SHOP_URL}}
owner: team-shop
tables:
  - public.orders:
      doc: what was bought
      fields: {{amount: {{doc: "{said}", tags: [money]}}}}
"""
PIPELINE = """\
pipeline: large
owner: team-shop
steps:
  - name: large
    fields: {{note: {{doc: "{said}"}}}}
    sql: SELECT id, amount, note FROM shop.public.orders WHERE amount >= 100
sinks:
  - {{from: large, iceberg: {{table: lake.large}}}}
  - {{from: shop.public.orders, iceberg: {{table: lake.orders}}}}
"""


@pytest.fixture
def describe(shop):
    def write(said: str) -> None:
        shop.write("sources/shop.yaml", SOURCE.format(said=said))
        shop.write("pipelines/large.yaml", PIPELINE.format(said=said))

    return write


def ends(shop) -> dict[str, int]:
    return {t["topic"]: t["end"] for t in shop("--json", "topics", "list").json}


def docs(shop) -> list[str | None]:
    at = (("lake.large", "note"), ("lake.orders", "amount"))
    return [table(shop.home, name).schema().find_field(column).doc for name, column in at]


def test_a_change_of_descriptions_stops_and_rebuilds_nobody(shop, describe) -> None:
    describe("first")
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    assert docs(shop) == ["first", "first"]
    before = ends(shop)
    for said in ("in cents", "in cents, with tax", "first"):
        describe(said)
        steps = shop("plan", "--json").json["steps"]
        assert {s["kind"] for s in steps} <= {"describe_topic"}, steps
        assert shop("apply").code == 0
        assert shop("plan", "--json").json["steps"] == []
        ran = shop("run", "--until-caught-up")
        assert ran.code == 0, ran.out + ran.err
        assert ends(shop) == before
        assert docs(shop) == [said, said]
    shop.order(9, 900, "late")
    assert shop("run", "--until-caught-up").code == 0
    assert ends(shop) == {topic: end + 1 for topic, end in before.items()}
    assert 9 in table(shop.home, "lake.large").scan().to_arrow()["id"].to_pylist()


@pytest.mark.parametrize("applied", [True, False])
def test_an_event_of_a_version_that_only_says_more_is_read_on(shop, describe, applied: bool) -> None:
    """The connector writes with the newest version, which the readers have not accepted; whether or not it was applied first."""
    describe("first")
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    describe("second")
    if applied:
        assert shop("apply").code == 0
    shop.order(8, 800, "late")
    ran = shop("run", "--until-caught-up")
    assert ran.code == 0, ran.out + ran.err
    assert shop("plan", "--json").json["steps"] == []
    assert set(table(shop.home, "lake.orders").scan().to_arrow()["id"].to_pylist()) == {1, 2, 3, 8}
