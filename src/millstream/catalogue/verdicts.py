"""What was ruled of versions of schemas, by consumer and topic: the history, and which version each sink reads in.

A pipeline's accepted versions stand in its own row, as they change together with what it is; a sink's stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from millstream.catalogue.tables import Tables, table
from millstream.errors import without_secrets
from millstream.schemas.rules import Violation

Ruled = Literal["ignore", "propagate", "pause", "accept"]

_METADATA = sa.MetaData()
_VERDICTS = sa.Table(
    "catalogue_verdicts",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("consumer", sa.String(255), nullable=False, index=True),
    sa.Column("topic", sa.String(512), nullable=False),
    sa.Column("schema_id", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    sa.Column("how", sa.Text, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
_ACCEPTED = table(_METADATA, "catalogue_accepted", "sink", topic=sa.String(512), schema_id=sa.Integer, at=sa.Float)


@dataclass(frozen=True)
class Kept:
    """One verdict. `consumer` is a part (pipeline.x, sink.y); `verdict` accept: a person said so; `how`: what was done with the rows
    that there were; `by`: the gate, or the command of the person; `at` in seconds since 1970."""

    consumer: str
    topic: str
    schema_id: int
    version: int
    verdict: Ruled
    reasons: tuple[Violation, ...] = ()
    how: str = ""
    by: str = "gate"
    at: float = 0.0


class Verdicts(Tables):
    """Rows are added to the history and never changed; the last one of a consumer, topic and version counts."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock, _METADATA)

    def note(self, kept: Kept) -> None:
        """Add it, as of now; the same as what counts already changes nothing."""
        for insert in self.noting(kept):
            self._insert(insert)

    def noting(self, *verdicts: Kept) -> list[sa.Insert]:
        """What adds them, to be done in the commit that puts in force what they say: of a verdict that is carried out the history
        always tells."""
        return [insert for kept in verdicts if (insert := self._noting(kept)) is not None]

    def _noting(self, kept: Kept) -> sa.Insert | None:
        last = [k for k in self.of(kept.consumer) if (k.topic, k.schema_id) == (kept.topic, kept.schema_id)][-1:]
        if last and (last[0].verdict, last[0].reasons, last[0].how) == (kept.verdict, kept.reasons, kept.how):
            return None
        reasons = [{name: without_secrets(text) for name, text in vars(r).items()} for r in kept.reasons]
        return _VERDICTS.insert().values(**{**vars(kept), "reasons": reasons, "at": self._clock()})

    def of(self, consumer: str) -> list[Kept]:
        """Oldest first."""
        return self._found(sa.select(_VERDICTS).where(_VERDICTS.c.consumer == consumer))

    def on(self, topic: str) -> list[Kept]:
        """Of every consumer, oldest first."""
        return self._found(sa.select(_VERDICTS).where(_VERDICTS.c.topic == topic))

    def everything(self) -> list[Kept]:
        """Oldest first."""
        return self._found(sa.select(_VERDICTS))

    def passed(self, consumer: str, topic: str) -> set[int]:
        """Ids of the versions that the consumer goes on over: ignored, or accepted by a person."""
        last = {k.schema_id: k.verdict for k in self.of(consumer) if k.topic == topic}
        return {schema_id for schema_id, verdict in last.items() if verdict in ("ignore", "accept")}

    def accept(self, sink: str, topic: str, schema_id: int, *told: Kept) -> None:
        """The sink reads the topic in this version from now on; `told` are noted in the same commit."""
        row = {"sink": sink, "topic": topic, "schema_id": schema_id, "at": self._clock()}
        self._put(_ACCEPTED, "sink", row, self.noting(*told))

    def accepted(self) -> dict[str, tuple[str, int]]:
        """Sink → its topic and the version that it reads in, by id; of those that have said so."""
        return {r["sink"]: (r["topic"], r["schema_id"]) for r in self._rows(sa.select(_ACCEPTED))}

    def forget(self, parts: Iterable[str]) -> None:
        """Nothing of these parts is kept any longer."""
        named = list(parts)
        self._delete(_VERDICTS, _VERDICTS.c.consumer.in_(named))
        self._delete(_ACCEPTED, _ACCEPTED.c.sink.in_([p.removeprefix("sink.") for p in named if p.startswith("sink.")]))

    def _found(self, query: sa.Select[Any]) -> list[Kept]:
        rows: Sequence[dict[str, Any]] = self._rows(query.order_by(_VERDICTS.c.number))
        names = ("consumer", "topic", "schema_id", "version", "verdict", "how", "by", "at")
        return [Kept(**{n: r[n] for n in names}, reasons=tuple(Violation(**v) for v in r["reasons"])) for r in rows]
