"""Draining a Postgres backlog into a topic, beside pg_recvlogical throwing the same stream away.

Method. One server, one backlog, one slot; every run gets a copy of that slot and of the topics as they were before the backlog, so
all runs read the same bytes. Runs are interleaved (limit, ours, limit, ours, …) and each is a process of its own whose CPU seconds and peak
memory the kernel counts; medians are reported, and the spread of the limit's runs says how quiet the machine was.
Parity: the topic read back, folded by key, equals the table, and has as many events of each operation as the workload made.

`python -m benchmarks.drain [--changes 500000] [--repeats 3]` writes benchmarks/results/drain.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa

from millstream.capture.connector import Connector
from millstream.components import find
from millstream.events import envelope
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sources.kinds import KINDS
from millstream.testing.postgres_server import PostgresServer
from millstream.topics.contract import Topic
from millstream.topics.local import LocalTopics

RESULTS = Path(__file__).parent / "results" / "drain.json"
SOURCE, TABLE = "shop", "public.orders"
TOPIC = f"{SOURCE}.{TABLE}"
PER_TRANSACTION = 100

DDL = """
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int NOT NULL, status text NOT NULL, amount numeric(12,2) NOT NULL,
  qty int, created_at timestamptz NOT NULL, note text, attributes jsonb);
ALTER TABLE orders REPLICA IDENTITY FULL"""

# Two thirds inserts, 27 % updates, 7 % deletes.
BACKLOG = """
DO $$ BEGIN
  FOR lo IN 0 .. {inserts} - 1 BY {step} LOOP
    INSERT INTO orders SELECT g, (g::bigint * 7919) % 50000, (ARRAY['NEW','PAID','SHIPPED','DONE'])[1 + g % 4], (g % 100000) / 100.0,
      nullif(g % 10, 3), timestamptz '2026-01-01' + g * interval '1 second', CASE WHEN g % 5 > 0 THEN 'note number ' || g END,
      jsonb_build_object('k', g, 'tag', 't' || (g % 100)) FROM generate_series(lo, lo + {step} - 1) g;
    COMMIT;
  END LOOP;
  FOR lo IN 0 .. {updates} - 1 BY {step} LOOP
    UPDATE orders SET status = 'DONE', amount = amount + 1 WHERE id >= lo AND id < lo + {step};
    COMMIT;
  END LOOP;
  FOR lo IN 0 .. {deletes} - 1 BY {step} LOOP
    DELETE FROM orders WHERE id >= lo AND id < lo + {step};
    COMMIT;
  END LOOP;
END $$"""

# What both sides are asked for; equal answers are what parity means.
SUMS = (
    "count(*), sum(id), sum(customer_id), sum(amount), sum(qty), count(qty), sum({seconds}), sum(length(status)), count(note), "
    "sum(length(note)), count(attributes)"
)
LAST_ROWS = """
SELECT unnest(after) FROM (SELECT arg_max(after, place) AS after, arg_max(after IS NOT NULL, place) AS there FROM events GROUP BY id)
WHERE there"""


@dataclass(frozen=True)
class Run:
    """One drain: wall seconds, CPU seconds of the reading process, its peak memory in MiB."""

    seconds: float
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True)
class Result:
    """A row of the results: rates are changes per second; ratios are ours over theirs."""

    name: str
    rate: float
    peer: float | None
    ratio_to_peer: float | None
    limit: float | None
    ratio_to_limit: float | None
    cpu_s: float
    peak_mib: float
    parity: bool


# ---- our side, in a process of its own


def connector(folder: Path, url: str) -> tuple[Connector, LocalTopics]:
    """The source's connector over local topics in `folder`, made ready as `apply` does, and opened."""
    registry = SqlRegistry(sqlite_engine(folder / "registry.sqlite"))
    topics = LocalTopics(folder / "topics.sqlite", registry)
    kind = find(KINDS, "postgres")
    assert kind is not None
    source = kind.open(SOURCE, kind.options(url=url, tables=[TABLE]))
    source.check()
    for table in source.tables():
        name = f"{SOURCE}.{table.name}"
        key_schema = registry.register(f"{name}-key", envelope.key_schema(name, table.schema))
        topics.create(Topic(name, table.schema.key, key_schema.id, table.grade, table.origin))
    ours = Connector(source, topics, registry)
    ours.open()
    return ours, topics


def drain(folder: Path, url: str) -> dict[str, float]:
    """Read until everything committed so far is in the topic. Both clocks start when Python has started."""
    before, cpu_before = time.monotonic(), time.process_time()
    ours, topics = connector(folder, url)
    ours.head_wanted = True
    while not (ours.loaded and ours.head and ours.position and (ours.position.major, ours.position.minor) >= ours.head):
        ours.step()
    run = Run(time.monotonic() - before, time.process_time() - cpu_before, peak_mib(os.getpid()))
    ours.close()
    topics.close()
    return asdict(run)


