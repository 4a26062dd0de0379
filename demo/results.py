"""What Millstream left behind, read without asking it: indexes and topics as they lie on disk.

Also when it has caught up, which is asked of `millstream status`, as a user would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tantivy

from demo.commands import Failed, Millstream
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.search.generations import index_path, live
from millstream.topics.local import LocalTopics

REACHED_WITHIN_S = 240.0
# A call of `millstream status` costs as much processor time as the work it asks about.
ASK_EVERY_S = 1.0
READ_BYTES = 16 << 20


def home(project: Path) -> Path:
    """Where the mesh keeps what it knows."""
    return project / ".millstream"


def wait_until_live(millstream: Millstream) -> None:
    """Return when every part of `millstream run` has opened and waits for changes."""
    _wait(millstream, lambda status: status["running"] and all(p["state"] == "caught_up" for p in status["parts"]))


def wait_until_complete(millstream: Millstream, target: str) -> float:
    """Return when every change up to the target is in every sink; its form is that of a pipeline's progress: hexadecimal of fixed width.
    Gives the seconds it took."""
    return _wait(millstream, lambda status: _complete(status, target))


def wait_until(reached: Callable[[], bool], what: str) -> None:
    """Asks until it is so; `what` names it where it takes too long."""
    started = time.monotonic()
    while not reached():
        if time.monotonic() - started > REACHED_WITHIN_S:
            raise Failed(f"{what}: not there after {REACHED_WITHIN_S:.0f} s")
        time.sleep(ASK_EVERY_S)


def _wait(millstream: Millstream, reached: Callable[[dict[str, Any]], bool]) -> float:
    started = time.monotonic()
    while not reached(status := millstream.json("status")):
        failed = [p for p in status["parts"] if p["state"] == "failed"]
        if failed or time.monotonic() - started > REACHED_WITHIN_S:
            raise Failed(f"millstream run did not get there:\n{json.dumps(failed or status, indent=2)}")
        time.sleep(ASK_EVERY_S)
    return time.monotonic() - started


def _complete(status: dict[str, Any], target: str) -> bool:
    """Every pipeline is complete up to the target, and every sink has read all that is published."""
    pipelines = [p for p in status["parts"] if p["part"].startswith("pipeline.")]
    sinks = [p for p in status["parts"] if p["part"].startswith("sink.")]
    complete = all(p["progress"] and min(p["progress"].values()) >= target for p in pipelines)
    return complete and all(s["lag"] == 0 for s in sinks)


def documents(project: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every document of the index, as stored."""
    index = tantivy.Index.open(str(index_path(home(project), live(home(project), name))))
    searcher = index.searcher()
    hits = searcher.search(tantivy.Query.all_query(), max(searcher.num_docs, 1), count=False).hits
    for _, address in hits:
        stored = searcher.doc(address)["_document"]
        if stored:  # one document holds the sink's position
            yield json.loads(bytes(stored[0]))


def events(project: Path) -> dict[str, int]:
    """Topic → its change events, each read back and decoded."""
    engine = sqlite_engine(home(project) / "mesh.db")
    topics = LocalTopics(home(project) / "topics.db", SqlRegistry(engine))
    counted = {}
    for topic in topics.topics():
        offset = counted[topic.name] = 0
        while batches := topics.read(topic.name, offset, bytes_max=READ_BYTES):
            counted[topic.name] += sum(map(len, batches))
            offset = topics.read_end(batches)
    topics.close()
    engine.dispose()
    return counted
