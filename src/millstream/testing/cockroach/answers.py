"""What a connection asks of whoever runs its statements, and what it is given: answers, and words from other threads about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.messages import Row


@dataclass
class Answer:
    """What a statement gives: no columns for one that gives no rows. `batches` may be endless, and each is sent as it comes.

    `tag` is asked for after the last batch.
    """

    columns: Sequence[tuple[str, int]] | None
    batches: Iterator[Sequence[Row]]
    tag: Callable[[], str]


@dataclass
class Running:
    """What others say to the statement that a connection runs: end it, or break the connection off in mid-message."""

    ended_by: SqlError | None = None
    cut: bool = False
    wake: threading.Event = field(default_factory=threading.Event)

    def end(self, why: SqlError) -> None:
        self.ended_by = self.ended_by or why
        self.wake.set()

    def break_off(self) -> None:
        self.cut = True
        self.wake.set()

    def check(self) -> None:
        """Raises what ended the statement, or Cut."""
        if self.cut:
            raise Cut
        if self.ended_by is not None:
            raise self.ended_by


class Cut(Exception):
    """The connection is to break off here."""


class Backend(Protocol):
    """One connection's statements."""

    @property
    def status(self) -> str:
        """I: no transaction, T: in one, E: in one that failed."""
        ...

    def run(self, sql: str, parameters: Sequence[str | None], running: Running, gone: Callable[[], bool]) -> Answer:
        """Run one statement; `gone()` tells whether the client has left. Raises SqlError, as do the answer's batches."""
        ...

    def together(self, statements: Sequence[str]) -> AbstractContextManager[None]:
        """Around the statements of one simple query."""
        ...

    def close(self) -> None: ...
