"""Generations of an index: which folder is asked, how the switch is made, and that no reader meets half of one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from millstream.errors import Irrecoverable, Refused
from millstream.sinks.search import generations
from millstream.sinks.search.options import Options
from millstream.sinks.search.query import search
from millstream.sinks.search.sink import open_sink
from millstream.testing.sink_events import TOPIC, changes, movie


def build(place: Path, folder: str, ids: range) -> None:
    sink = open_sink("s", Options(index=folder, heap_mb=15), place)
    sink.open(1)
    batch = changes(0, [("c", None, movie(n, n)) for n in ids])
    sink.accept(batch.schema)
    sink.write([batch], {TOPIC: len(batch)})
    sink.close()


def ids(place: Path, index: str) -> set[int]:
    return {hit.key[0] for hit in search(place, index, "*", 100).hits}


def test_an_index_is_its_own_folder_until_it_is_switched(tmp_path: Path) -> None:
    build(tmp_path, "film", range(3))
    assert generations.live(tmp_path, "film") == "film"
    for n in (2, 10, 9):
        build(tmp_path, f"film@{n}", range(n))
    build(tmp_path, "films", range(1))
    assert generations.folders(tmp_path, "film") == ["film", "film@2", "film@9", "film@10"]
    assert generations.indexes(tmp_path) == ["film", "films"]
    assert ids(tmp_path, "film") == {0, 1, 2}
    generations.switch(tmp_path, "film", "film@2")
    generations.switch(tmp_path, "film", "film@2")
    assert generations.live(tmp_path, "film") == "film@2"
    assert ids(tmp_path, "film") == {0, 1}
    assert ids(tmp_path, "film@9") == set(range(9))
    generations.switch(tmp_path, "film", "film")
    assert ids(tmp_path, "film") == {0, 1, 2}


def test_what_is_no_generation_is_refused(tmp_path: Path) -> None:
    build(tmp_path, "film@1", range(1))
    for folder in ("film", "film@2", "films@1", "../film"):
        with pytest.raises(Refused) as caught:
            generations.switch(tmp_path, "film", folder)
        assert caught.value.code == "unknown_generation"
        assert "film@1" in caught.value.cure
    with pytest.raises(Refused) as caught:
        search(tmp_path, "film", "*")
    assert caught.value.code == "unknown_index"
    assert "first one is built" in caught.value.cure
    generations.switch(tmp_path, "film", "film@1")
    (tmp_path / "search" / "film.live").write_text("\0/")
    with pytest.raises(Irrecoverable) as damaged:
        search(tmp_path, "film", "*")
    assert "film@1" in damaged.value.cure


def test_only_what_is_not_asked_can_be_removed(tmp_path: Path) -> None:
    build(tmp_path, "film@1", range(1))
    build(tmp_path, "film@2", range(2))
    generations.switch(tmp_path, "film", "film@2")
    with pytest.raises(Refused) as caught:
        generations.remove(tmp_path, "film", "film@2")
    assert caught.value.code == "generation_live"
    generations.remove(tmp_path, "film", "film@1")
    generations.remove(tmp_path, "film", "film@1")
    assert generations.folders(tmp_path, "film") == ["film@2"]
    assert sorted(p.name for p in (tmp_path / "search").iterdir()) == ["film.live", "film@2"]


def test_no_search_fails_or_sees_half_while_generations_come_and_go(tmp_path: Path) -> None:
    build(tmp_path, "film@1", range(1))
    generations.switch(tmp_path, "film", "film@1")
    over, seen, failures = threading.Event(), set(), []

    def ask() -> None:
        try:
            while not over.is_set():
                seen.add(len(ids(tmp_path, "film")))
        except BaseException as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for n in range(2, 12):
        build(tmp_path, f"film@{n}", range(n))
        generations.switch(tmp_path, "film", f"film@{n}")
        generations.remove(tmp_path, "film", f"film@{n - 1}")
    over.set()
    asking.join()
    assert not failures
    assert seen <= set(range(1, 12))
    assert ids(tmp_path, "film") == set(range(11))
