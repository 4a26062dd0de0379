"""Whether a source is loading: what its commits, and who is caught up, hang on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from millstream.capture.backfill import Order, Wanted, resumed, with_key_load, with_schema_backfill
from millstream.capture.lead import Lead
from millstream.capture.orders import Desk, Orders, Told

LOADING = resumed({}, [("item", 5)], start_offered=True)
LOADED = {slot: b.chunk_done([5], 5, done=True) for slot, b in LOADING.items()}
AGAIN = {"item again": Order("again", "shop", "item").backfill()}


class Asked:
    """What one person wants of the initial load, and of a backfill."""

    def __init__(self, wanted: Wanted) -> None:
        self.orders = [Order("again", "shop", "item"), Order("shop.item:initial", "shop", "item", asks=False, wanted=wanted)]

    def standing(self, source: str) -> Sequence[tuple[str, Wanted, float | None]]:
        return [(o.name, o.wanted, None) for o in self.orders]

    def order(self, name: str) -> Order:
        return next(o for o in self.orders if o.name == name)

    def tell(self, name: str, told: Told) -> None:
        assert name in [o.name for o in self.orders]


def desk(orders: Orders | None = None) -> Desk:
    return Desk("shop", orders, lambda: 0.0, cast(Lead, None), str)


def test_loads_fill_a_topic_and_other_backfills_do_not() -> None:
    assert desk().fills(LOADING, [])
    assert desk().fills(with_key_load(LOADED, "item", 2), [])
    assert not desk().fills(LOADED, [])
    assert not desk().fills(with_schema_backfill(LOADED, "item", 2, start=True), [])
    assert desk().busy(with_schema_backfill(LOADED, "item", 2, start=True), [])


@pytest.mark.parametrize(("wanted", "fills"), [("run", True), ("pause", False)])
def test_a_load_that_waits_fills_nothing(wanted: Wanted, fills: bool) -> None:
    at = desk(Asked(wanted))
    heard = at.look({**LOADING, **AGAIN}, ["item"], {})
    assert at.busy(heard, []), "what a person asked for goes on"
    assert at.fills(heard, []) == fills
    assert not at.fills(heard, ["item"]), "nothing is told of a table that is set aside"


def test_of_a_table_that_is_set_aside_nothing_asked_for_is_waited_for() -> None:
    at = desk(Asked("run"))
    heard = at.look({**LOADING, **AGAIN}, ["item"], {"item": {"reason": "item was dropped"}})
    assert (heard["item again"].ended, heard["item again"].why) == ("failed", "the table is set aside: item was dropped")
    assert not heard["item"].done, "its load goes on where the table does"


def test_what_is_offered_stays_so_while_it_is_to_wait() -> None:
    asked, slot = Asked("pause"), "item schema"
    asked.orders.append(Order("shop.item:schema-2", "shop", "item", asks=False, wanted="pause", throttle=5))
    told: dict[str, str] = {}
    asked.tell = lambda name, said: told.update({name: said.state})  # type: ignore[method-assign]
    heard = desk(asked).look(with_schema_backfill(LOADED, "item", 2, start=False), ["item"], {})
    assert not heard[slot].wanted
    assert told["shop.item:schema-2"] == "offered"
