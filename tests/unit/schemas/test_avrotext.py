"""Texts of schemas: what is valid, what says the same, and what is made whole. fastavro, and Avro's own library, are the oracles."""

from __future__ import annotations

import json
import random
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Refused
from millstream.schemas.avrotext import AvroText, canonical

MOVIE = {
    "type": "record",
    "name": "Movie",
    "namespace": "studio",
    "doc": "A film",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "title", "type": ["null", {"type": "string", "connect.name": "x"}], "default": None},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["film", "short"], "default": "film"}},
        {"name": "also", "type": "Kind", "default": "short"},
        {"name": "next", "type": ["null", "Movie"], "default": None},
        {"name": "price", "type": {"type": "fixed", "name": "Price", "size": 2, "logicalType": "decimal", "precision": 4}},
        {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": "int"}}, "default": {"a": [1]}},
    ],
}


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same JSON in another order."""
    if isinstance(value, dict):
        pairs = list(value.items())
        dice.shuffle(pairs)
        return {k: shuffled(v, dice) for k, v in pairs}
    return [shuffled(v, dice) for v in value] if isinstance(value, list) else value


@settings(max_examples=50)
@given(seed=st.integers(), indent=st.sampled_from([None, 0, 3]))
def test_order_and_spaces_say_nothing(seed: int, indent: int | None) -> None:
    other = json.dumps(shuffled(MOVIE, random.Random(seed)), indent=indent)
    assert canonical(other) == canonical(json.dumps(MOVIE))
    assert canonical(canonical(other)) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"string"', '{"type": "string"}'),
        ('"string"', '{"type": {"type": "string"}}'),
        ('{"type": "fixed", "name": "a.F", "size": 1}', '{"type": "fixed", "name": "F", "namespace": "a", "size": 1}'),
        ('{"type": "fixed", "name": "a.F", "size": 1}', '{"type": "fixed", "name": "a.F", "namespace": "b", "size": 1}'),
        (
            '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int", "order": "ascending"}]}',
            '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}',
        ),
        (
            '{"type": "record", "name": "n.R", "fields": [{"name": "x", "type": ["null", "R"]}]}',
            '{"type": "record", "name": "n.R", "fields": [{"name": "x", "type": ["null", "n.R"]}]}',
        ),
    ],
)
def test_what_says_the_same(one: str, other: str) -> None:
    assert AvroText(one).canonical == AvroText(other).canonical
    assert AvroText(one).normal == AvroText(AvroText(other).normal).normal


@pytest.mark.parametrize("attribute", ["doc", "default", "aliases", "millstream.fill"])
def test_what_is_said_of_a_field_counts(attribute: str) -> None:
    value = ["old"] if attribute == "aliases" else 1
    field: dict[str, Any] = {"name": "x", "type": "int"}
    plain, more = ({"type": "record", "name": "R", "fields": [f]} for f in (field, {**field, attribute: value}))
    assert canonical(json.dumps(plain)) != canonical(json.dumps(more))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "{}",
        '{"type": "nosuch"}',
        '"nosuch"',
        '["null", "null"]',
        '["null", ["int", "long"]]',
        '[{"type": "array", "items": "int"}, {"type": "array", "items": "long"}]',
        '{"type": "record", "name": "R"}',
        '{"type": "record", "fields": []}',
        '{"type": "record", "name": "2R", "fields": []}',
        '{"type": "record", "name": "string", "fields": []}',
        '{"type": "record", "name": "R", "fields": [{"name": "x"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}, {"name": "x", "type": "int"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x-y", "type": "int"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int", "default": "1"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int", "default": 2147483648}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int", "default": true}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "double", "default": NaN}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "double", "default": 1e999}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "x", "type": ["null", "int"], "default": "x"}]}',
        '{"type": "enum", "name": "E", "symbols": ["a", "a"]}',
        '{"type": "enum", "name": "E", "symbols": ["a-b"]}',
        '{"type": "enum", "name": "E", "symbols": ["a"], "default": "b"}',
        '{"type": "fixed", "name": "F"}',
        '{"type": "fixed", "name": "F", "size": "2"}',
        '{"type": "array"}',
        '{"type": "map", "items": "int"}',
        '{"type": ["null", "int"], "doc": "x"}',
        "[" * 100_000 + "]" * 100_000,
        '{"type": "array", "items": ' * 5000 + '"int"' + "}" * 5000,
    ],
)
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        AvroText(text)
    assert caught.value.code == "avro_schema"
    assert canonical(text) == text


def test_fastavro_reads_every_form_as_the_same_schema() -> None:
    given = AvroText(json.dumps(MOVIE))
    forms = [json.dumps(MOVIE), given.compact, given.canonical, given.normal, given.whole]
    # Parsing Canonical Form leaves all attributes out; what is left has to be one.
    assert len({fastavro.schema.to_parsing_canonical_form(json.loads(f)) for f in forms}) == 1


def test_references_are_written_out_where_they_are_first_used() -> None:
    person = AvroText('{"type": "record", "name": "p.Person", "fields": [{"name": "friend", "type": ["null", "Person"]}]}')
    cast = AvroText('{"type": "record", "name": "Cast", "fields": [{"name": "who", "type": "p.Person"}]}', person.defined)
    given = {**person.defined, **cast.defined}
    text = '{"type": "record", "name": "m.Movie", "fields": [{"name": "a", "type": "Cast"}, {"name": "b", "type": "p.Person"}]}'
    movie = AvroText(text, given)
    with pytest.raises(Refused):
        AvroText(text)
    assert "p.Person" in movie.canonical
    assert '"friend"' not in movie.canonical
    assert movie.whole.count('"friend"') == 1
    parsed = fastavro.parse_schema(json.loads(movie.whole))
    assert parsed["name"] == "m.Movie"
    assert AvroText(movie.whole).whole == movie.whole


def test_a_type_that_a_reference_gives_is_not_defined_again() -> None:
    given = AvroText('{"type": "fixed", "name": "F", "size": 1}').defined
    with pytest.raises(Refused):
        AvroText('{"type": "fixed", "name": "F", "size": 2}', given)
