"""What every sink offers. Invariant 4: sinks read topics, are idempotent, and never go back.

A sink has one writer thread. The engine reads the topic, hands over batches and the offset after them, and asks the
target, never itself, where to resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from millstream.events.batch import Batch
from millstream.events.types import RowSchema


class Sink(Protocol):
    def open(self, fence: int) -> None:
        """Take the target over. A target that holds a higher fence raises Irrecoverable("fenced"); one that another live
        process holds raises Refused("target_in_use") naming it. Makes the target if it is not there."""

    def accept(self, schema: RowSchema) -> None:
        """The rows that will come: said after `open`, and again between two writes when the topic's schema changes.

        Fields are known by their ids. New columns appear in the target, renamed and widened ones are changed there; what it
        cannot take raises Refused, and the target is as it was. A second call with the same schema changes nothing. Retryable: nothing
        or all was done, and it is called again. Batches that come next have this schema.
        """

    def resume_after(self) -> Mapping[str, int]:
        """topic → next offset, as the target holds it. Empty: from the start."""

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        """Apply the events in order and move the target's position to `up_to` in the same commit.

        Durable on return. Events below the target's position are passed over. A writer whose fence is no longer
        the target's raises Irrecoverable("fenced") and changes nothing. Retryable: nothing or all was done; `resume_after`,
        which looks at the target again, says which.
        """

    def close(self) -> None: ...
