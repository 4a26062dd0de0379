"""The workload on a CockroachDB, and its audit: a table written in the same transactions, by the writers themselves.

A key belongs to one writer, who so knows what stands there without reading: a transaction's audit says of each key that it touched
what stood there before and what stands there then, and the how-manieth change of the key that is. `rev` in a row is that number at
the last change that meant to change anything.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from faults_events import Change, row
from faults_workload import Connect, RolledBack, Workload, Writer

TABLES: Mapping[str, tuple[str, ...]] = {
    "movie": ("id", "rev", "title", "year", "rating", "released", "changed", "studio_id"),
    "studio": ("id", "rev", "name", "country"),
}
MOVIES, STUDIOS = 300, 20  # ids are drawn from 1 to these
BULK_ROWS, BULK_FROM = 400, 10_000
WRITERS = 3
TRIES = 20

SCHEMA = (
    "CREATE TABLE movie (id INT8 PRIMARY KEY, rev INT8 NOT NULL, title STRING, year INT4, rating DECIMAL(4,2), released BOOL NOT NULL,"
    " changed TIMESTAMPTZ, studio_id INT8)",
    "CREATE TABLE studio (id INT8 PRIMARY KEY, rev INT8 NOT NULL, name STRING NOT NULL, country STRING)",
    "CREATE TABLE audit (seq INT8 PRIMARY KEY, txn INT8 NOT NULL, tbl STRING NOT NULL, id INT8 NOT NULL, version INT8 NOT NULL,"
    " op STRING NOT NULL, was STRING, became STRING)",
)

Place = tuple[str, int]
Image = dict[str, Any]


@dataclass
class _Own:
    """What a writer knows of its keys: what stands there, and how often each changed. `pending`: a transaction whose end nobody told."""

    rows: dict[Place, Image] = field(default_factory=dict)
    versions: dict[Place, int] = field(default_factory=dict)
    pending: _Work | None = None


class _Work:
    """One transaction as it is thought out: its statements, and its keys as they will be."""

    def __init__(self, own: _Own) -> None:
        self._own = own
        self.rows: dict[Place, Image | None] = {}
        self.statements: list[tuple[str, list[Any]]] = []
        self.audit: list[list[Any]] = []

    def __getitem__(self, place: Place) -> Image | None:
        return self.rows[place] if place in self.rows else self._own.rows.get(place)

    def rev(self, place: Place) -> int:
        return self._own.versions.get(place, 0) + 1

    def put(self, place: Place, image: Image | None) -> None:
        self.rows[place] = image

    def run(self, text: str, values: Sequence[Any]) -> None:
        self.statements.append((text, list(values)))

    def insert(self, verb: str, table: str, images: Sequence[Image]) -> None:
        if images:
            self.run(*_rows_into(f"{verb} INTO {table}", [list(i.values()) for i in images]))
            for image in images:
                self.put((table, image["id"]), image)

    def sum_up(self, numbers: Iterator[int]) -> None:
        """The audit of all that, as the last statement. Of a key that was not there and is not, nothing is to be told."""
        txn = next(numbers)
        for place, became in self.rows.items():
            was = self._own.rows.get(place)
            if was is None and became is None:
                continue
            op = "c" if was is None else "d" if became is None else "u"
            self.audit.append([next(numbers), txn, *place, self.rev(place), op, _text(was), _text(became)])
        if self.audit:
            self.run(*_rows_into("INSERT INTO audit", self.audit))

    def keep(self) -> None:
        """It is committed."""
        for place, became in self.rows.items():
            if became is None and place not in self._own.rows:
                continue
            self._own.versions[place] = self.rev(place)
            if became is None:
                del self._own.rows[place]
            else:
                self._own.rows[place] = became


class CockroachWorkload(Workload):
    """Writers with keys of their own. `rows_each`: about so many rows a transaction writes at most. `rows` counts what was written."""

    databases = ("shop",) * WRITERS

    def __init__(self, connect: Connect, seed: object, *, pace_s: float = 0.03, rows_each: int = 12) -> None:
        super().__init__(connect, seed, pace_s=pace_s)
        self._rows_each = rows_each
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._own = {id(w): _Own() for w in self._writers}
        self._bulk = Writer("shop", random.Random(f"{seed} bulk"), threading.Lock())
        self._own[id(self._bulk)] = _Own()
        self.rows = 0

    def create(self) -> None:
        """The tables, their audit and some rows to begin with."""
        with self._connect("shop") as connection:
            for statement in SCHEMA:
                connection.execute(statement.encode())
            for number, writer in enumerate(self._writers):
                work = _Work(self._own[id(writer)])
                ids = [i for i in range(1, MOVIES + 1, 2) if i % WRITERS == number]
                work.insert("INSERT", "movie", [_movie(writer.rng, i, 1) for i in ids])
                work.insert("INSERT", "studio", [_studio(writer.rng, i, 1) for i in ids if i <= STUDIOS])
                self._through(connection, writer, work)

    def bulk(self) -> None:
        """One transaction of many rows, made or taken away again; as often as it takes."""
        own = self._own[id(self._bulk)]
        for _ in range(TRIES):
            try:
                with self._connect("shop") as connection:
                    self._settle(connection, own)
                    work = _Work(own)
                    ids = range(BULK_FROM + 1, BULK_FROM + BULK_ROWS + 1)
                    if own.rows:
                        work.run("DELETE FROM movie WHERE id > %s", [BULK_FROM])
                        for i in ids:
                            work.put(("movie", i), None)
                    else:
                        work.insert("INSERT", "movie", [_movie(self._bulk.rng, i, work.rev(("movie", i))) for i in ids])
                    self._through(connection, self._bulk, work)
                return
            except psycopg.OperationalError:
                self._stop.wait(0.3)
        raise AssertionError(f"many rows were not written in {TRIES} tries")

    @contextmanager
    def paused(self) -> Iterator[None]:
        with super().paused(), self._bulk.gate:
            yield

    def _transact(self, connection: psycopg.Connection, writer: Writer) -> None:
        own, rng = self._own[id(writer)], writer.rng
        self._settle(connection, own)
        work, number = _Work(own), next(n for n, w in enumerate(self._writers) if w is writer)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _think(work, rng, number, self._rows_each)
        self._through(connection, writer, work)

    def _through(self, connection: psycopg.Connection, writer: Writer, work: _Work) -> None:
        own = self._own[id(writer)]
        with self._lock:
            work.sum_up(self._numbers)
        own.pending = work
        try:
            with connection.transaction():
                for text, values in work.statements:
                    connection.execute(text.encode(), values)
                if writer.rng.random() < 0.04 and writer is not self._bulk and self._threads:
                    raise RolledBack
        except RolledBack:
            own.pending = None
            writer.undone += 1
            return
        self._committed(own, work)

    def _settle(self, connection: psycopg.Connection, own: _Own) -> None:
        """Whether a transaction counted whose connection broke: its audit says so."""
        work = own.pending
        if work is None:
            return
        if not work.audit or connection.execute("SELECT seq FROM audit WHERE seq = %s", [work.audit[0][0]]).fetchone():
            self._committed(own, work)
        own.pending = None

    def _committed(self, own: _Own, work: _Work) -> None:
        work.keep()
        own.pending = None
        self.rows += len(work.audit)


def changes(connection: psycopg.Connection, after: int) -> list[tuple[str, Change]]:
    """What the audit has after a number, in its order, with the table's name."""
    found = connection.execute("SELECT seq, txn, tbl, op, id, was, became FROM audit WHERE seq > %s ORDER BY seq", [after]).fetchall()
    return [(tbl, Change(seq, txn, op, key, row(was), row(became))) for seq, txn, tbl, op, key, was, became in found]


