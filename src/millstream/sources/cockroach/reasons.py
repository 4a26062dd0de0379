"""What a stream says of a table that ends, or that does not go on without a gap: why, and the cure."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.errors import Irrecoverable, MillstreamError
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.contract import Lost

_AFRESH = "the other tables of the source go on. For this one begin a source under another name, with new topics and a load of its own"
_COMPARED = "a reconciling backfill makes the topic what the table is: `on_loss: reconcile` starts it"


def gone(written: str, where: str, *, again: bool) -> MillstreamError:
    said = "was dropped, and another of its name was made" if again else "was dropped"
    return Irrecoverable(f"{written} {said}", code="table_dropped", where=f"{where} {written}", cure=_AFRESH)


def as_told(said: Sequence[str], written: str, where: str) -> MillstreamError:
    """Why a table was set aside, from the position that remembers it."""
    code, message, cure = said
    return Irrecoverable(message, code=code, where=f"{where} {written}", cure=cure)


def skipped(written: str, where: str, after: Hlc, now: Hlc, why: MillstreamError, *, reconcile: bool) -> Lost:
    said = f"changes of {written} after {after} and up to {now} are in no feed: {why.message}"
    cure = f"{_COMPARED}; what rows were in between is not known"
    return Lost(written, Irrecoverable(said, code=why.code, where=f"{where} {written}", cure=cure), (now.wall, now.logical), reconcile)


def unseen(written: str, where: str, place: Hlc, *, reconcile: bool) -> Lost:
    said = (
        f"a column of {written} came hidden, or took another's name or its place in the key, which its rows do not show: what was told of "
        "them before that was seen may lack values, or have them in the wrong column or under the wrong key"
    )
    why = Irrecoverable(said, code="columns_unseen", where=f"{where} {written}", cure=_COMPARED)
    return Lost(written, why, (place.wall, place.logical), reconcile)
