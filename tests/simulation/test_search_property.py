"""Whatever is asked of whatever documents: the index's answer is what the query means, as the oracle says it over plain rows."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import search_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.queries.grammar import parse
from millstream.queries.matching import matcher
from millstream.sinks.search.options import Options
from millstream.sinks.search.query import Question, search
from millstream.sinks.search.reader import Reader
from millstream.sinks.search.sink import open_sink
from millstream.sinks.search.suggest import suggest
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
            holds = matcher(reader.asked(query).condition)
            assert {n for n, d in documents.items() if holds(d)} == wanted, f"looking at the documents: {query}"
            answer = search(place, "films", query, 100)
            assert {h.key[0] for h in answer.hits} == wanted, f"asking the index: {query}"
            assert answer.total == len(wanted), query
            paged = [h.key[0] for at in range(0, len(wanted), 2) for h in search(place, "films", query, 2, at).hits]
            assert paged == [h.key[0] for h in answer.hits], f"page by page: {query}"


SORTED = ["title", "big", "year", "score", "free", "rate", "good", "day", "clock", "local", "at", "lead.name", "lead.pay"]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_facets_order_and_completion_are_what_rows_say(seed: int) -> None:
    chance = random.Random(seed)
    rows = oracle.rows(chance)
    with indexed(rows, chance.randrange(12)) as place:
        for query in ["*", *(oracle.condition(chance) for _ in range(6))]:
            found = {row["id"]: row for row in rows if oracle.holds(parse(query), row, oracle.TYPES)}
            for name in [*chance.sample(SORTED, 3), "attrs.n", "cast.name", "cast.tags", "nums"]:
                path = parse(f"EXISTS {name}").path
                values = {n: [v for v in oracle.values(path, row, oracle.TYPES) if not isinstance(v, dict)] for n, row in found.items()}
                if name == "free":
                    values = {n: [Decimal(v) for v in vs if v != "none"] for n, vs in values.items()}
                counts = Counter(said for vs in values.values() for said in {oracle.said(v) for v in vs})
                answer = search(place, "films", Question(query, facets={name: 1_000}))
                shown = dict(answer.facets[name])
                assert len(shown) == len(answer.facets[name])
                assert shown == counts, f"facet {name} of {query}"
                assert [n for _, n in answer.facets[name]] == sorted(shown.values(), reverse=True)
                assert search(place, "films", Question(query, facets={name: 2})).facets[name] == answer.facets[name][:2]
                if name not in SORTED:
                    continue
                for descending in (False, True):
                    with_value = [n for n in found if values[n]]
                    keys = {n: oracle.sort_key(values[n][0]) for n in with_value}
                    ranks = sorted(set(keys.values()), reverse=descending)
                    whole = search(place, "films", Question(query, sort=(name, descending), limit=100)).hits
                    order = [h.key[0] for h in whole]
                    assert sorted(order) == sorted(found), f"sorted by {name}: {query}"
                    assert [ranks.index(keys[n]) for n in order[: len(with_value)]] == sorted(ranks.index(keys[n]) for n in with_value)
                    pages = [
                        search(place, "films", Question(query, sort=(name, descending), limit=3, offset=o)).hits
                        for o in range(0, len(found), 3)
                    ]
                    assert [h.key[0] for page in pages for h in page] == order, f"sorted by {name}, page by page: {query}"
        for prefix in ("", "f", "F", "e", "é", "han s", "abc"):
            titles = [row["title"] for row in rows if row["title"] is not None and len(row["title"].encode()) <= 256]
            plain = [oracle.plain(t) for t in titles]
            counts = Counter(t for t, p in zip(titles, plain, strict=True) if p.startswith(oracle.plain(prefix)))
            completed = suggest(place, "films", "title", prefix, 1_000)
            assert dict(completed) == counts
            assert [n for _, n in completed] == sorted(counts.values(), reverse=True)
            assert [n for _, n in suggest(place, "films", "title", prefix, 2)] == [n for _, n in completed[:2]]
            exact = {t: n for t, n in counts.items() if t.startswith(prefix)}
            assert dict(suggest(place, "films", "title", prefix, 1_000, exact=True)) == exact
