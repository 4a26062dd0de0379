"""Whatever is asked of whatever documents: the index's answer is what the query means, as the oracle says it over plain rows."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import search_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.queries.grammar import parse
from millstream.queries.matching import matcher
from millstream.sinks.search.options import Options
from millstream.sinks.search.query import Reader, search
from millstream.sinks.search.sink import open_sink
from millstream.testing.sink_events import TOPIC, changes


@contextmanager
def indexed(rows: list[dict], cut: int) -> Iterator[Path]:
    """An index of the rows, in two segments."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        sink = open_sink("s", Options(index="films", heap_mb=15), place)
        sink.open(1)
        try:
            sink.accept(oracle.SCHEMA)
            for part in (rows[:cut], rows[cut:]):
                if part:
                    batch = changes(part[0]["id"], [("c", None, row) for row in part], oracle.SCHEMA)
                    sink.write([batch], {TOPIC: part[-1]["id"] + 1})
        finally:
            sink.close()
        yield place


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_every_query_finds_what_it_means(seed: int) -> None:
    chance = random.Random(seed)
    rows = oracle.rows(chance)
    queries = [oracle.condition(chance) for _ in range(30)]
    with indexed(rows, chance.randrange(12)) as place:
        reader = Reader(place, "films")
        documents = {h.key[0]: h.document for h in search(place, "films", "*", 100).hits}
        for query in queries:
            wanted = {row["id"] for row in rows if oracle.holds(parse(query), row, oracle.TYPES)}
            holds = matcher(reader.checked(query))
            assert {n for n, d in documents.items() if holds(d)} == wanted, f"looking at the documents: {query}"
            answer = search(place, "films", query, 100)
            assert {h.key[0] for h in answer.hits} == wanted, f"asking the index: {query}"
            assert answer.total == len(wanted), query
            paged = [h.key[0] for at in range(0, len(wanted), 2) for h in search(place, "films", query, 2, at).hits]
            assert paged == [h.key[0] for h in answer.hits], f"page by page: {query}"
