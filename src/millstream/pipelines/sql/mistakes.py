"""What is wrong with a query: collected, not raised, so that a person reads all of it at once.

A mistake knows its offset in the SQL text; the file and line are added by whoever knows where the text stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

from sqlglot import exp

from millstream.pipelines.sql.refusals import REFUSALS


@dataclass(frozen=True)
class Mistake:
    """`offset` counts characters from the start of the SQL text."""

    offset: int
    code: str
    message: str
    cure: str


@dataclass
class Mistakes:
    """Those of one statement. `portable` False: it runs locally only, so that DuckDB's functions beyond the table are none."""

    found: list[Mistake] = field(default_factory=list)
    portable: bool = True

    def add(self, at: exp.Expression | int, code: str, message: str, cure: str) -> None:
        offset = at if isinstance(at, int) else offset_of(at)
        self.found.append(Mistake(offset, code, message, cure))

    def refuse(self, at: exp.Expression | int, named: str, /, **values: str) -> None:
        """A mistake that stands in the table of refusals."""
        refusal = REFUSALS[named]
        self.add(at, refusal.code, refusal.message.format(**values), refusal.cure.format(**values))

    def __bool__(self) -> bool:
        return bool(self.found)


def offset_of(node: exp.Expression) -> int:
    """Where the node begins: the first word under it that knows its place, or under its nearest ancestor."""
    at: exp.Expression | None = node
    while at is not None:
        starts = [n.meta["start"] for n in at.walk() if "start" in n.meta]
        if starts:
            return int(min(starts))
        at = at.parent
    return 0


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if any is like it at all. Case does not count."""
    folded = {k.casefold(): k for k in known}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[close[0]] if close else None


def suggestion(name: str, known: Iterable[str], what: str) -> str:
    """A cure for an unknown name: the nearest one, or what there is."""
    names = sorted(set(known))
    near = nearest(name, names)
    if near:
        return f"did you mean {near}?"
    if not names:
        return f"there are no {what} yet"
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"known {what}: {shown}"
