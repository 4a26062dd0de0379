"""Admission over what real CockroachDB servers sent: every row version once, none lost; and as many repeats as were seen in it."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.capture.frontier import FrontierAdmission
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.topics.contract import Topic

GOLDEN = Path(__file__).parents[2] / "golden" / "cockroach"
FILES = sorted(GOLDEN.glob("*/*.jsonl"))
SCHEMA = RowSchema((Field("key", Type("text"), 1),), ("key",))
REPEATS = {
    "v26.1-alpha/01_types_crud": (13, 29),
    "v22.1-alpha/01_types_crud": (13, 29),
    "v26.1-alpha/09_ordering_and_concurrency": (307, 683),
    "v22.1-alpha/09_ordering_and_concurrency": (61, 437),
    "v22.1-alpha/02_more_types": (120, 125),
}
Time = tuple[int, int]


def time_of(text: str) -> Time:
    wall, _, logical = text.partition(".")
    return int(wall), int(logical)


def feeds(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Messages of each feed that tells when rows were updated."""
    found = defaultdict(list)
    for line in path.read_text().splitlines():
        said = json.loads(line)
        if said["kind"] == "message":
            found[said["feed"]].append(said)
    return {feed: told for feed, told in found.items() if all(m["topic"] is None or updated(m) is not None for m in told)}


def updated(message: dict[str, Any]) -> str | None:
    try:
        value = json.loads(message["value"] or "null")
    except ValueError:  # a feed in CSV
        return None
    for inside in (value, value.get("__crdb__") if isinstance(value, dict) else None):
        if isinstance(inside, dict) and "updated" in inside:
            return str(inside["updated"])
    return None


def resolved(message: dict[str, Any]) -> Time:
    value = json.loads(message["value"])
    return time_of(value.get("__crdb__", value)["resolved"])


def pieces(told: list[dict[str, Any]], rng: random.Random) -> Iterator[tuple[list[dict[str, Any]], Time | None]]:
    """Runs of rows, of any length, and the resolved time that ends some."""
    run: list[dict[str, Any]] = []
    for message in told:
        if message["topic"] is None:
            yield run, resolved(message)
            run = []
            continue
        run.append(message)
        if rng.random() < 0.1:
            yield run, None
            run = []
    yield run, None


def events(topic: str, told: list[dict[str, Any]]) -> Batch:
    times = [time_of(updated(m) or "") for m in told]
    given = {
        "op": ["u"] * len(told),
        "after": pa.array([{"key": m["key"]} for m in told], SCHEMA.arrow),
        "incarnation": np.ones(len(told), np.uint32),
        "major": np.array([t[0] for t in times], np.uint64),
        "minor": np.array([t[1] for t in times], np.uint32),
        "ts_us": np.zeros(len(told), np.int64),
        "position": [""] * len(told),
    }
    return batch(topic, SCHEMA, given)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_version_is_admitted_once_and_in_order(path: Path) -> None:
    rows = repeats = 0
    for seed, told in enumerate(feeds(path).values()):
        topics = sorted({m["topic"] for m in told if m["topic"] is not None})
        made = {t: Topic(t, ("key",), 1, "whole", Origin("cockroachdb", "s", "d", None, t)) for t in topics}
        admission = FrontierAdmission(made, None, {}, None)
        admitted: dict[tuple[str, str], list[Time]] = defaultdict(list)
        for run, at in pieces(told, random.Random(seed)):
            for topic in topics:
                mine = [m for m in run if m["topic"] == topic]
                fresh = admission.admit(topic, events(topic, mine))
                keys = fresh.column("after").field(0).to_pylist()
                for key, major, minor in zip(keys, fresh.column("major").to_pylist(), fresh.column("minor").to_pylist(), strict=True):
                    admitted[topic, key].append((major, minor))
            if at is not None:
                admission.committed(Position(*at, {}, dict.fromkeys(topics, at)))
        sent = [(m["topic"], m["key"], time_of(updated(m) or "")) for m in told if m["topic"] is not None]
        wanted = defaultdict(list)
        for topic, key, at in sorted(set(sent), key=lambda s: s[2]):
            wanted[topic, key].append(at)
        assert admitted == wanted
        rows, repeats = rows + len(sent), repeats + len(sent) - len(set(sent))
    if (known := REPEATS.get(f"{path.parent.name}/{path.stem}")) is not None:
        assert (repeats, rows) == known


def test_there_are_recordings() -> None:
    assert {f"{p.parent.name}/{p.stem}" for p in FILES} >= set(REPEATS)
