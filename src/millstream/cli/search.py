"""`millstream search` and `millstream suggest`: ask a search index that a pipeline or a product fills."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from millstream.cli.exits import OK
from millstream.cli.output import Output, counted
from millstream.cli.session import Here, Session
from millstream.errors import Refused
from millstream.sinks.search.query import Answer, Hit, Question

FACET_VALUES = 10
AROUND = 60
"""How many characters of a long text are shown before and after what was found in it."""

Words = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
Many = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


def search(
    index: str,
    query: Words,
    /,
    *,
    where: Many = (),
    facet: Many = (),
    sort: str | None = None,
    fields: Annotated[str | None, Parameter(show_default=False)] = None,
    highlight: Annotated[bool, Parameter(negative="")] = False,
    limit: int = 10,
    offset: int = 0,
    session: Here,
) -> int:
    """Find documents, best first.

    Example: `millstream search movies "star wars"`

    Example: `millstream search movies "director: lucas AND year < 1980" --facet genre --sort year:desc`

    Parameters
    ----------
    index
        The name of a product, or of an index in a pipeline's sink.
    query
        Words, "phrases in quotes", field: word, year > 1980, AND, OR, NOT: docs/reference/search.md has it all.
    where
        A condition more, in the same language, without weight in the order. May be given again.
    facet
        FIELD or FIELD:N: count the documents by the field's values, the N (10) most. May be given again.
    sort
        FIELD or FIELD:desc: order by a field instead of by how well documents match.
    fields
        Show these fields only: title,cast.name
    highlight
        Say where the words were found.
    limit
        How many documents at most.
    offset
        How many to pass over first.
    """
    question = Question(
        query=" ".join(query),
        where=where,
        limit=limit,
        offset=offset,
        facets=dict(map(_facet, facet)),
        sort=None if sort is None else _sort(sort),
        fields=tuple(f.strip() for f in fields.split(",")) if fields else (),
        highlight=highlight or not session.output.as_json,
    )
    with session.mesh() as mesh:
        answer = mesh.ask(index_of(session, index), question)
    _show(answer, question, session.output, highlight)
    session.output.document(document(answer, highlight))
    return OK


def suggest(index: str, field: str, prefix: str = "", /, *, limit: int = 10, exact: bool = False, session: Here) -> int:
    """Complete what somebody types: the values of a text field that begin so, most frequent first.

    Example: `millstream suggest movies director luc`

    Parameters
    ----------
    index
        The name of a product, or of an index in a pipeline's sink.
    field
        A text field; `cast.name` for a member.
    prefix
        What the values begin with; case and accents do not count.
    limit
        How many values at most.
    exact
        Case and accents count.
    """
    with session.mesh() as mesh:
        found = mesh.suggest(index_of(session, index), field, prefix, limit, exact)
    session.output.table((field, "rows"), found, "nothing begins so")
    session.output.document([{"value": value, "documents": count} for value, count in found])
    return OK


def index_of(session: Session, name: str) -> str:
    """The index of a product, or the name itself."""
    sinks = [s for p in session.project.products if p.name == name for s in p.sinks if s.kind == "search"]
    return str(sinks[0].options.get("index", name)) if sinks else name


def document(answer: Answer, with_marks: bool) -> dict[str, Any]:
    """The answer as JSON."""
    hits = [{"key": h.key, "score": h.score, "document": h.document, **({"marks": _marks(h)} if with_marks else {})} for h in answer.hits]
    facets = {name: [{"value": v, "documents": n} for v, n in values] for name, values in answer.facets.items()}
    return {"total": answer.total, "hits": hits, **({"facets": facets} if facets else {})}


def _marks(hit: Hit) -> dict[str, list[dict[str, Any]]]:
    return {name: [{"text": text, "at": [list(m) for m in marks]} for text, marks in texts] for name, texts in hit.marks.items()}


def _facet(given: str) -> tuple[str, int]:
    name, colon, count = given.rpartition(":")
    if not colon:
        return given, FACET_VALUES
    if not count.isdecimal():
        raise Refused(f"{count!r} is no number", code="usage", where=f"--facet {given}", cure="write FIELD or FIELD:N")
    return name, int(count)


def _sort(given: str) -> tuple[str, bool]:
    name, colon, how = given.rpartition(":")
    if not colon:
        return given, False
    if how not in ("asc", "desc"):
        raise Refused(f"{how!r} is no order", code="usage", where=f"--sort {given}", cure="write FIELD, FIELD:asc or FIELD:desc")
    return name, how == "desc"


# ---- for people


def _show(answer: Answer, question: Question, output: Output, highlight: bool) -> None:
    if output.as_json:
        return
    first = question.offset + 1
    shown = f", {first:,} to {question.offset + len(answer.hits):,} shown" if len(answer.hits) < answer.total and answer.hits else ""
    output.say(f"{counted(answer.total, 'document')}{shown}" if answer.total else "nothing found", "dim")
    for hit in answer.hits:
        output.show(_heading(hit))
        for line in _lines(hit, highlight):
            output.show(line)
    for name, values in answer.facets.items():
        output.say()
        output.table((name, "rows"), [(_plain(v), n) for v, n in values], f"no document has {name}")


def _heading(hit: Hit) -> Text:
    key = ", ".join(map(_plain, hit.key))
    return Text.assemble((key, "bold cyan"), (f"  {hit.score:.2f}" if hit.score else "", "dim"))


def _lines(hit: Hit, highlight: bool) -> Iterator[Text]:
    """Each field; what words found in it, in bold."""
    for name, value in hit.document.items():
        found = hit.marks.get(name, [])
        texts = [_cut(text, marks) for text, marks in found if text == value] or [Text(_plain(value))]
        yield Text.assemble("  ", (f"{name} ", "dim"), texts[0])
    for name, marked in hit.marks.items():
        if highlight and name not in hit.document:
            for text, marks in marked[:3]:
                yield Text.assemble("  ", (f"{name} ", "dim"), _cut(text, marks))


def _cut(text: str, marks: Sequence[tuple[int, int]]) -> Text:
    """A text with its marks in bold; of a long one what lies around the first."""
    made = Text(text)
    for start, end in marks:
        made.stylize("bold yellow", start, end)
    first = marks[0][0] if marks else 0
    if len(text) <= 4 * AROUND:
        return made
    start, end = max(0, first - AROUND), first + 3 * AROUND
    return Text.assemble("…" if start else "", made[start:end], "…" if end < len(text) else "")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value is None else json.dumps(value, ensure_ascii=False)
