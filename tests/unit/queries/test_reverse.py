"""Search the other way round finds the searches that hold, no more and no fewer, without trying them all."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import search_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.queries.check import checked
from millstream.queries.fields import Fields
from millstream.queries.grammar import parse
from millstream.queries.reverse import Watched, anchors
from millstream.sinks.jsontext import objects

FIELDS = Fields(oracle.TYPES)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_a_document_finds_the_searches_that_hold(seed: int) -> None:
    chance = random.Random(seed)
    queries = {str(n): oracle.condition(chance) for n in range(40)}
    watched = Watched({name: checked(query, FIELDS) for name, query in queries.items()})
    rows = oracle.rows(chance)
    documents = objects(pa.array(rows, oracle.SCHEMA.arrow), oracle.SCHEMA.fields).to_pylist()
    for row, document in zip(rows, documents, strict=True):
        wanted = {name for name, query in queries.items() if oracle.holds(parse(query), row, oracle.TYPES)}
        assert watched.matching(json.loads(document)) == wanted


def test_only_searches_under_what_a_document_holds_are_tried() -> None:
    searches = {str(n): checked(f"title: film{n} AND year > {n}", FIELDS) for n in range(1_000)}
    watched = Watched(searches)
    assert watched.anchored == 1_000
    tried: list[str] = []
    for name, holds in watched._holds.items():
        watched._holds[name] = lambda document, name=name, holds=holds: tried.append(name) or holds(document)
    assert watched.matching({"title": "film7 and film900", "year": 100}) == {"7"}
    assert sorted(tried) == ["7", "900"]


def test_what_must_be_held() -> None:
    for query, choices in {
        "year = 1979": [{1979}],
        "title: alien resurrection": [{"alien"}, {"resurrection"}],
        '"the wall"': [{"the"}, {"wall"}],
        "year IN (1, 2)": [{1, 2}],
        "good = true AND title: alien": [{True}, {"alien"}],
        "ANY cast (name = 'Ford' AND NOT role = 'Han')": [{"Ford"}],
        "title: the* AND year = 3": [{3}],
        "title: wall-e*": [{"wall"}],
        "(year = 3 OR title: one two) AND good = true": [{3, "one"}, {True}],
    }.items():
        assert [{a.value for a in choice} for choice in anchors(checked(query, FIELDS))] == choices, query
    for query in ("year > 3", "year = 3 OR year > 5", "NOT year = 3", "title: a*", "rate = 'NaN'", "*", "EXISTS year"):
        assert anchors(checked(query, FIELDS)) == [], query
