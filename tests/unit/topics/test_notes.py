"""Readers' notes: few writes, nothing lost that a later note does not say."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from millstream.errors import Retryable
from millstream.topics.local import notes
from millstream.topics.local.notes import Notes


class Written:
    """Stands for the store: counts the writes and fails when told to."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE readers (reader, topic, offset, PRIMARY KEY (reader, topic))")
        self.writes = 0
        self.busy = False

    @contextmanager
    def writing(self, where: str, *, patience_s: float) -> Iterator[sqlite3.Connection]:
        self.writes += 1
        if self.busy:
            raise Retryable("busy", code="topics_busy")
        yield self.connection

    @property
    def rows(self) -> set[tuple[str, str, int]]:
        return set(self.connection.execute("SELECT * FROM readers"))


@pytest.fixture
def written() -> Iterator[Written]:
    store = Written()
    yield store
    store.connection.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(notes.time, "monotonic", lambda: now[0])
    return now


def test_many_notes_are_one_write_a_second(written: Written, clock: list[float]) -> None:
    noted = Notes(written)
    for offset in range(50):
        noted.add("r", {"t": offset})
    assert (written.writes, written.rows) == (1, {("r", "t", 0)})
    clock[0] += 1.1
    noted.write_if_due()
    assert (written.writes, written.rows) == (2, {("r", "t", 49)})
    clock[0] += 1.1
    noted.write_if_due()
    noted.write_now()
    assert written.writes == 2, "there was nothing new to write"


def test_what_could_not_be_written_is_kept_and_tried_again(written: Written, clock: list[float]) -> None:
    noted = Notes(written)
    written.busy = True
    noted.add("r", {"t": 1, "u": 1})
    noted.add("r", {"t": 2})
    assert written.writes == 1, "a busy file is not asked at every note"
    assert noted.over({"old": {"t": 9}}) == {"old": {"t": 9}, "r": {"t": 2, "u": 1}}
    written.busy = False
    clock[0] += 1.1
    noted.write_if_due()
    assert written.rows == {("r", "t", 2), ("r", "u", 1)}


def test_a_note_that_comes_while_another_is_written_is_not_forgotten(written: Written, clock: list[float]) -> None:
    noted = Notes(written)
    noted.add("r", {"t": 1})
    noted.add("r", {"t": 2, "u": 7})
    settle = noted.join(written.connection)
    noted.add("r", {"t": 3})
    settle()
    assert noted.over({}) == {"r": {"t": 3}}
    noted.write_now()
    assert written.rows == {("r", "t", 3), ("r", "u", 7)}
