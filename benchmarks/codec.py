"""The Avro codec beside fastavro, on the same rows: an 8-column row, and the whole envelope of an update of it.

Method. Runs are interleaved (ours, peer, limit, ours, …), each a process of its own that builds the same rows, works once to warm up
and then over all of them in batches of 10,000; CPU seconds are of the timed part, peak memory is the process's. Medians are reported.
The peer goes between bytes and Python dicts. The limit is Arrow IPC of the same columns: moving them with no encoding at all.
Parity: every value that fastavro reads from our bytes equals the row that was encoded, and so does every value that we read.

`python -m benchmarks.codec [--rows 50000] [--repeats 3]` writes benchmarks/results/codec.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from millstream.avro import Codec, Datums
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type

RESULTS = Path(__file__).parent / "results" / "codec.json"
BATCH_ROWS = 10_000
SHAPES, DIRECTIONS, CONTENDERS = ("row", "envelope"), ("encode", "decode"), ("millstream", "fastavro", "arrow ipc")
TOPIC, ORIGIN, TAG = "studio.public.movie", Origin("postgres", "studio", "studio", "public", "movie"), "0.1.0"
SCHEMA = RowSchema(
    (
        Field("id", Type("int64"), 1),
        Field("title", Type("text"), 2),
        Field("year", Type("int32"), 3),
        Field("score", Type("float64"), 4),
        Field("price", Type("decimal", 12, 2), 5),
        Field("made_at", Type("timestamptz"), 6),
        Field("note", Type("text"), 7),
        Field("released", Type("boolean"), 8),
    ),
    ("id",),
)


def images(rows: int, seed: int) -> pa.StructArray:
    random = np.random.default_rng(seed)
    numbers = np.arange(rows)
    columns = [
        pa.array(numbers),
        pa.array([f"The title of film {n}" for n in numbers]),
        pa.array(random.integers(1900, 2026, rows).astype(np.int32), mask=numbers % 10 == 3),
        pa.array(random.random(rows)),
        pa.array(random.integers(0, 10**7, rows)).cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2)),
        pa.array(random.integers(0, 2 * 10**15, rows)).cast(pa.timestamp("us", "UTC")),
        pa.array([f"note number {n}" for n in numbers], mask=numbers % 5 == 0),
        pa.array(random.random(rows) < 0.5),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(SCHEMA.arrow))


def events(rows: int) -> Batch:
    numbers = np.arange(rows)
    given = {
        "op": pa.array(["u"] * rows),
        "before": images(rows, 1),
        "after": images(rows, 2),
        "incarnation": np.ones(rows, np.uint32),
        "major": (numbers // 10).astype(np.uint64) + 10**10,
        "minor": (numbers % 10).astype(np.uint32),
        "ts_us": 1_700_000_000_000_000 + numbers // 10 * 1000,
        "processed_us": 1_700_000_009_000_000 + numbers // 1000,
        "tx_id": pa.array([str(n // 10) for n in numbers]),
        "tx_order": numbers % 10,
        "tx_table_order": numbers % 10,
        "position": pa.array([f"{n:016x}" for n in numbers]),
    }
    return batch(TOPIC, SCHEMA, given, schema_id=1)


@dataclass(frozen=True)
class Work:
    """One shape of rows: as a record batch, as dicts, and how to turn it into bytes and back."""

    rows: pa.RecordBatch
    text: str
    frame_bytes: int
    encode: Callable[[pa.RecordBatch], Datums]
    decode: Callable[[Datums], pa.RecordBatch]


def row_work(rows: int) -> Work:
    text = json.dumps(json.loads(envelope.value_schema(TOPIC, SCHEMA))["fields"][0]["type"][1])
    codec = Codec(text)
    return Work(
        pa.RecordBatch.from_struct_array(images(rows, 1)),
        text,
        0,
        lambda part: codec.encode(part.to_struct_array(), len(part)),
        lambda datums: pa.RecordBatch.from_struct_array(codec.decode(datums.data, datums.starts, datums.ends)),
    )


def envelope_work(rows: int) -> Work:
    whole = events(rows)
    text = envelope.value_schema(TOPIC, SCHEMA)
    return Work(
        whole.rows,
        text,
        envelope.FRAME_BYTES,
        lambda part: envelope.encode_values(replace(whole, rows=part), ORIGIN, TAG),
        lambda datums: envelope.decode_values(TOPIC, text, 1, SCHEMA, datums.data, datums.starts, datums.ends).rows,
    )


WORKS = {"row": row_work, "envelope": envelope_work}


def batches(work: Work) -> list[pa.RecordBatch]:
    return [work.rows.slice(start, BATCH_ROWS) for start in range(0, len(work.rows), BATCH_ROWS)]


def peer_dicts(work: Work, datums: Datums) -> list[Any]:
    schema = fastavro.parse_schema(json.loads(work.text))
    bounds = zip(datums.starts.tolist(), datums.ends.tolist(), strict=True)
    return [fastavro.schemaless_reader(BytesIO(datums.data[start + work.frame_bytes : end]), schema, None) for start, end in bounds]


def peer_bytes(work: Work, dicts: list[Any]) -> list[bytes]:
    schema = fastavro.parse_schema(json.loads(work.text))
    data = []
    for row in dicts:
        out = BytesIO()
        fastavro.schemaless_writer(out, schema, row)
        data.append(out.getvalue())
    return data


def ipc_bytes(part: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        writer.write_batch(part)
    return sink.getvalue()


def ipc_rows(buffer: pa.Buffer) -> pa.RecordBatch:
    # Copied out of the buffer, as a decoder's result is.
    with pa.ipc.open_stream(pa.py_buffer(buffer.to_pybytes())) as reader:
        return reader.read_next_batch()


def jobs(work: Work, direction: str, contender: str) -> list[Callable[[], Any]]:
    """What one contender has to do, a call per batch."""
    parts = batches(work)
    encoded = [work.encode(part) for part in parts] if contender != "arrow ipc" else []
    if contender == "millstream":
        if direction == "encode":
            return [partial(work.encode, part) for part in parts]
        return [partial(work.decode, datums) for datums in encoded]
    if contender == "fastavro":
        if direction == "encode":
            return [partial(peer_bytes, work, peer_dicts(work, datums)) for datums in encoded]
        return [partial(peer_dicts, work, datums) for datums in encoded]
    if direction == "encode":
        return [partial(ipc_bytes, part) for part in parts]
    return [partial(ipc_rows, ipc_bytes(part)) for part in parts]


def run_one(shape: str, direction: str, contender: str, rows: int) -> dict[str, float]:
    calls = jobs(WORKS[shape](rows), direction, contender)
    calls[0]()
    cpu, start = time.process_time(), time.perf_counter()
    for call in calls:
        call()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"rate": rows / seconds, "cpu_s": cpu, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def parity(shape: str, rows: int) -> bool:
    work = WORKS[shape](rows)
    for part in batches(work):
        datums = work.encode(part)
        if not work.decode(datums).equals(part):
            return False
        read = peer_dicts(work, datums)
        if shape == "row":
            same = read == part.to_pylist()
        else:
            wanted = part.select(["before", "after", "op"]).to_pylist()
            same = [{name: event[name] for name in ("before", "after", "op")} for event in read] == wanted
            same = same and [event["source"]["ts_us"] for event in read] == part.column("ts_us").to_pylist()
        # Read by fastavro and written by it again: the same bytes.
        framed = b"".join(
            datums.data[start : start + work.frame_bytes] + d for start, d in zip(datums.starts, peer_bytes(work, read), strict=True)
        )
        if not same or framed != datums.data:
            return False
    return True


def child(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.codec", "--one", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(shape: str, direction: str, rows: int, repeats: int, equal: bool) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {contender: [] for contender in CONTENDERS}
    for _ in range(repeats):
        for contender in CONTENDERS:
            runs[contender].append(child(shape, direction, contender, str(rows)))

    def median(contender: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[contender])

    ours, peer, limit = (median(contender, "rate") for contender in CONTENDERS)
    return {
        "name": f"avro {direction}, {shape}",
        "rate": round(ours),
        "peer": round(peer),
        "ratio_to_peer": round(ours / peer, 2),
        "limit": round(limit),
        "ratio_to_limit": round(ours / limit, 3),
        "cpu_s": round(median("millstream", "cpu_s"), 3),
        "peak_mib": round(median("millstream", "peak_mib")),
        "parity": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=4, metavar=("SHAPE", "DIRECTION", "CONTENDER", "ROWS"), help="one run, its figures as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(*given.one[:3], int(given.one[3]))))
        return
    results = []
    for shape in SHAPES:
        equal = parity(shape, min(given.rows, 2 * BATCH_ROWS))
        results += [measure(shape, direction, given.rows, given.repeats, equal) for direction in DIRECTIONS]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'':28}{'ours/s':>12}{'fastavro/s':>12}{'ratio':>8}{'ipc/s':>14}{'ratio':>8}{'cpu s':>8}{'MiB':>6}  parity")
    for r in results:
        print(
            f"{r['name']:28}{r['rate']:12,}{r['peer']:12,}{r['ratio_to_peer']:8}{r['limit']:14,}{r['ratio_to_limit']:8}"
            f"{r['cpu_s']:8}{r['peak_mib']:6}  {r['parity']}"
        )


if __name__ == "__main__":
    main()