def peak_mib(pid: int) -> float:
    """A process's peak memory so far, 0 once it has ended. getrusage would count its parent's, from before it was itself."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def drained(folder: Path, url: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drain", "--child", str(folder), url], check=True, stdout=subprocess.PIPE, text=True
    )
    return Run(**json.loads(done.stdout.splitlines()[-1]))


# ---- the limit


def received(server: PostgresServer, slot: str, publication: str, end: str) -> Run:
    """pg_recvlogical to /dev/null, up to `end`."""
    command = [str(server.bin / "pg_recvlogical"), "-d", server.url("postgres"), "--slot", slot, "--start", "-f", "/dev/null",
               "--endpos", end, "--no-loop", "-o", "proto_version=1", "-o", f"publication_names={publication}"]  # fmt: skip
    before = time.monotonic()
    process = subprocess.Popen(command)
    ended, status, peak = 0, 0, 0.0
    while not ended:
        peak = max(peak, peak_mib(process.pid))
        time.sleep(0.005)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"pg_recvlogical ended with {process.returncode}"
    return Run(time.monotonic() - before, used.ru_utime + used.ru_stime, peak)


# ---- the comparison


def parity(folder: Path, url: str, operations: dict[str, int]) -> bool:
    """The topic has every operation once, and folds to the table as it is."""
    topics = LocalTopics(folder / "topics.sqlite", SqlRegistry(sqlite_engine(folder / "registry.sqlite")))
    counted: dict[str, int] = {}
    folded = duckdb.connect()
    offset = 0
    while batches := topics.read(TOPIC, offset, bytes_max=16 << 20):
        offset = topics.read_end(batches)
        for batch in batches:
            for entry in batch.column("op").value_counts().to_pylist():
                counted[entry["values"]] = counted.get(entry["values"], 0) + entry["counts"]
            rows = pa.table({"place": batch.offsets, "id": batch.keys().field("id"), "after": batch.column("after")})
            folded.register("rows", rows)
            known = folded.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'events'").fetchone()
            folded.execute("INSERT INTO events FROM rows" if known and known[0] else "CREATE TABLE events AS FROM rows")
    topics.close()
    ours = folded.execute(f"SELECT {SUMS.format(seconds='epoch(created_at)')} FROM ({LAST_ROWS})").fetchone()
    with psycopg.connect(url) as connection:
        theirs = connection.execute(f"SELECT {SUMS.format(seconds='extract(epoch FROM created_at)')} FROM orders").fetchone()
    assert ours is not None
    assert theirs is not None
    return counted == operations and all(abs(float(a) - float(b)) < 1e-6 for a, b in zip(ours, theirs, strict=True))


def measure(changes: int, repeats: int) -> list[dict[str, Any]]:
    inserts = max(changes * 2 // 3 // PER_TRANSACTION, 10) * PER_TRANSACTION
    updates, deletes = (inserts * 4 // 10 // PER_TRANSACTION * PER_TRANSACTION, inserts // 10 // PER_TRANSACTION * PER_TRANSACTION)
    total = inserts + updates + deletes
    limits, ours, equal = [], [], True
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="millstream-drain-") as place:
        folder, url = Path(place), server.url("postgres")
        server.execute(DDL)
        # The first run makes publication and slot and loads the empty table; every later one goes on from its folder.
        drained(folder / "before", url)
        (slot, publication) = server.execute("SELECT slot_name, (SELECT pubname FROM pg_publication) FROM pg_replication_slots")[0]
        server.execute(f"SELECT pg_copy_logical_replication_slot('{slot}', 'kept')")
        server.execute(BACKLOG.format(inserts=inserts, updates=updates, deletes=deletes, step=PER_TRANSACTION))
        end = str(server.execute("SELECT pg_current_wal_flush_lsn()")[0][0])
        for number in range(repeats):
            server.execute(f"SELECT pg_copy_logical_replication_slot('kept', 'limit_{number}')")
            limits.append(received(server, f"limit_{number}", publication, end))
            server.execute(f"SELECT pg_drop_replication_slot('limit_{number}')")
            server.execute(f"SELECT pg_drop_replication_slot('{slot}')")
            server.execute(f"SELECT pg_copy_logical_replication_slot('kept', '{slot}')")
            shutil.copytree(folder / "before", folder / f"run_{number}")
            ours.append(drained(folder / f"run_{number}", url))
            equal = equal and parity(folder / f"run_{number}", url, {"c": inserts, "u": updates, "d": deletes})
            shutil.rmtree(folder / f"run_{number}")
    return [asdict(r) for r in results(total, ours, limits, equal)]


def results(total: int, ours: list[Run], limits: list[Run], equal: bool) -> list[Result]:
    def rate(runs: list[Run]) -> float:
        return round(total / statistics.median(r.seconds for r in runs))

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 2)

    limit = rate(limits)
    spread = max(r.seconds for r in limits) / min(r.seconds for r in limits)
    print(f"limit's slowest run over its fastest: {spread:.2f}", file=sys.stderr)
    return [
        Result("drain postgres", rate(ours), None, None, limit, round(rate(ours) / limit, 3), median([r.cpu_s for r in ours]),
               median([r.peak_mib for r in ours]), equal),
        Result("limit: pg_recvlogical -f /dev/null", limit, None, None, limit, 1.0, median([r.cpu_s for r in limits]),
               median([r.peak_mib for r in limits]), True),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.drain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=500_000, help="row changes in the backlog, 100 a transaction")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder = Path(given.child[0])
        folder.mkdir(exist_ok=True)
        print(json.dumps(drain(folder, given.child[1])))
        return 0
    rows = measure(given.changes, given.repeats)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        print(f"{row['name']:36} {row['rate']:>10,.0f}/s  {row['ratio_to_limit']:.2f} of the limit  {row['cpu_s']:6.2f} CPU s  "
              f"{row['peak_mib']:6.0f} MiB  {'equal' if row['parity'] else 'NOT EQUAL'}")  # fmt: skip
    return 0 if all(row["parity"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