def _rows_into(head: str, rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    one = f"({', '.join(['%s'] * len(rows[0]))})"
    return f"{head} VALUES {', '.join([one] * len(rows))}", [v for r in rows for v in r]


def _text(image: Image | None) -> str | None:
    return None if image is None else json.dumps(image, default=lambda v: v.isoformat() if isinstance(v, datetime) else str(v))


def _title(rng: random.Random) -> str | None:
    return rng.choice((None, "", 'Ein schöner "Titel"\n', f"Film {rng.randint(1, 999)}", "x" * rng.randint(1, 300)))


def _movie(rng: random.Random, key: int, rev: int) -> Image:
    year, rating = rng.choice((None, rng.randint(1980, 2025))), rng.choice((None, Decimal(rng.randint(0, 1000)) / 100))
    changed = rng.choice((None, datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=rng.randrange(10**14))))
    values = (key, rev, _title(rng), year, rating, rng.random() < 0.7, changed, rng.choice((None, rng.randint(1, STUDIOS))))
    return dict(zip(TABLES["movie"], values, strict=True))


def _studio(rng: random.Random, key: int, rev: int) -> Image:
    return {"id": key, "rev": rev, "name": f"Studio {rng.randint(1, 999)}", "country": rng.choice((None, "AB", "CD"))}


