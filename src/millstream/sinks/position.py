"""What a target holds of its sink: whose it is, the fence, and the position. Invariant 4.

Every sink stores one `Held` in the commit that applies the events; these functions are all that is decided from it. How
it is stored is left to the sinks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch


@dataclass(frozen=True)
class Held:
    """`positions`: topic → next offset. Everything below it is in the target, nothing at or above it is."""

    sink: str
    fence: int = 0
    positions: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps({"sink": self.sink, "fence": self.fence, "positions": dict(self.positions)}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Held:
        """Raises ValueError, KeyError or TypeError on anything that `text` did not write."""
        document = json.loads(text)
        return cls(document["sink"], int(document["fence"]), {str(t): int(o) for t, o in document["positions"].items()})

    def advanced(self, up_to: Mapping[str, int]) -> Held:
        """Moved to `up_to`, never back."""
        return replace(self, positions={**self.positions, **{t: max(o, self.positions.get(t, 0)) for t, o in up_to.items()}})


def taken_over(held: Held | None, sink: str, fence: int, where: str) -> Held:
    """What the target holds once `sink` has opened it with `fence`.

    Raises Refused("target_taken") where another sink writes there, Irrecoverable("fenced") where a later opening did.
    """
    if held is None:
        return Held(sink, fence)
    if held.sink != sink:
        raise Refused(
            f"this target is written by sink {held.sink!r}, so {sink!r} cannot write there",
            code="target_taken",
            where=where,
            cure="give this sink a target of its own, or delete the target if the other sink is gone",
        )
    refuse_older(held, fence, where)
    return replace(held, fence=fence)


def refuse_older(held: Held, fence: int, where: str) -> None:
    """Raises Irrecoverable("fenced") if the target has been opened with a higher fence than `fence`."""
    if held.fence > fence:
        raise Irrecoverable(
            f"sink {held.sink!r} was opened again with fence {held.fence}; this writer has fence {fence} and must stop",
            code="fenced",
            where=where,
            cure="let the newer process go on; stop this one",
        )


def fresh(batches: Sequence[Batch], held: Held, up_to: Mapping[str, int]) -> list[Batch]:
    """The events that the target does not hold yet, in order. Empty batches are left out.

    Raises ValueError on events without offsets, or at or beyond `up_to`: after the commit they would be taken for done.
    """
    found = []
    for batch in batches:
        if not len(batch):
            continue
        if batch.offsets is None:
            raise ValueError(f"events of {batch.topic} without offsets cannot be written to a sink")
        if batch.offsets[-1] >= up_to.get(batch.topic, 0):
            raise ValueError(f"an event at {batch.topic}@{batch.offsets[-1]} is not below the position {dict(up_to)} it is written with")
        start = int(np.searchsorted(batch.offsets, held.positions.get(batch.topic, 0)))
        if start < len(batch):
            found.append(batch.slice(start))
    return found
