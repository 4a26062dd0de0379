"""Changefeed JSON into batches of events, beside `json.loads` of the same messages: updates of an 8-column table, with `diff`.

Method. Runs are interleaved (ours, peer, ours, …), each a process of its own that builds the same messages, works once to warm up and then
over all of them in pieces of 5,000. Rates are events per CPU second of the timed part, medians over the repeats. The peer
is a loop of `json.loads` into dicts: no types, no columns, no versions. Parity: every value of every image that we tell equals what
`json.loads` with exact decimals and Python's own conversions make of the message, and so does every version.

`python -m benchmarks.changefeed [--rows 50000] [--repeats 3]` writes benchmarks/results/changefeed.json.
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
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from millstream.events.batch import Batch
from millstream.sources.cockroach.decode import Decoder, Messages
from millstream.sources.cockroach.described import Column, Described
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.types import type_of

RESULTS = Path(__file__).parent / "results" / "changefeed.json"
PIECE_MESSAGES = 5_000
CONTENDERS = ("millstream", "json.loads")
START = 1_795_386_170_000_000_000
TABLE = Described(
    "movie",
    tuple(
        Column(i, name, type_of(sql_type))
        for i, (name, sql_type) in enumerate(
            [
                ("id", "INT8"),
                ("title", "STRING"),
                ("year", "INT4"),
                ("score", "FLOAT8"),
                ("price", "DECIMAL(12,2)"),
                ("made_at", "TIMESTAMPTZ"),
                ("note", "STRING"),
                ("released", "BOOL"),
            ],
            1,
        )
    ),
    (1,),
    1,
    Hlc(0, 0),
)


def messages(rows: int) -> Messages:
    """Updates, each of a row that was there. One note in twenty has an escape or a letter beyond ASCII, one in five is null."""
    random = np.random.default_rng(1)
    cents, scores = random.integers(0, 10**7, (rows, 2)).tolist(), random.random((rows, 2)).tolist()
    seconds, years = random.integers(0, 1_700_000_000, rows).tolist(), random.integers(1900, 2026, rows).tolist()

    def image(n: int, k: int) -> str:
        at = datetime.fromtimestamp(seconds[n]).isoformat()
        note = "null" if n % 5 == 0 else json.dumps("naïve\nsaid so" if n % 20 == 1 else f"note number {n + k}", ensure_ascii=n % 40 == 1)
        return (
            f'{{"id": {n}, "made_at": "{at}.{n % 1000:06d}Z", "note": {note}, "price": {cents[n][k] / 100:.2f}, '
            f'"released": {"true" if n % 2 else "false"}, "score": {scores[n][k]!r}, "title": "The title of film {n}", "year": {years[n]}}}'
        )

    values = [
        f'{{"after": {image(n, 1)}, "before": {image(n, 0)}, "mvcc_timestamp": "{START + n}.{0:010d}", "updated": "{START + n}.{0:010d}"}}'
        for n in range(rows)
    ]
    return Messages(["movie"] * rows, [f"[{n}]".encode() for n in range(rows)], [v.encode() for v in values])


def pieces(given: Messages) -> list[Messages]:
    return [
        Messages(given.topics[i : i + PIECE_MESSAGES], given.keys[i : i + PIECE_MESSAGES], given.values[i : i + PIECE_MESSAGES])
        for i in range(0, len(given.values), PIECE_MESSAGES)
    ]


def decoder() -> Decoder:
    made = Decoder(lambda _, at: TABLE, "benchmark")
    made.know("movie", TABLE)
    return made


def run_one(contender: str, rows: int) -> dict[str, float]:
    parts = pieces(messages(rows))
    ours = decoder()

    def work(part: Messages) -> Any:
        return ours.decode(part) if contender == "millstream" else [json.loads(v) for v in part.values]

    work(parts[0])
    start = time.process_time()
    for part in parts:
        work(part)
    cpu = time.process_time() - start
    data = sum(map(len, (v for part in parts for v in part.values)))
    return {"rate": rows / cpu, "mib_s": data / cpu / (1 << 20), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def plain(image: dict[str, Any]) -> dict[str, Any]:
    return image | {"made_at": datetime.fromisoformat(image["made_at"]), "score": float(image["score"]), "price": Decimal(image["price"])}


def parity(rows: int) -> bool:
    given = messages(rows)
    ours = decoder()
    told: list[Batch] = [b for part in pieces(given) for b in ours.decode(part).batches]
    events = [event for b in told for event in b.rows.to_pylist()]
    if len(events) != rows:
        return False
    for event, value in zip(events, given.values, strict=True):
        said = json.loads(value, parse_float=str)
        wall, logical = said["updated"].split(".")
        same = event["op"] == "u" and event["after"] == plain(said["after"]) and event["before"] == plain(said["before"])
        if not same or (event["major"], event["minor"]) != (int(wall), int(logical)):
            return False
    return True


def child(contender: str, rows: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.changefeed", "--one", contender, "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=CONTENDERS, help="one run, its figures as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(given.one, given.rows)))
        return
    runs: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    for _ in range(given.repeats):
        for contender in CONTENDERS:
            runs[contender].append(child(contender, given.rows))

    def median(contender: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[contender])

    ours, peer = (median(contender, "rate") for contender in CONTENDERS)
    result = {
        "name": "changefeed JSON with diff, 8 columns",
        "rows": given.rows,
        "events_per_cpu_s": round(ours),
        "json_loads_per_cpu_s": round(peer),
        "ratio_to_json_loads": round(ours / peer, 2),
        "mib_per_cpu_s": round(median("millstream", "mib_s"), 1),
        "peak_mib": round(median("millstream", "peak_mib")),
        "parity": parity(min(given.rows, 2 * PIECE_MESSAGES)),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([result], indent=2) + "\n")
    for name, value in result.items():
        print(f"{name:24}{value:>14,}" if isinstance(value, int | float) and not isinstance(value, bool) else f"{name:24}{value!s:>14}")


if __name__ == "__main__":
    main()
