"""How a run ends: caught up, by Ctrl-C, by SIGTERM, by a part that fails; and what others then see of it."""

from __future__ import annotations

import os
import signal

import pytest

from millstream.cli import running
from millstream.errors import Irrecoverable


@pytest.fixture
def shop(shop):
    """With a file for its only sink: nothing here is about the others."""
    text = (shop.folder / "pipelines/large.yaml").read_text()
    shop.write("pipelines/large.yaml", text.replace("  - {from: large, search: {index: orders}}\n", ""))
    return shop


def at_the_end_of_the_script(shop, act) -> None:
    """Do something once, from the connector's thread, when it has given everything and all orders are loaded."""
    shop.when_idle = act


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 0, "stopped")])
def test_a_signal_lets_every_part_commit_and_stop(shop, number, code, word) -> None:
    shop("apply")
    seen = []

    def stop() -> None:
        seen.append(running.is_held(shop.home / "running.lock"))
        os.kill(os.getpid(), number)

    at_the_end_of_the_script(shop, stop)
    before = signal.getsignal(number)
    answer = shop("run", "--json")
    assert signal.getsignal(number) is before
    assert (answer.code, seen) == (code, [True])
    assert answer.lines[-1]["ended"] == word
    assert {p["state"] for p in answer.lines[-1]["parts"]} == {"stopped"}
    assert not running.is_held(shop.home / "running.lock")
    shop.when_idle = None
    assert shop("run", "--until-caught-up").code == 0
    assert shop("status", "--json").json["lag"] == 0


def test_a_part_that_fails_is_told_with_its_cure_and_no_secret(shop) -> None:
    shop("apply")

    def fail() -> None:
        said = f"the slot of {shop.env['SHOP_URL']} is gone; {shop.password} opens nothing"  # what no pattern would find
        raise Irrecoverable(said, code="slot_gone", where="shop", cure="make a new one")

    at_the_end_of_the_script(shop, fail)
    answer = shop("run", "--until-caught-up")
    assert answer.code == 1
    assert "source.shop: failed" in answer.out
    status = shop("status", "--json")
    assert status.code == 1
    part = next(p for p in status.json["parts"] if p["part"] == "source.shop")
    assert (part["state"], part["cure"]) == ("failed", "make a new one")
    assert "slot_gone" in part["reason"]
    others = {p["state"] for p in status.json["parts"] if p["part"] != "source.shop"}
    assert others == {"stopped"}
    plain = shop("status")
    assert "cure: make a new one" in plain.out
    kept = b"".join(p.read_bytes() for p in shop.home.glob("mesh.db*"))
    for text in (answer.out, answer.err, status.out, plain.out, kept.decode("latin-1")):
        assert shop.password not in text


def test_a_process_that_was_killed_had_no_time_to_say_so(shop) -> None:
    shop("apply")
    with shop.catalogue() as catalogue:
        catalogue.report("source.shop", "running")
    with running.held(shop.home / "running.lock"):
        beside = shop("status", "--json").json
        assert (beside["running"], beside["parts"][0]["state"]) == (True, "running")
        assert shop("apply", "--json").json["restart_needed"] is False
    after = shop("status", "--json").json
    assert (after["running"], after["parts"][0]["state"]) == (False, "not running")
    assert "ended while this was running" in after["parts"][0]["reason"]


def test_apply_beside_a_running_process_asks_for_a_restart(shop) -> None:
    with running.held(shop.home / "running.lock"):
        answer = shop("apply")
        assert "start `millstream run` again" in answer.err


PRODUCT = "product: order\nowner: team\nevolve: pinned\nroot: {from: shop.public.orders, fields: [id, note]}\nsinks: []\n"


def test_a_new_generation_of_a_product_waits_for_the_next_start_and_one_that_is_resumed_does_not(shop) -> None:
    shop.write("products/order.yaml", PRODUCT)
    assert shop("apply").code == shop("run", "--until-caught-up").code == 0
    seen = {}

    def change() -> None:
        seen["resumed"] = "has put order@1 in place" in shop("resume", "order").out
        shop.write("products/order.yaml", PRODUCT.replace("[id, note]", "[id, amount]"))
        seen["restart"] = "start `millstream run` again" in shop("apply").err
        os.kill(os.getpid(), signal.SIGTERM)

    at_the_end_of_the_script(shop, change)
    answer = shop("run", "--json")
    assert (answer.code, seen) == (0, {"resumed": True, "restart": True})
    assert "pipeline.order@2" not in {p["name"] for p in answer.lines[-1]["parts"]}
    assert shop("run", "--until-caught-up").code == 0
    assert shop("--json", "products", "show", "order").json["live"] == 2
