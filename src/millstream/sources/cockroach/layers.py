"""What a feed's messages say to each of the tables that are told from them.

A base and what is derived from it come in one feed where the server does not filter: the same messages are then decoded once for each
of them, by a decoder of its own, as a feed of that table alone would be. So what is told never depends on who filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from millstream.errors import MillstreamError
from millstream.events.batch import Batch
from millstream.sources.cockroach.decode import Decoder, Messages, Told
from millstream.sources.cockroach.derived import Derived, Stopped
from millstream.sources.cockroach.hlc import Hlc


@dataclass(frozen=True)
class Layer:
    """Tables of different topics. `tables`: topic → table as written; `alone`: the feed is of one table, whatever it calls it."""

    decoder: Decoder
    tables: Mapping[str, str]
    is_first: bool
    alone: str | None = None

    def told(self, messages: Messages) -> Told:
        """All that it says to the layer's tables; one that stops is among those set aside, and the others are told nevertheless."""
        messages, stopped = self._mine(messages), []
        while True:
            try:
                told = self.decoder.decode(messages)
            except Stopped as stop:
                stopped.append((stop.written, stop.why))
                for topic, written in self.tables.items():
                    if written == stop.written:
                        self.decoder.forget(topic)
            else:
                return Told(told.batches, told.mvcc, told.resolved, told.dropped, (*told.aside, *stopped))

    def _mine(self, messages: Messages) -> Messages:
        if self.alone is not None:
            return Messages([None if t is None else self.alone for t in messages.topics], messages.keys, messages.values)
        if self.is_first:
            return messages
        rows = [i for i, topic in enumerate(messages.topics) if topic in self.tables]
        topics, keys, values = messages.topics, messages.keys, messages.values
        return Messages([topics[i] for i in rows], [keys[i] for i in rows], [values[i] for i in rows])


@dataclass
class Heard:
    """What one piece says to all tables."""

    batches: list[Batch] = field(default_factory=list)
    resolved: Hlc | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    aside: list[tuple[str, MillstreamError]] = field(default_factory=list)

    def count(self, dropped: Mapping[str, int]) -> None:
        for word, number in dropped.items():
            self.dropped[word] = self.dropped.get(word, 0) + number


def heard(layers: Sequence[Layer], derived: Mapping[str, Derived], messages: Messages) -> Heard:
    found = Heard()
    for layer in layers:
        told = layer.told(messages)
        found.resolved = told.resolved if layer.is_first else found.resolved
        found.aside += told.aside
        found.count(told.dropped)
        for given in told.batches:
            kept, dropped = derived[given.topic].tell(given)
            found.count(dropped)
            found.batches += [kept] if kept is not None else []
    return found