def _think(work: _Work, rng: random.Random, number: int, rows_each: int) -> None:
    """One statement or two on keys of writer `number`."""

    def draw(most: int) -> int:
        return rng.choice(range(number or WRITERS, most + 1, WRITERS))

    place = ("movie", draw(MOVIES))
    stands, key, rev = work[place], place[1], work.rev(place)
    match rng.choices(range(11), (12, 12, 5, 6, 10, 6, 5, 4, 12, 7, 3))[0]:
        case 0:
            work.insert("UPSERT", "movie", [_movie(rng, key, rev)])
        case 1 if stands:
            title = _title(rng)
            work.run("UPDATE movie SET title = %s, rev = %s WHERE id = %s", [title, rev, key])
            work.put(place, {**stands, "title": title, "rev": rev})
        case 2 if stands:  # which changes nothing, and is told all the same
            work.run("UPDATE movie SET title = title WHERE id = %s", [key])
            work.put(place, stands)
        case 3 if stands:  # moved foreign key, in and out of the filter
            moved = {"studio_id": rng.randint(1, STUDIOS), "released": not stands["released"], "rev": rev}
            work.run("UPDATE movie SET studio_id = %s, released = %s, rev = %s WHERE id = %s", [*moved.values(), key])
            work.put(place, {**stands, **moved})
        case 4 if stands:
            work.run("DELETE FROM movie WHERE id = %s", [key])
            work.put(place, None)
        case 5 if stands:  # deleted and made again in one transaction: one change
            work.run("DELETE FROM movie WHERE id = %s", [key])
            work.insert("INSERT", "movie", [_movie(rng, key, rev)])
        case 6 if stands:  # another primary key
            other = ("movie", draw(MOVIES))
            if work[other] is None:
                image = {**stands, "id": other[1], "rev": work.rev(other)}
                work.run("UPDATE movie SET id = %s, rev = %s WHERE id = %s", [other[1], image["rev"], key])
                work.put(place, None)
                work.put(other, image)
        case 7 if not stands:  # made and gone in one transaction: nothing happened
            work.insert("INSERT", "movie", [_movie(rng, key, rev)])
            work.run("DELETE FROM movie WHERE id = %s", [key])
            work.put(place, None)
        case 8:  # many rows
            keys = {draw(MOVIES) for _ in range(rng.randint(2, rows_each))}
            work.insert("UPSERT", "movie", [_movie(rng, k, work.rev(("movie", k))) for k in sorted(keys)])
        case 9:  # reaches every movie of the studio
            studio = draw(STUDIOS)
            work.insert("UPSERT", "studio", [_studio(rng, studio, work.rev(("studio", studio)))])
        case 10:
            studio = draw(STUDIOS)
            if work["studio", studio] is not None:
                work.run("DELETE FROM studio WHERE id = %s", [studio])
                work.put(("studio", studio), None)
        case _:
            work.insert("UPSERT", "movie", [_movie(rng, key, rev)])
