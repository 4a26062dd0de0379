"""What a person asks of a pipeline while it runs: to say its rows again, or to make them anew. Its own thread does it.

A request is kept by whoever hands it in and is there again after a restart; how far it is stands in the pipeline's published state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["resend", "rebuild"]
RequestState = Literal["waiting", "running", "done", "failed", "cancelled"]
OPEN: tuple[RequestState, ...] = ("waiting", "running")


@dataclass(frozen=True)
class Request:
    """`name` is unique, and the backfill that the events are marked with. `kind` resend: of the outputs `steps` (none: all) the rows of
    `keys` (as texts, in the key's order), those for which `where` (DuckDB's SQL over the step's columns) holds, or all. `gone`: a key of
    `keys` that has no row is said to be deleted. `kind` rebuild: everything is computed anew and the difference published."""

    name: str
    pipeline: str
    kind: Kind
    steps: tuple[str, ...] = ()
    keys: tuple[tuple[str, ...], ...] | None = None
    where: str | None = None
    gone: bool = False

    def json(self) -> dict[str, Any]:
        return {**vars(self), "steps": list(self.steps), "keys": None if self.keys is None else [list(k) for k in self.keys]}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Request:
        keys = document["keys"]
        return cls(**{**document, "steps": tuple(document["steps"]), "keys": None if keys is None else tuple(map(tuple, keys))})


class Requests(Protocol):
    """Where requests are kept. Both calls may raise Retryable."""

    def next(self, pipeline: str) -> Request | None:
        """The oldest that is not over."""

    def tell(self, name: str, state: RequestState, done: int, total: int, reason: str = "") -> None:
        """How far it is, in rows."""
