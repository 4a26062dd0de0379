"""Reading: from any offset, over schema changes and tombstones, decoded or from memory, always the same events."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topics_mesh import FIRST, SECOND, Mesh, expected, flat, opened, read_all

from millstream.errors import Irrecoverable, Refused, Retryable
from millstream.events import envelope
from millstream.events.types import RowSchema

Commit = list[tuple[str, RowSchema]]
COMMITS = st.lists(st.lists(st.tuples(st.text("cudr", max_size=6), st.sampled_from([FIRST, SECOND])), max_size=2), max_size=5)


@settings(max_examples=25, deadline=None)
@given(commits=COMMITS, bytes_max=st.sampled_from([1, 700, 5000, 1 << 20]), tail_bytes=st.sampled_from([0, 3000, 1 << 20]))
def test_every_offset_reads_the_same_with_and_without_memory(
    implementation: str, commits: list[Commit], bytes_max: int, tail_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, opened(implementation, Path(folder), tail_bytes_max=tail_bytes) as mesh:
        written = []
        producer = mesh.topics.open_producer("w")
        for n, parts in enumerate(commits):
            batches = [mesh.batch("movie", ops, seed=100 * n + i, schema=schema, major=n) for i, (ops, schema) in enumerate(parts)]
            mesh.commit(producer, *batches, tail=n % 3 != 1)
            written += batches
        events = expected(written)
        with opened(implementation, Path(folder), tail_bytes_max=0) as other:
            for offset in range(mesh.topics.end("movie") + 1):
                wanted = [event for event in events if event[0] >= offset]
                assert flat(read_all(mesh.topics, "movie", offset, bytes_max)) == wanted
                assert flat(read_all(other.topics, "movie", offset, bytes_max)) == wanted


def test_a_read_batch_has_one_schema_the_writers(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    batches = [mesh.batch("movie", "cu", schema=FIRST), mesh.batch("movie", "cd", schema=SECOND), mesh.batch("movie", "u", schema=FIRST)]
    for b in batches:
        mesh.commit(producer, b, tail=False)
    found = mesh.topics.read("movie", 0, bytes_max=1 << 20)
    assert [(b.topic, b.schema, b.schema_id) for b in found] == [(b.topic, b.schema, b.schema_id) for b in batches]
    assert [b.offsets.tolist() for b in found] == [[0, 1], [2, 3], [5]]
    assert found[0].offsets.dtype == "int64"


def test_small_commits_are_decoded_together(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    for n in range(20):
        mesh.commit(producer, mesh.batch("movie", "d", seed=n), tail=False)
    (found,) = mesh.topics.read("movie", 0, bytes_max=1 << 20)
    assert found.offsets.tolist() == list(range(0, 40, 2))
    assert mesh.topics.read_end([found]) == 40


def test_what_this_process_just_wrote_is_not_decoded_again(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = envelope.decode_values
    monkeypatch.setattr(envelope, "decode_values", lambda *given: decoded.append(len(given[-1])) or decode(*given))
    producer = mesh.topics.open_producer("w")
    batches = [mesh.batch("movie", "cud", seed=n) for n in range(4)]
    for n, b in enumerate(batches):
        mesh.commit(producer, b, tail=n != 1)
    assert flat(mesh.topics.read("movie", 0, bytes_max=1 << 20)) == expected(batches)
    assert decoded == [3], "only the batch that was not handed over"


def test_a_read_keeps_to_its_bytes(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    for n in range(10):
        mesh.commit(producer, mesh.batch("movie", "c" * 500, seed=n), tail=n >= 5)
    for start in (0, 2500):
        found = mesh.topics.read("movie", start, bytes_max=200_000)
        assert 500 <= sum(len(b) for b in found) < 2500
        assert sum(b.nbytes for b in found) < 400_000


def test_a_reader_between_a_delete_and_its_tombstone_sees_what_follows(mesh: Mesh) -> None:
    producer = mesh.topics.open_producer("w")
    mesh.commit(producer, mesh.batch("movie", "d"), tail=False)
    assert mesh.topics.read("movie", 1, bytes_max=1 << 20) == []
    mesh.commit(producer, mesh.batch("movie", "c"), tail=False)
    assert [b.offsets.tolist() for b in mesh.topics.read("movie", 1, bytes_max=1)] == [[2]]


def test_read_end_asks_for_an_event(mesh: Mesh) -> None:
    with pytest.raises(ValueError, match="no published event"):
        mesh.topics.read_end([])
    with pytest.raises(ValueError, match="no published event"):
        mesh.topics.read_end([mesh.batch("movie", "c")])


def test_what_is_not_there_is_said(mesh: Mesh) -> None:
    for ask in (lambda: mesh.topics.read("nowhere", 0, bytes_max=1), lambda: mesh.topics.end("nowhere")):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.code == "topic_unknown"
    assert mesh.topics.read("movie", 0, bytes_max=1) == []
    with pytest.raises(Irrecoverable) as beyond:
        mesh.topics.read("movie", 1, bytes_max=1)
    assert beyond.value.code == "offset_beyond_end"
    assert beyond.value.where == "movie@1"


def test_a_schema_that_the_registry_does_not_know_yet_waits(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh:
        mesh.commit(mesh.topics.open_producer("w"), mesh.batch("movie", "c"))
    for part in tmp_path.glob("registry.db*"):
        part.unlink()
    with opened(implementation, tmp_path) as mesh, pytest.raises(Retryable) as caught:
        mesh.topics.read("movie", 0, bytes_max=1)
    assert caught.value.code == "schema_unknown"


def test_notes_of_readers_are_seen_here_at_once_and_elsewhere_after_the_close(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh:
        assert mesh.topics.readers() == {}
        mesh.topics.note_reader("sink", {"movie": 3})
        mesh.topics.note_reader("sink", {"credit": 1})
        mesh.topics.note_reader("pipeline", {"movie": 9})
        mesh.topics.note_reader("sink", {"movie": 4})
        assert mesh.topics.readers() == {"pipeline": {"movie": 9}, "sink": {"movie": 4, "credit": 1}}
    with opened(implementation, tmp_path) as mesh:
        assert mesh.topics.readers() == {"pipeline": {"movie": 9}, "sink": {"movie": 4, "credit": 1}}


def test_notes_of_readers_go_with_a_commit(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh, opened(implementation, tmp_path) as other:
        mesh.topics.note_reader("sink", {"movie": 1})
        mesh.topics.note_reader("sink", {"movie": 2})
        mesh.commit(mesh.topics.open_producer("w"), mesh.batch("movie", "c"))
        assert other.topics.readers() == {"sink": {"movie": 2}}


def test_waiting_ends_when_an_end_is_beyond_what_was_seen(mesh: Mesh) -> None:
    assert not mesh.topics.wait({}, 0)
    assert not mesh.topics.wait({"movie": 0, "credit": 0, "not yet": 0}, 0.01)
    mesh.commit(mesh.topics.open_producer("w"), mesh.batch("movie", "d"))
    assert mesh.topics.wait({"movie": 0, "credit": 0}, 60)
    assert mesh.topics.wait({"movie": 1}, 60)
    assert not mesh.topics.wait({"movie": 2, "credit": 0}, 0.01)
