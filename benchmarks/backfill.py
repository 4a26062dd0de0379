"""What a backfill costs those who read along: the age of live changes beside one, without one, and how fast its rows come.

Method. One PostgreSQL, one table, one `millstream run` in a process of its own with a step and an index. A writer makes one-row
transactions, evenly; a backfill of the whole table is asked for and, in turn, paused, left to its own pace, and told to go as fast
as it can. The age of changes, from COMMIT to searchable, is the process's own figure over its last minute, read at the end of each turn;
the rows are the backfill's own count, the CPU seconds the kernel's. Medians of the repeats. Parity: in the end the index has the table.

`python -m benchmarks.backfill [--rows 2000000] [--per-s 500] [--repeats 3]` writes benchmarks/results/backfill.json.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from benchmarks.process import PROGRAM, Index, reported, running, used, waited

from millstream.capture.backfill import Order
from millstream.catalogue.store import Catalogue
from millstream.schemas.sql import sqlite_engine
from millstream.sinks.search.query import search
from millstream.testing.postgres_server import PostgresServer

RESULTS = Path(__file__).parent / "results" / "backfill.json"
TURN_S = 70.0  # the process's figures are of a minute
NAME, AS_FAST_AS_IT_CAN = "again", 1e9
TURNS: tuple[tuple[str, str, float | None], ...] = (
    ("paused", "pause", None), ("own_pace", "run", None), ("as_fast_as_it_can", "run", AS_FAST_AS_IT_CAN),
)  # fmt: skip
FILES = {
    "mesh.yaml": "mesh: backfill\n",
    "sources/shop.yaml": "source: shop\nconnector: postgres\nurl: ${SHOP_URL}\ntables: [public.item]\nowner: team\n",
    "pipelines/items.yaml": """\
pipeline: items
owner: team
steps:
  - name: item
    sql: SELECT id, rev, kind, note FROM shop.public.item
sinks:
  - {from: item, search: {index: items}}
""",
}


@contextmanager
def writing(url: str, rows: int, per_s: float) -> Iterator[None]:
    """One-row transactions beside the block, evenly; each gives its row a `rev` that no other has."""
    stop, rng = threading.Event(), random.Random("writes")

    def write() -> None:
        begin, n = time.monotonic(), 0
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.wait(max(0.0, begin + n / per_s - time.monotonic())):
                n += 1
                connection.execute("UPDATE item SET rev = %s WHERE id = %s", [rows + n, rng.randrange(1, rows + 1)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def measure(rows: int, per_s: float, repeats: int) -> dict[str, Any]:
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="millstream-backfill-") as place:
        folder, url = Path(place), server.url("postgres")
        state = folder / ".millstream"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE item (id bigint PRIMARY KEY, rev bigint, kind text, note text)")
            connection.execute("INSERT INTO item SELECT g, g, 'k' || g %% 10, 'note ' || g FROM generate_series(1, %s::bigint) g", [rows])
            connection.execute("ALTER TABLE item REPLICA IDENTITY FULL")
            connection.execute("ANALYZE item")
        for name, text in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        environment = {**os.environ, "SHOP_URL": url}
        for command in (["apply"], ["run", "--until-caught-up"]):
            subprocess.run([str(PROGRAM), *command], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        catalogue, of_turns = Catalogue(sqlite_engine(state / "mesh.db")), {name: list[dict[str, float]]() for name, *_ in TURNS}
        catalogue.backfills.ask(Order(NAME, "shop", "public.item", estimate=rows, wanted="pause"))
        with running(folder, environment) as process:
            with writing(url, rows, per_s):
                for name, wanted, throttle in TURNS * repeats:
                    catalogue.backfills.throttle(NAME, throttle)
                    catalogue.backfills.want(NAME, wanted)
                    of_turns[name].append(_turn(catalogue, process.pid))
            catalogue.backfills.want(NAME, "cancel")
            with psycopg.connect(url) as connection:
                (rev,) = connection.execute("SELECT max(rev) FROM item").fetchone() or (0,)
                table = {id_: (rev, kind, note) for id_, rev, kind, note in connection.execute("SELECT id, rev, kind, note FROM item")}
            waited(lambda: search(state, "items", f"rev = {rev}", 1).total == 1)
        documents = {d["id"]: (d["rev"], d["kind"], d["note"]) for d in Index(state, "items").everything()}
        return {
            "rows": rows,
            "writes_per_s": per_s,
            **{name: {k: round(statistics.median(t[k] for t in turns), 2) for k in turns[0]} for name, turns in of_turns.items()},
            "each_turn": of_turns,
            "parity": documents == table,
        }


def _turn(catalogue: Catalogue, pid: int) -> dict[str, float]:
    read, cpu, begin = _read(catalogue), used(pid)["cpu_s"], time.monotonic()
    time.sleep(TURN_S)
    took = time.monotonic() - begin
    figures = next(f for part, f in catalogue.figures().items() if part.startswith("sink."))
    return {
        "p50_ms": figures["freshness_p50_ms"],
        "p99_ms": figures["freshness_p99_ms"],
        "rows_per_s": round((_read(catalogue) - read) / took),
        "cpu_cores": round((used(pid)["cpu_s"] - cpu) / took, 2),
    }


def _read(catalogue: Catalogue) -> int:
    told = next(o.told for o in catalogue.backfills.everything() if o.order.name == NAME)
    if told.state == "done":
        raise SystemExit("the backfill was through before its figures were: ask for more --rows")
    return told.read


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.backfill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--per-s", type=float, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = measure(given.rows, given.per_s, given.repeats)
    return reported(found, given.output)


if __name__ == "__main__":
    sys.exit(main())
