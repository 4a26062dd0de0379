"""Torn writes, bytes that changed on the disk, files of others, a full disk: noticed, named, and never half a commit."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from topics_mesh import Mesh, expected, flat, opened, read_all

from millstream.errors import Irrecoverable, MillstreamError, Refused
from millstream.topics.local import LocalTopics
from millstream.topics.local.store import Store

CHANCE = random.Random(7)


def fill(mesh: Mesh, commits: int = 6) -> list:
    producer = mesh.topics.open_producer("w")
    written = [mesh.batch("movie", "cudr" * 5, seed=n, major=n) for n in range(commits)]
    for b in written:
        mesh.commit(producer, b)
    return written


def copied(source: Path, target: Path) -> Path:
    """The files as they lie on the disk while they are open: what a crash of the machine would leave."""
    target.mkdir()
    for part in ("topics.db", "topics.db-wal", "registry.db", "registry.db-wal"):
        shutil.copy(source / part, target / part)
    return target


def found_commits(folder: Path) -> int:
    """How many whole commits the copy holds; that they are whole, and that the record agrees, is checked on the way."""
    with opened("local", folder) as mesh:
        events = read_all(mesh.topics, "movie")
        record = mesh.topics.open_producer("w").record
        assert flat(events) == expected([mesh.batch("movie", "cudr" * 5, seed=n, major=n) for n in range(record.sequence)])
        assert record.state.get("n", 0) == record.sequence
        mesh.commit(mesh.topics.open_producer("w"), mesh.batch("movie", "c"))  # and it can be written to
        return record.sequence


def test_a_log_cut_anywhere_keeps_whole_commits(tmp_path: Path) -> None:
    with opened("local", tmp_path / "live") as mesh:
        fill(mesh)
        size = (tmp_path / "live" / "topics.db-wal").stat().st_size
        assert size > 100_000, "everything must still lie in the log"
        kept = []
        for n, cut in enumerate(sorted(CHANCE.randrange(size) for _ in range(12))):
            folder = copied(tmp_path / "live", tmp_path / f"cut{n}")
            os.truncate(folder / "topics.db-wal", cut)
            kept.append(found_commits(folder))
        assert kept == sorted(kept)
        assert len(set(kept)) > 3
        assert found_commits(copied(tmp_path / "live", tmp_path / "whole")) == 6


def test_a_garbled_log_keeps_whole_commits(tmp_path: Path) -> None:
    with opened("local", tmp_path / "live") as mesh:
        fill(mesh)
        size = (tmp_path / "live" / "topics.db-wal").stat().st_size
        for n in range(12):
            folder = copied(tmp_path / "live", tmp_path / f"garbled{n}")
            garble(folder / "topics.db-wal", CHANCE.randrange(size), 1 + n * 50)
            assert 0 <= found_commits(folder) <= 6


def garble(file: Path, at: int, count: int) -> None:
    data = bytearray(file.read_bytes())
    for i in range(at, min(at + count, len(data))):
        data[i] ^= 1 + CHANCE.randrange(255)
    file.write_bytes(data)


def test_a_damaged_payload_is_named_with_its_place(tmp_path: Path) -> None:
    with opened("local", tmp_path) as mesh:
        batches = fill(mesh)
    with closing(sqlite3.connect(tmp_path / "topics.db")) as file:
        (payload,) = file.execute("SELECT payload FROM blocks WHERE first_offset = 50").fetchone()
    at = (tmp_path / "topics.db").read_bytes().find(payload[:500])
    garble(tmp_path / "topics.db", at + 200, 1)
    with opened("local", tmp_path) as mesh:
        before = mesh.topics.read("movie", 0, bytes_max=1)
        assert flat(before) == expected(batches[:1])
        with pytest.raises(Irrecoverable) as caught:
            mesh.topics.read("movie", 60, bytes_max=1)
        assert (caught.value.code, caught.value.where) == ("topic_damaged", "movie@50")
        assert "backfill" in caught.value.cure
        assert flat(mesh.topics.read("movie", 75, bytes_max=1 << 20)) == [e for e in expected(batches) if e[0] >= 75]


CHANGES = {
    "a block that is gone": "DELETE FROM blocks WHERE first_offset = 50",
    "the last block gone": "DELETE FROM blocks WHERE first_offset = 125",
    "a block in another's place": "UPDATE blocks SET first_offset = first_offset + 1 WHERE first_offset = 50",
    "a block of another topic": "UPDATE blocks SET topic_id = (SELECT id FROM topics WHERE name = 'credit') WHERE first_offset = 0",
    "another schema": "UPDATE blocks SET schema_id = 1",
    "a payload cut": "UPDATE blocks SET payload = substr(payload, 1, 50) WHERE first_offset = 50",
    "a payload of another type": "UPDATE blocks SET payload = 7 WHERE first_offset = 50",
    "an end that is too low": "UPDATE topics SET next_offset = 100 WHERE name = 'movie'",
    "another key": "UPDATE topics SET key = '[\"title\"]'",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_does_not_fit_together_is_damage(tmp_path: Path, change: str) -> None:
    with opened("local", tmp_path) as mesh:
        fill(mesh)
    with closing(sqlite3.connect(tmp_path / "topics.db", isolation_level=None)) as file:
        assert file.execute(change).rowcount
    with pytest.raises(Irrecoverable) as caught, opened("local", tmp_path) as mesh:
        read_all(mesh.topics, "movie")
        read_all(mesh.topics, "credit")
    assert caught.value.code == "topic_damaged"


def test_a_writers_record_that_changed_is_damage(tmp_path: Path) -> None:
    with opened("local", tmp_path) as mesh:
        fill(mesh)
    with closing(sqlite3.connect(tmp_path / "topics.db", isolation_level=None)) as file:
        file.execute("UPDATE producers SET state = replace(state, '6', '5')")
    with opened("local", tmp_path) as mesh:
        for ask in (mesh.topics.open_producer, mesh.topics.producer_record):
            with pytest.raises(Irrecoverable) as caught:
                ask("w")
            assert (caught.value.code, caught.value.where) == ("topic_damaged", "producer w")


def test_any_byte_changed_gives_the_same_events_or_an_error(tmp_path: Path) -> None:
    with opened("local", tmp_path / "live") as mesh:
        wanted = expected(fill(mesh))
        record = mesh.topics.producer_record("w")
    sound = (tmp_path / "live" / "topics.db").read_bytes()
    complaints = 0
    for n in range(200):
        data = bytearray(sound)
        page, place = divmod(CHANCE.randrange(len(data)), 4096)
        data[4096 * page + (place if n % 2 else place % 64)] ^= 1 << CHANCE.randrange(8)  # every other one in a page's header
        (tmp_path / "live" / "topics.db").write_bytes(data)
        try:
            with opened("local", tmp_path / "live", tail_bytes_max=0) as mesh:
                assert flat(read_all(mesh.topics, "movie")) == wanted
                assert mesh.topics.producer_record("w") == record
        except MillstreamError as error:
            complaints += 1
            assert error.cure
    assert complaints > 20


def test_a_file_of_somebody_else_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "topics.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(Irrecoverable) as caught, opened("local", tmp_path):
        pass
    assert caught.value.code == "topics_foreign"
    assert path.read_bytes() == before
    path.write_text("not a database, but long enough to be looked at " * 100)
    with pytest.raises(Irrecoverable) as caught, opened("local", tmp_path):
        pass
    assert caught.value.code == "topic_damaged"
    assert str(path) in caught.value.where


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    with opened("local", tmp_path) as mesh:
        fill(mesh, 1)
    with closing(sqlite3.connect(tmp_path / "topics.db", isolation_level=None)) as file:
        file.execute("PRAGMA user_version=4")
    with pytest.raises(Refused) as caught, opened("local", tmp_path):
        pass
    assert caught.value.code == "topics_newer"
    assert "version" in caught.value.cure


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Irrecoverable) as caught:
        LocalTopics(tmp_path / "file" / "topics.db", registry=None)
    assert caught.value.code == "topics_unusable"


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A disk of 3 MiB at `folder`, and what gives it room again. A real tmpfs where we may mount one."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=3m") == 0:
        try:
            yield lambda: libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 32, b"size=30m")  # 32: MS_REMOUNT
        finally:
            libc.umount2(bytes(folder), 2)  # 2: MNT_DETACH
        return
    warnings.warn("may not mount a small disk here: SQLite is told to take its file for one of 2.5 MiB", NotADisk, stacklevel=2)
    opened_plainly = Store._opened
    made: list[sqlite3.Connection] = []

    def opened_small(store: Store) -> sqlite3.Connection:
        made.append(opened_plainly(store))
        made[-1].execute("PRAGMA max_page_count=640")
        return made[-1]

    Store._opened = opened_small
    try:
        yield lambda: made[0].execute("PRAGMA max_page_count=100000")
    finally:
        Store._opened = opened_plainly


class NotADisk(UserWarning):
    pass


@pytest.mark.filterwarnings("default::test_topics_damage.NotADisk")
def test_a_full_disk_keeps_what_was_there_and_goes_on_when_it_has_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as make_room, opened("local", tmp_path / "disk") as mesh:
        producer = mesh.topics.open_producer("w")
        written: list = []
        with pytest.raises(Irrecoverable) as caught:
            for n in range(1000):
                two = [mesh.batch(topic, "cudr" * 250, seed=n, major=n) for topic in ("movie", "credit")]
                mesh.commit(producer, *two)
                written.append(two)
        assert caught.value.code == "disk_full"
        assert "free space" in caught.value.cure
        assert len(written) > 2
        for n, topic in enumerate(("movie", "credit")):
            assert flat(read_all(mesh.topics, topic)) == expected([two[n] for two in written])
        assert mesh.topics.producer_record("w") == producer.record
        assert producer.record.sequence == len(written)
        mesh.topics.note_reader("reader", {"movie": 1})  # must not fail for want of room
        assert mesh.topics.readers() == {"reader": {"movie": 1}}
        with pytest.raises(Irrecoverable):
            mesh.commit(producer, *two)
        make_room()
        mesh.commit(producer, *two)
        written.append(two)
        with opened("local", tmp_path / "disk") as other:
            for n, topic in enumerate(("movie", "credit")):
                assert flat(read_all(other.topics, topic)) == expected([two[n] for two in written])
            assert other.topics.producer_record("w").sequence == len(written)
