"""Which places of a document's texts a query's words found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from millstream.queries.conditions import AllOf, AnyOf, Condition, Found, Some
from millstream.queries.matching import places
from millstream.queries.words import spans

Marks = list[tuple[int, int]]


def wanted(condition: Condition) -> list[Found]:
    """The words that a query looks for, routes from the document on; what stands under NOT is not looked for."""
    match condition:
        case Found():
            return [replace(condition, routes=tuple(replace(r, names=r.whole, base=()) for r in condition.routes))]
        case AllOf(parts) | AnyOf(parts):
            return [f for p in parts for f in wanted(p)]
        case Some(_, part):
            return wanted(part)
    return []


def marked(found: list[Found], document: Mapping[str, Any]) -> dict[str, list[tuple[str, Marks]]]:
    """Dotted name → each text there in which something was found, with where: (first, after last) characters, in order."""
    texts: dict[str, dict[str, set[tuple[int, int]]]] = {}
    for look in found:
        for route in look.routes:
            name = ".".join((*route.names, *route.inside))
            for text in route.values(document):
                if isinstance(text, str):
                    texts.setdefault(name, {}).setdefault(text, set()).update(_marks(text, look))
    return {name: kept for name, marks in texts.items() if (kept := [(text, _joined(sorted(m))) for text, m in marks.items() if m])}


def _marks(text: str, look: Found) -> Iterator[tuple[int, int]]:
    cut = list(spans(text))
    for at in places([word for word, _, _ in cut], look.words, look.prefix):
        yield from ((start, end) for _, start, end in cut[at : at + len(look.words)])


def _joined(marks: Marks) -> Marks:
    """Marks that overlap as one."""
    joined: Marks = []
    for start, end in marks:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
