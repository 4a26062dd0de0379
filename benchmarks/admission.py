"""Admission of a source that repeats and reorders, alone: what it costs an event, beside a dictionary.

Method. Runs are interleaved (ours, peer, ours, …), each a process of its own that makes the same million events, of which 20 % are repeats
of some of the last 20,000, told after newer ones. Batches have 10,000 events, and 1,000; keys are few (1,000), and mostly new (10 million).
Figures are microseconds of CPU an event, medians over the repeats. The peer does by one dictionary what admission does: key columns to
Python, one lookup an event, a mask. Parity: both admit the same events. "on disk" has 1 MiB of memory.

`python -m benchmarks.admission [--repeats 3]` writes benchmarks/results/admission.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.capture import frontier
from millstream.capture.frontier import FrontierAdmission
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type
from millstream.topics.contract import Topic

RESULTS = Path(__file__).parent / "results" / "admission.json"
EVENTS = 1_000_000
START = 1_795_386_694_891_199_672
STEP = 5_000  # nanoseconds between two versions
BACK = 20_000
SCHEMA = RowSchema((Field("id", Type("int64"), 1), Field("v", Type("text"), 2)), ("id",))
TOPIC = Topic("s.t", ("id",), 1, "whole", Origin("bench", "s", "d", None, "t"))
CONTENDERS = ("millstream", "on disk", "dictionary")
CASES = [(size, keys) for size in (10_000, 1_000) for keys in (1_000, 10_000_000)]


def order() -> npt.NDArray[np.int64]:
    """Which version is told when: 8,000 new ones, then 2,000 of those told of late, in their order."""
    rng, parts, fresh = np.random.default_rng(1), [], EVENTS * 8 // 10
    for at in range(0, fresh, 8_000):
        end = min(at + 8_000, fresh)
        parts += [np.arange(at, end), np.sort(rng.choice(np.arange(max(0, end - BACK), end), (end - at) // 4, replace=False))]
    return np.concatenate(parts)


def batches(size: int, keys: int) -> list[Batch]:
    told = order()
    ids, major = np.random.default_rng(2).integers(0, keys, EVENTS)[told], told.astype(np.uint64) * np.uint64(STEP) + np.uint64(START)
    return [_batch(ids[i : i + size], major[i : i + size]) for i in range(0, len(told), size)]


def _batch(ids: npt.NDArray[np.int64], major: npt.NDArray[np.uint64]) -> Batch:
    count = len(ids)
    after = pa.StructArray.from_arrays([pa.array(ids), pa.repeat("x", count)], fields=list(SCHEMA.arrow))
    given = {
        "op": pa.repeat("u", count),
        "after": after,
        "incarnation": np.ones(count, np.uint32),
        "major": major,
        "minor": np.zeros(count, np.uint32),
        "ts_us": np.zeros(count, np.int64),
        "position": pa.repeat("", count),
    }
    return batch(TOPIC.name, SCHEMA, given)


def by_dictionary(told: list[Batch]) -> int:
    last: dict[int, tuple[int, int]] = {}
    admitted = 0
    for b in told:
        keys, major, minor = (c.to_pylist() for c in (b.keys().field(0), b.column("major"), b.column("minor")))
        keep = np.zeros(len(b), np.bool_)
        for i, (key, version) in enumerate(zip(keys, zip(major, minor, strict=True), strict=True)):
            if version > last.get(key, (0, 0)):
                last[key], keep[i] = version, True
        admitted += len(b.filter(keep))
    return admitted


def by_columns(told: list[Batch]) -> int:
    admission = FrontierAdmission({"t": TOPIC}, Position(0, 0), {}, None)
    return sum(len(admission.admit(TOPIC.name, b)) for b in told)


def timed(contender: str, size: int, keys: int) -> dict[str, Any]:
    told = batches(size, keys)
    if contender == "on disk":
        frontier.BYTES_MAX = 1 << 20
    work = by_dictionary if contender == "dictionary" else by_columns
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    admitted = work(told)
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"us": took / sum(map(len, told)) * 1e6, "admitted": admitted, "grown_mib": grown / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(timed(given.one[0], int(given.one[1]), int(given.one[2]))))
        return
    rows = []
    for size, keys in CASES:
        runs: dict[str, list[dict[str, Any]]] = {c: [] for c in CONTENDERS}
        for _ in range(given.repeats):
            for contender in CONTENDERS:
                command = [sys.executable, "-m", "benchmarks.admission", "--one", contender, str(size), str(keys)]
                runs[contender].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        if len({r["admitted"] for done in runs.values() for r in done}) != 1:
            raise SystemExit(f"they do not admit the same: {runs}")
        for contender, done in runs.items():
            us, grown = (statistics.median(r[name] for r in done) for name in ("us", "grown_mib"))
            rows.append({"batch": size, "keys": keys, "contender": contender, "us_per_event": round(us, 3), "memory_mib": round(grown)})
            print(f"{size:>6} events a batch, {keys:>10,} keys, {contender:<12} {us:6.3f} µs of CPU an event, {grown:5.0f} MiB")
    found = {"at": datetime.now().astimezone().isoformat(timespec="seconds"), "events": EVENTS, "repeats": given.repeats, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
