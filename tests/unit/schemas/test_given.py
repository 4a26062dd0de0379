"""Schema files of users: our own come back as they are, those that others write are matched by name, alias and place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from millstream.errors import Refused
from millstream.events.envelope import value_schema
from millstream.events.types import Constant, Field, RowSchema, Type, list_of, record_of
from millstream.schemas.given import given_schema
from millstream.schemas.operations import operations

from .test_operations import schemas

CREDIT = record_of(("name", Type("text")), ("role", Type("text")))
MOVIE = RowSchema(
    (
        Field("id", Type("int64"), 1, nullable=False),
        Field("title", Type("text"), 2, doc="what it is called", tags=("shown",)),
        Field("price", Type("decimal", 6, 2), 3, fill=Constant("1.00")),
        Field("cast", list_of(CREDIT), 7),
    ),
    ("id",),
)
COLUMNS: list[dict[str, Any]] = [
    {"name": "id", "type": "long"},
    {"name": "title", "type": ["null", "string"], "default": None},
    {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}]},
    {
        "name": "cast",
        "type": ["null", {"type": "array", "items": {"type": "record", "name": "Credit", "fields": [
            {"name": "name", "type": ["null", "string"]}, {"name": "role", "type": ["null", "string"]},
        ]}}],
    },
]  # fmt: skip


def read(columns: list[dict[str, Any]], **more: Any) -> RowSchema:
    return given_schema(json.dumps({"type": "record", "name": "Movie", "fields": columns, **more}), MOVIE)


def said(columns: list[dict[str, Any]]) -> list[str]:
    return [str(o) for o in operations(MOVIE, read(columns))]


@settings(max_examples=100, deadline=None)
@given(schemas, schemas)
def test_an_envelope_of_our_own_is_the_schema_that_it_was_made_of(now: RowSchema, new: RowSchema) -> None:
    new = RowSchema(new.fields, ())
    found = given_schema(value_schema("a.b.c", new), RowSchema(now.fields, ()))
    assert found == new


def test_a_record_as_anybody_writes_it_is_the_same_row() -> None:
    assert read(COLUMNS) == MOVIE
    envelope = {"type": "record", "name": "Envelope", "fields": [
        {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": COLUMNS}]},
        {"name": "after", "type": ["null", "Value"]}, {"name": "op", "type": "string"},
    ]}  # fmt: skip
    assert given_schema(json.dumps(envelope), MOVIE) == MOVIE


def test_what_is_changed_in_it_is_found() -> None:
    note = {"name": "note", "type": ["null", "string"]}
    assert said([*COLUMNS, note]) == ["added note (text)"]
    assert read([*COLUMNS, note]).fields[-1].id == 8
    assert said(COLUMNS[:3]) == ["dropped cast"]
    assert said([COLUMNS[0], {**COLUMNS[1], "name": "name", "aliases": ["title"]}, *COLUMNS[2:]]) == ["renamed title (now name)"]
    assert said([COLUMNS[0], {**COLUMNS[1], "name": "name"}, *COLUMNS[2:]]) == ["dropped title", "added name (text)"]
    assert said([COLUMNS[0], {"name": "title", "type": "string"}, *COLUMNS[2:]]) == ["title is never null now"]
    assert said([COLUMNS[0], {**COLUMNS[1], "doc": "its name"}, *COLUMNS[2:]]) == ["described title"]
    assert said([{"name": "id", "type": "int"}, *COLUMNS[1:]]) == ["narrowed id (int64 is now int32)"]
    assert said(COLUMNS[1:]) == ["dropped id", "rekeyed id (now )"]
    member = json.loads(json.dumps(COLUMNS))
    member[3]["type"][1]["items"]["fields"][1]["type"] = ["null", "int"]
    assert said(member) == ["retyped cast.role (text is now int32)"]


@pytest.mark.parametrize(
    ("avro", "kind"),
    [
        ({"type": "int", "logicalType": "date"}, "date"),
        ({"type": "long", "logicalType": "timestamp-micros"}, "timestamptz"),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, "timestamp"),
        ({"type": "string", "logicalType": "uuid"}, "uuid"),
        ({"type": "string", "connect.name": "io.debezium.data.Json"}, "json"),
        ({"type": "int", "connect.type": "int16"}, "int32"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "text"),
        ({"type": "fixed", "name": "F", "size": 4}, "bytes"),
    ],
)
def test_types_as_others_write_them(avro: Any, kind: str) -> None:
    assert read([{"name": "id", "type": "long"}, {"name": "x", "type": ["null", avro]}])["x"].type == Type(kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '"string"',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "map", "values": "int"}}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": ["int", "string"]}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "null"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": ["null"]}]}',
    ],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        given_schema(text, MOVIE, "movie.avsc")
    assert (refused.value.code, refused.value.where) == ("schema_file", "movie.avsc")
