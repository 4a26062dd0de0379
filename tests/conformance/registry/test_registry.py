"""One suite for every registry with the API of Confluent, driven by its own client. Wording, and the code in a 409, are each one's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.common.schema_registry_client import ConfigCompatibilityLevel
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

Fresh = Callable[[], SchemaRegistryClient]

ID = {"name": "id", "type": "long"}
TITLE = {"name": "title", "type": ["null", "string"], "default": None}
YEAR = {"name": "year", "type": "int"}
LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")


def movie(*fields: dict[str, Any], name: str = "Movie", references: tuple[SchemaReference, ...] = ()) -> Schema:
    text = json.dumps({"type": "record", "name": name, "namespace": "m", "fields": list(fields)})
    return Schema(text, "AVRO", list(references))


@contextmanager
def refused(status: int | None, code: int | None = None) -> Iterator[None]:
    with pytest.raises(SchemaRegistryError) as caught:
        yield
    if status is not None:
        assert caught.value.http_status_code == status
    if code is not None:
        assert caught.value.error_code == code


# ---- registering and looking up -----------------------------------------------------------------------------------


def test_the_same_schema_is_one_version_and_one_id(fresh: Fresh, subject: str) -> None:
    first = fresh().register_schema(subject, movie(ID))
    assert fresh().register_schema(subject, movie(ID)) == first
    assert fresh().register_schema(f"{subject}-other", movie(ID)) == first
    second = fresh().register_schema(subject, movie(ID, TITLE))
    assert second != first
    assert fresh().get_versions(subject) == [1, 2]
    assert fresh().get_versions(f"{subject}-other") == [1]
    assert json.loads(fresh().get_schema(first).schema_str) == json.loads(movie(ID).schema_str)


def test_versions_by_number_and_the_latest(fresh: Fresh, subject: str) -> None:
    ids = [fresh().register_schema(subject, movie(ID, *more)) for more in ((), (TITLE,))]
    for number, schema_id in enumerate(ids, 1):
        found = fresh().get_version(subject, number)
        assert (found.subject, found.version, found.schema_id) == (subject, number, schema_id)
    assert fresh().get_latest_version(subject).schema_id == ids[-1]
    assert fresh().get_version(subject, "latest").version == 2
    assert json.loads(fresh().get_version(subject, 1).schema.schema_str)["name"] == "Movie"


def test_minus_one_is_the_latest(client: SchemaRegistryClient, http: httpx2.Client, subject: str) -> None:
    client.register_schema(subject, movie(ID))
    assert http.get(f"/subjects/{subject}/versions/-1").json()["version"] == 1


def test_the_schema_alone(client: SchemaRegistryClient, http: httpx2.Client, subject: str) -> None:
    client.register_schema(subject, movie(ID))
    answer = http.get(f"/subjects/{subject}/versions/1/schema")
    assert answer.status_code == 200
    assert answer.json() == json.loads(movie(ID).schema_str)


def test_looking_a_schema_up(fresh: Fresh, subject: str) -> None:
    schema_id = fresh().register_schema(subject, movie(ID))
    found = fresh().lookup_schema(subject, movie(ID))
    assert (found.subject, found.version, found.schema_id) == (subject, 1, schema_id)
    with refused(404, 40403):
        fresh().lookup_schema(subject, movie(ID, TITLE))
    with refused(404, 40401):
        fresh().lookup_schema(f"{subject}-none", movie(ID))


def test_what_is_not_there(fresh: Fresh, subject: str) -> None:
    with refused(404, 40401):
        fresh().get_versions(subject)
    with refused(404, 40401):
        fresh().get_latest_version(subject)
    with refused(404, 40401):
        fresh().delete_subject(subject)
    with refused(404, 40403):
        fresh().get_schema(2_000_000_000)
    fresh().register_schema(subject, movie(ID))
    with refused(404, 40402):
        fresh().get_version(subject, 7)
    with refused(404, 40402):
        fresh().delete_version(subject, 7)


@pytest.mark.parametrize("text", ["{", '{"type": "nosuch"}', '{"type": "record", "name": "R"}', '["null", "null"]'])
def test_what_is_no_schema(client: SchemaRegistryClient, subject: str, text: str) -> None:
    with refused(422, 42201):
        client.register_schema(subject, Schema(text, "AVRO"))


def test_a_schema_that_is_no_record(fresh: Fresh, subject: str) -> None:
    texts = ('"string"', '["null", "long"]', '{"type": "array", "items": "int"}', '{"type": "map", "values": "bytes"}')
    for number, text in enumerate(texts):
        schema_id = fresh().register_schema(f"{subject}-{number}", Schema(text, "AVRO"))
        assert json.loads(fresh().get_schema(schema_id).schema_str) in (json.loads(text), {"type": json.loads(text)})


def test_subjects_are_listed(fresh: Fresh, subject: str) -> None:
    fresh().register_schema(subject, movie(ID))
    assert subject in fresh().get_subjects()


def test_where_a_schema_is_used(fresh: Fresh, subject: str) -> None:
    schema = movie(ID, name=f"Of{subject.split('-')[1]}")
    schema_id = fresh().register_schema(subject, schema)
    fresh().register_schema(f"{subject}-too", schema)
    found = {(v.subject, v.version) for v in fresh().get_schema_versions(schema_id)}
    assert found == {(subject, 1), (f"{subject}-too", 1)}


def test_types(client: SchemaRegistryClient) -> None:
    assert "AVRO" in client.get_schema_types()


def test_the_content_type(http: httpx2.Client) -> None:
    answer = http.get("/subjects", headers={"Accept": "application/vnd.schemaregistry.v1+json"})
    assert answer.headers["content-type"].partition(";")[0] == "application/vnd.schemaregistry.v1+json"


def test_a_message_goes_through_the_serializers(fresh: Fresh, subject: str) -> None:
    topic = subject.removesuffix("-value")
    context = SerializationContext(topic, MessageField.VALUE)
    written = AvroSerializer(fresh(), movie(ID, TITLE))({"id": 3, "title": "Alien"}, context)
    assert written is not None
    read = AvroDeserializer(fresh(), movie(ID))(written, context)
    assert read == {"id": 3}
    assert int.from_bytes(written[1:5], "big") == fresh().lookup_schema(subject, movie(ID, TITLE)).schema_id


# ---- compatibility --------------------------------------------------------------------------------------------------

A = movie(ID)
B = movie(ID, TITLE)  # reads A, and A reads it
C = movie(ID, TITLE, YEAR)  # cannot read A or B, they can read it
D = movie(TITLE)  # reads all; B cannot read it
ALLOWED = {
    # level: what may follow A, B
    "NONE": (True, True, True),
    "BACKWARD": (True, False, True),
    "BACKWARD_TRANSITIVE": (True, False, True),
    "FORWARD": (True, True, False),
    "FORWARD_TRANSITIVE": (True, True, False),
    "FULL": (True, False, False),
    "FULL_TRANSITIVE": (True, False, False),
}


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_decides_what_may_follow(fresh: Fresh, subject: str, level: str) -> None:
    fresh().register_schema(subject, A)
    fresh().set_compatibility(subject, level)
    assert fresh().get_compatibility(subject) == level
    fresh().register_schema(subject, B)
    for schema, allowed in zip((B, C, D), ALLOWED[level], strict=True):
        assert fresh().test_compatibility(subject, schema) is allowed
        if allowed:
            schema_id = fresh().register_schema(subject, schema)
            assert fresh().get_latest_version(subject).schema_id == schema_id or schema is B
            if schema is not B:
                fresh().delete_version(subject, fresh().get_latest_version(subject).version)
        else:
            with refused(409):
                fresh().register_schema(subject, schema)
    assert fresh().get_versions(subject)[:2] == [1, 2]


@pytest.mark.parametrize("level", ["BACKWARD", "BACKWARD_TRANSITIVE"])
def test_a_transitive_level_looks_at_all_versions(fresh: Fresh, subject: str, level: str) -> None:
    """E reads what B wrote, and not what A wrote."""
    note = {"name": "note", "type": ["null", "string"]}
    with_default = movie(ID, {**note, "default": None})
    without = movie(ID, note)
    fresh().register_schema(subject, A)
    fresh().set_compatibility(subject, level)
    fresh().register_schema(subject, with_default)
    if level == "BACKWARD":
        fresh().register_schema(subject, without)
    else:
        with refused(409):
            fresh().register_schema(subject, without)


def test_a_check_against_one_version(fresh: Fresh, subject: str) -> None:
    fresh().register_schema(subject, A)
    fresh().set_compatibility(subject, "NONE")
    fresh().register_schema(subject, C)
    fresh().set_compatibility(subject, "BACKWARD")
    assert fresh().test_compatibility(subject, C, 2) is True
    assert fresh().test_compatibility(subject, C, 1) is False
    assert fresh().test_compatibility(subject, C, "latest") is True
    with refused(404):
        fresh().test_compatibility(subject, C, 7)


def test_a_check_against_the_whole_subject(client: SchemaRegistryClient, http: httpx2.Client, subject: str) -> None:
    client.register_schema(subject, A)
    client.set_compatibility(subject, "BACKWARD")
    path = f"/compatibility/subjects/{subject}/versions"
    answer = http.post(path, json={"schema": C.schema_str}).json()
    assert answer["is_compatible"] is False
    assert http.post(path, json={"schema": B.schema_str}).json()["is_compatible"] is True


def test_the_level_of_a_subject(fresh: Fresh, subject: str) -> None:
    fresh().register_schema(subject, A)
    fresh().set_config(subject, ServerConfig(compatibility=ConfigCompatibilityLevel.FULL))
    assert fresh().get_compatibility(subject) == "FULL"


def test_the_level_of_the_whole_registry(fresh: Fresh, subject: str) -> None:
    before = fresh().get_compatibility()
    try:
        fresh().set_compatibility(level="FORWARD")
        assert fresh().get_compatibility() == "FORWARD"
        fresh().register_schema(subject, A)
        assert fresh().test_compatibility(subject, C) is True
        fresh().set_compatibility(subject, "BACKWARD")
        assert fresh().test_compatibility(subject, C) is False
    finally:
        fresh().set_compatibility(level=before)


# ---- references -----------------------------------------------------------------------------------------------------


def test_references_to_types_in_other_subjects(fresh: Fresh, subject: str) -> None:
    person = Schema('{"type": "record", "name": "Person", "namespace": "p", "fields": [{"name": "name", "type": "string"}]}', "AVRO")
    fresh().register_schema(f"{subject}-person", person)
    reference = SchemaReference("p.Person", f"{subject}-person", 1)
    schema = movie(ID, {"name": "director", "type": "p.Person"}, references=(reference,))
    schema_id = fresh().register_schema(subject, schema)
    assert fresh().register_schema(subject, schema) == schema_id
    found = fresh().get_schema(schema_id)
    assert [(r.name, r.subject, r.version) for r in found.references] == [("p.Person", f"{subject}-person", 1)]
    assert fresh().lookup_schema(subject, schema).schema_id == schema_id
    assert fresh().get_referenced_by(f"{subject}-person", 1) == [schema_id]
    assert fresh().get_referenced_by(subject, 1) == []
    with refused(422):
        fresh().delete_version(f"{subject}-person", 1)
    with refused(422, 42201):
        fresh().register_schema(f"{subject}-x", movie({"name": "x", "type": "p.Person"}))
    with refused(422):
        bad = (SchemaReference("p.Person", f"{subject}-none", 1),)
        fresh().register_schema(f"{subject}-x", movie({"name": "x", "type": "p.Person"}, references=bad))


# ---- deleting -------------------------------------------------------------------------------------------------------


def test_a_version_is_hidden_then_removed(fresh: Fresh, subject: str) -> None:
    first = fresh().register_schema(subject, A)
    fresh().register_schema(subject, B)
    with refused(None, 40407):  # Confluent's documents say 404, Apicurio 409
        fresh().delete_version(subject, 1, permanent=True)
    assert fresh().delete_version(subject, 1) == 1
    assert fresh().get_versions(subject) == [2]
    with refused(404, 40402):
        fresh().get_version(subject, 1)
    assert json.loads(fresh().get_schema(first).schema_str) == json.loads(A.schema_str), "events with this id must still be read"
    with refused(None, 40406):
        fresh().delete_version(subject, 1)
    assert fresh().get_version(subject, 1, deleted=True).schema_id == first
    assert fresh().get_versions(subject, deleted=True) == [1, 2]
    assert fresh().delete_version(subject, 1, permanent=True) == 1
    assert fresh().get_versions(subject, deleted=True) == [2]


def test_a_subject_is_hidden_then_removed(fresh: Fresh, subject: str) -> None:
    fresh().register_schema(subject, A)
    fresh().register_schema(subject, B)
    with refused(None, 40405):
        permanent(fresh(), subject)
    assert sorted(fresh().delete_subject(subject)) == [1, 2]
    assert subject not in fresh().get_subjects()
    assert subject in fresh().get_subjects(deleted=True)
    with refused(404, 40401):
        fresh().get_versions(subject)
    with refused(404, 40404):
        fresh().delete_subject(subject)
    assert sorted(permanent(fresh(), subject)) == [1, 2]
    assert subject not in fresh().get_subjects(deleted=True)
    with refused(404, 40401):
        permanent(fresh(), subject)


def permanent(client: SchemaRegistryClient, subject: str) -> list[int]:
    """The client's `permanent=True` hides first; this asks for the second stage alone."""
    found: list[int] = client._rest_client.delete(f"subjects/{subject}?permanent=true")
    return found


def test_what_was_deleted_comes_again_with_its_id(fresh: Fresh, subject: str) -> None:
    first = fresh().register_schema(subject, A)
    fresh().delete_version(subject, 1)
    assert fresh().register_schema(subject, A) == first
    assert fresh().get_latest_version(subject).schema_id == first
    fresh().delete_subject(subject)
    permanent(fresh(), subject)
    fresh().register_schema(subject, A)
    assert fresh().get_versions(subject) == [1]
