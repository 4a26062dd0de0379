"""What people ask of sources' backfills, and how far each is: on the catalogue's engine. `capture.orders` says what is promised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import sqlalchemy as sa

from millstream.capture.backfill import OVER, Order, Wanted
from millstream.capture.orders import Told
from millstream.catalogue.tables import Tables
from millstream.errors import Refused, without_secrets
from millstream.sources.contract import Scope

_METADATA = sa.MetaData()
_BACKFILLS = sa.Table(
    "catalogue_backfills",
    _METADATA,
    sa.Column("name", sa.String(767), primary_key=True),
    sa.Column("source", sa.String(255), nullable=False),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("wanted", sa.String(16), nullable=False),
    sa.Column("throttle", sa.Float),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("told", sa.JSON, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
)


@dataclass(frozen=True)
class Ordered:
    """An order and how far it is. Times in seconds since 1970."""

    order: Order
    told: Told
    asked_at: float
    changed_at: float

    @property
    def is_over(self) -> bool:
        return self.told.state in OVER


class Backfills(Tables):
    """Orders by name. Safe for several threads and processes; every call may raise as those of `Tables`."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock, _METADATA)

    def ask(self, order: Order) -> None:
        """Keep an order until its source takes it up. Raises Refused("backfill_exists") where its name was used."""
        if self._rows(sa.select(_BACKFILLS.c.name).where(_BACKFILLS.c.name == order.name)):
            raise Refused(f"there is a backfill {order.name} already", code="backfill_exists", cure="give it another name")
        told = Told("waiting", 0, 0, 0, order.estimate)
        asked = asdict(order) | {"scope": _text_of(order.scope)}
        times = {"asked_at": self._clock(), "changed_at": self._clock()}
        row = {"name": order.name, "source": order.source, "asked": asked, "wanted": order.wanted, "throttle": order.throttle}
        self._put(_BACKFILLS, "name", {**row, "state": told.state, "told": vars(told), **times})

    def want(self, name: str, wanted: Wanted) -> None:
        """What is to become of it. One that is over stays so, one that is not known changes nothing."""
        self._changed(_open(name).values(wanted=wanted, changed_at=self._clock()))

    def throttle(self, name: str, rows_per_s: float | None) -> None:
        """At most so many rows a second from now on; None: as its readers bear it."""
        self._changed(_open(name).values(throttle=rows_per_s, changed_at=self._clock()))

    def everything(self) -> list[Ordered]:
        """Oldest first, those that are over too."""
        rows = self._rows(sa.select(_BACKFILLS).order_by(_BACKFILLS.c.asked_at, _BACKFILLS.c.name))
        return [Ordered(_order(r), Told(**r["told"]), r["asked_at"], r["changed_at"]) for r in rows]

    # ---- what a connector asks

    def standing(self, source: str) -> Sequence[tuple[str, Wanted, float | None]]:
        columns = (_BACKFILLS.c.name, _BACKFILLS.c.wanted, _BACKFILLS.c.throttle)
        mine = sa.select(*columns).where(_BACKFILLS.c.source == source, _BACKFILLS.c.state.not_in(OVER))
        rows = self._rows(mine.order_by(_BACKFILLS.c.asked_at, _BACKFILLS.c.name))
        return [(r["name"], cast(Wanted, r["wanted"]), r["throttle"]) for r in rows]

    def order(self, name: str) -> Order:
        return _order(self._rows(sa.select(_BACKFILLS).where(_BACKFILLS.c.name == name))[0])

    def tell(self, name: str, told: Told) -> None:
        said = vars(told) | {"reason": without_secrets(told.reason)}
        self._changed(_open(name).values(state=told.state, told=said, changed_at=self._clock()))

    def forget(self, source: str) -> None:
        """Of a source that is no longer applied."""
        self._delete(_BACKFILLS, _BACKFILLS.c.source == source)


def _open(name: str) -> sa.Update:
    return _BACKFILLS.update().where(_BACKFILLS.c.name == name, _BACKFILLS.c.state.not_in(OVER))


def _order(row: dict[str, Any]) -> Order:
    return Order(**{**row["asked"], "scope": _scope(row["asked"]["scope"]), "wanted": row["wanted"], "throttle": row["throttle"]})


def _text_of(scope: Scope) -> dict[str, Any]:
    return {k: list(map(list, v)) if k == "keys" and v is not None else v for k, v in vars(scope).items()}


def _scope(document: dict[str, Any]) -> Scope:
    keys, first, last = document["keys"], document["first"], document["last"]
    return Scope(
        document["where"],
        None if keys is None else tuple(map(tuple, keys)),
        None if first is None else tuple(first),
        None if last is None else tuple(last),
    )
