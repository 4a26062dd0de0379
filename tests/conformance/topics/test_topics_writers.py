"""Writers: fence, sequence, one transaction for everything. Invariant 3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from topics_mesh import ORIGIN, Mesh, expected, flat, opened, read_all

from millstream.errors import Irrecoverable, Refused
from millstream.topics.contract import ProducerRecord, Topic


def test_a_new_writer_begins_empty_and_every_opening_raises_its_fence(mesh: Mesh) -> None:
    assert mesh.topics.producer_record("w") is None
    assert mesh.topics.open_producer("w").record == ProducerRecord("w", 1, 0, {}, {})
    assert mesh.topics.open_producer("w").record == ProducerRecord("w", 2, 0, {}, {})
    assert mesh.topics.producer_record("w") == ProducerRecord("w", 2, 0, {}, {})
    assert mesh.topics.open_producer("other").record.fence == 1


def test_a_commit_gives_the_record_that_is_then_found(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    movie, credit = mesh.batch("movie", "cud"), mesh.batch("credit", "cc")
    state = {"position": {"major": 7, "detail": ["x", None, 1.5]}, "progress": "é"}
    record = producer.commit(mesh.blocks([movie, credit]), state, sequence=1)
    assert record == ProducerRecord("w", 1, 1, state, {"movie": 4, "credit": 2})
    assert producer.record == record == mesh.topics.producer_record("w")
    mesh.commit(producer, mesh.batch("credit", "d"), state={"later": True})
    assert mesh.topics.producer_record("w") == ProducerRecord("w", 1, 2, {"later": True}, {"movie": 4, "credit": 4})


def test_the_record_does_not_change_with_the_callers_object(mesh: Mesh) -> None:
    producer, state = mesh.topics.open_producer("w"), {"list": [1]}
    producer.commit([], state, sequence=1)
    state["list"].append(2)
    assert producer.record.state == {"list": [1]} == mesh.topics.producer_record("w").state


def test_a_state_that_json_cannot_hold_is_refused_and_nothing_is_kept(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    for state in ({"x": float("nan")}, {"x": {1, 2}}):
        with pytest.raises((TypeError, ValueError)):
            producer.commit(mesh.blocks([mesh.batch("movie", "c")]), state, sequence=1)
    assert mesh.topics.end("movie") == 0
    assert mesh.topics.producer_record("w").sequence == 0


def test_an_older_opening_is_fenced_whatever_it_commits(mesh: Mesh) -> None:
    old = mesh.topics.open_producer("w")
    mesh.commit(old, mesh.batch("movie", "c"))
    new = mesh.topics.open_producer("w")
    assert new.record.sequence == 1
    for sequence in (1, 2, 3):  # skipped, next, gap: the fence comes first
        with pytest.raises(Irrecoverable) as caught:
            old.commit(mesh.blocks([mesh.batch("movie", "c")]), {}, sequence=sequence)
        assert caught.value.code == "fenced"
        assert caught.value.where
        assert caught.value.cure
    assert mesh.topics.end("movie") == 1
    mesh.commit(new, mesh.batch("movie", "c"))
    assert mesh.topics.end("movie") == 2


def test_a_published_sequence_is_skipped(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    first = mesh.batch("movie", "cd")
    mesh.commit(producer, first, state={"n": 1})
    again = mesh.topics.open_producer("w")
    for sequence in (1, 0):
        record = again.commit(mesh.blocks([mesh.batch("movie", "rrr", seed=9)]), {"n": 99}, sequence=sequence)
        assert (record.sequence, record.state, record.fence) == (1, {"n": 1}, 2)
    assert flat(read_all(mesh.topics, "movie")) == expected([first])


def test_a_skipped_commit_leaves_no_trace_in_memory(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    first = mesh.batch("movie", "c")
    mesh.commit(producer, first, tail=False)
    other = mesh.batch("movie", "c", seed=5)
    producer.commit(mesh.blocks([other]), {}, sequence=1, tail=[other])
    assert flat(read_all(mesh.topics, "movie")) == expected([first])


def test_a_gap_in_the_sequence_stops(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    with pytest.raises(Irrecoverable) as caught:
        producer.commit(mesh.blocks([mesh.batch("movie", "c")]), {}, sequence=2)
    assert caught.value.code == "sequence_gap"
    assert mesh.topics.end("movie") == 0
    mesh.commit(producer, mesh.batch("movie", "c"))
    assert mesh.topics.end("movie") == 1


def test_a_commit_with_one_bad_topic_keeps_nothing(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    good = mesh.topics.encode(mesh.batch("movie", "cc"))
    with pytest.raises(Refused) as caught:
        producer.commit([good, replace(good, topic="nowhere")], {"n": 1}, sequence=1)
    assert caught.value.code == "topic_unknown"
    assert mesh.topics.end("movie") == 0
    assert mesh.topics.producer_record("w") == producer.record == ProducerRecord("w", 1, 0, {}, {})
    assert read_all(mesh.topics, "movie") == []


def test_the_same_topic_may_come_twice_in_a_commit(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    batches = [mesh.batch("movie", "cd", seed=1), mesh.batch("movie", "u", seed=2), mesh.batch("movie", "")]
    mesh.commit(producer, *batches)
    assert producer.record.ends == {"movie": 4}
    assert flat(read_all(mesh.topics, "movie")) == expected(batches)


def test_a_tail_that_is_not_what_was_encoded_is_refused(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    block = mesh.topics.encode(mesh.batch("movie", "cd"))
    for tail in ([mesh.batch("movie", "cu")], [mesh.batch("credit", "cd")], [mesh.batch("movie", "cd")] * 2):
        with pytest.raises(ValueError, match="tail"):
            producer.commit([block], {}, sequence=1, tail=tail)
    assert mesh.topics.end("movie") == 0


def test_a_batch_must_be_registered_as_what_it_is(mesh: Mesh) -> None:
    registered = mesh.batch("movie", "c")
    with pytest.raises(ValueError, match="register"):
        mesh.topics.encode(replace(registered, schema_id=None))
    other = mesh.schema_id("movie", replace(registered.schema, fields=registered.schema.fields[:1]))
    with pytest.raises(ValueError, match="another schema"):
        mesh.topics.encode(registered.with_schema_id(other))


def test_create_gives_what_is_there(mesh: Mesh) -> None:
    topic = Topic("new", ("a", "b"), 5, "key", ORIGIN)
    assert mesh.topics.create(topic) == topic
    assert mesh.topics.create(replace(topic, key_schema_id=9)) == topic  # the key's schema is pinned
    assert mesh.topics.topic("new") == topic
    assert [t.name for t in mesh.topics.topics()] == ["credit", "movie", "new"]
    assert mesh.topics.topic("none") is None
    for other in (replace(topic, key=("b", "a")), replace(topic, grade="whole"), replace(topic, origin=replace(ORIGIN, schema=None))):
        with pytest.raises(Refused) as caught:
            mesh.topics.create(other)
        assert caught.value.code == "topic_differs"
        assert caught.value.cure


def test_the_incarnation_rises_in_place(mesh: Mesh, implementation: str, tmp_path: Path) -> None:
    producer = mesh.topics.open_producer("w")
    mesh.commit(producer, mesh.batch("movie", "c"))
    assert mesh.topics.raise_incarnation("movie").incarnation == 2
    with opened(implementation, tmp_path) as other:
        assert other.topics.topic("movie").incarnation == 2
        assert other.topics.create(replace(other.topics.topic("movie"), incarnation=1)).incarnation == 2
        assert other.topics.topic("credit").incarnation == 1
    mesh.commit(producer, mesh.batch("movie", "c"))
    assert mesh.topics.end("movie") == 2
    with pytest.raises(Refused):
        mesh.topics.raise_incarnation("nowhere")


def test_what_was_committed_is_there_after_reopening(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh:
        batches = [mesh.batch("movie", "cudr", seed=n, major=n) for n in range(5)]
        producer = mesh.topics.open_producer("w")
        for b in batches:
            mesh.commit(producer, b)
        record = producer.record
    with opened(implementation, tmp_path) as mesh:
        assert mesh.topics.producer_record("w") == record
        assert flat(read_all(mesh.topics, "movie")) == expected(batches)
        assert mesh.topics.open_producer("w").record == replace(record, fence=2)
