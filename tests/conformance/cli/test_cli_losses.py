"""What a source left out, and what it can never tell: shown by `status`, and made good by a backfill that compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from millstream.errors import Irrecoverable
from millstream.events.progress import Position
from millstream.sources.contract import Delivery, Lost
from millstream.testing.scripted_source import ScriptedSource


@pytest.mark.parametrize("starts", [True, False])
def test_what_is_lost_is_shown_until_it_is_made_good(starts: bool, shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, said = ScriptedSource.stream, []

    def away_for_long(self: ScriptedSource, resume_after: Position | None) -> Iterator[Delivery]:
        for delivery in stream(self, resume_after):
            if not said and delivery.idle and isinstance(self._db.log[-1], str):
                said.append(Lost("public.orders", Irrecoverable("the cursor is too old", code="cursor_too_old"), (77, 1), starts))
                delivery = replace(delivery, lost=tuple(said), dropped={"deletes of nothing": 1234})
            yield delivery

    assert shop("apply").code == 0
    monkeypatch.setattr(ScriptedSource, "stream", away_for_long)
    assert shop("run", "--until-caught-up").code == 0
    if not starts:
        told = shop("status").out
        assert "is lost: the cursor is too old" in told and "deletes" in told and "left out so far: 1,234 deletes of nothing" in told
        assert "millstream backfill resume shop.public.orders:lost-1" in told
        source = shop("status", "--json").json["parts"][0]
        assert source["figures"]["dropped"] == {"deletes of nothing": 1234}
        assert [(e["table"], e["code"], e["closed_at"]) for e in source["lost"]] == [("public.orders", "cursor_too_old", None)]
        assert shop("backfill", "resume", "shop.public.orders:lost-1").code == 0
        assert shop("run", "--until-caught-up").code == 0
    source = shop("status", "--json").json["parts"][0]
    assert source["lost"][0]["closed_at"] is not None and not source["reason"]
    done = {b["name"]: (b["state"], b["reconcile"]) for b in shop("backfill", "list", "--json").json}
    assert done["shop.public.orders:lost-1"] == ("done", True)
