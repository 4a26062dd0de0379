"""A mistake in a query: what is wrong, at which character, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from millstream.errors import Refused


def mistake(message: str, query: str, at: int, *, code: str = "bad_query", cure: str) -> Refused:
    """`at` counts from 0; people are told from 1."""
    start, end = max(0, at - 20), at + 40
    shown = f"{'…' if start else ''}{query[start:at]}⟪{query[at:end]}⟫{'…' if end < len(query) else ''}" if at < len(query) else query
    return Refused(message, code=code, where=f"query, character {at + 1}: {shown}", cure=cure)


def nearest(name: str, known: Iterable[str]) -> str:
    """The names that may have been meant, as text; the first few where none is near."""
    names: Sequence[str] = sorted(known)
    lower = {n.lower(): n for n in names}
    near = [lower[n] for n in get_close_matches(name.lower(), lower, 3)]
    return ", ".join(near or [*names[:10], *(["…"] if len(names) > 10 else [])])
