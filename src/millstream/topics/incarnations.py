"""Incarnations of one catalogued topic, each a physical topic with a key of its own: `shop.public.movie`, then `shop.public.movie@2`.

A definition names the first; that names whichever is the newest when it is compiled. What ends one and begins the next is decided by
its writer, whose record says so in the commit that ends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from millstream.topics.contract import Topics

ENDED = "incarnations"
"""In the state of a source's record: table → what ended of its topic, oldest first, each as `Ended.json`."""

_LATER = re.compile(r"^(.*\..*)@([2-9]|[1-9][0-9]+)$")


@dataclass(frozen=True)
class Ended:
    """A topic that nothing is written to any more: complete up to `position`, and why. `goes_on_as`: the next incarnation, whose first
    event is at or above `since`. `ready`: it had all rows of its table once. `at` in seconds."""

    topic: str
    goes_on_as: str
    code: str
    reason: str
    position: str
    since: tuple[int, int]
    ready: bool
    at: float

    def json(self) -> dict[str, object]:
        return {**vars(self), "since": list(self.since)}

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> Ended:
        return cls(**{**stored, "since": tuple(stored["since"])})  # type: ignore[arg-type]


def numbered(name: str, number: int) -> str:
    """The incarnation of that number of a catalogued topic."""
    return name if number == 1 else f"{name}@{number}"


def catalogued(name: str) -> str:
    """What definitions call a topic, whichever incarnation it is."""
    found = _LATER.match(name)
    return found[1] if found else name


def number(name: str) -> int:
    found = _LATER.match(name)
    return int(found[2]) if found else 1


def newest(names: Iterable[str]) -> dict[str, str]:
    """Catalogued name → its newest incarnation among these."""
    return {catalogued(name): name for name in sorted(names, key=number)}


def ended(topics: Topics, name: str) -> tuple[Ended, int] | None:
    """That a topic of a source has ended, and its end; None where it goes on, or a pipeline writes it."""
    topic = topics.topic(name)
    record = topics.producer_record(f"source.{topic.origin.name}") if topic is not None else None
    for found in record.state.get(ENDED, {}).values() if record is not None else ():
        for entry in found:
            if entry["topic"] == name:
                return Ended.of(entry), topics.end(name)
    return None
