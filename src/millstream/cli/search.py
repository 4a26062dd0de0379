"""`millstream search`: ask a search index that a pipeline fills."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from millstream.cli.exits import OK
from millstream.cli.session import Here


def search(
    index: str, query: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)], /, *, limit: int = 10, session: Here
) -> int:
    """Find documents in a search index, best first.

    Example: `millstream search movies "star wars"`

    Example: `millstream search movies "director: lucas AND year < 1980" --limit 3`

    Parameters
    ----------
    index
        The index's name in the pipeline's sink.
    query
        Words, "phrases in quotes", field: word, year > 1980, AND, OR, NOT: docs/reference/search.md has it all.
    limit
        How many documents at most.
    """
    with session.mesh() as mesh:
        hits = mesh.find(index, " ".join(query), limit)
    rows = [(f"{hit['score']:.2f}", json.dumps(hit["document"], ensure_ascii=False)) for hit in hits]
    session.output.table(("score", "document"), rows, "nothing found")
    session.output.document(hits)
    return OK
