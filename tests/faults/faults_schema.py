"""A world whose table changes its columns under load: one database, pipelines of every kind over it, and what must come of each.

The audit has every row as it was written, in the shape that the table had then. What old rows have in a later shape is said by hand,
beside each `ALTER TABLE`, and Postgres says it of the table itself.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from faults_events import Change, Event, Row, changes, row
from faults_files import batches_after, by_id, drop_database, events_of, lake_of, lines_of, opened_topics
from faults_hook import Hook
from faults_oracle import rows, written
from faults_project import Project, until
from faults_schema_oracle import Told, Wanted, changelog, complaints_of, source_topic
from pyiceberg.catalog import load_catalog

from millstream.errors import Refused
from millstream.sinks.search.query import search
from millstream.topics.local import LocalTopics

MOVIES, STUDIOS = 120, 12  # ids are drawn from 1 to these
QUIET = "1001, 1030"  # from and to: ids of rows that nobody changes
MOVIE, STUDIO = "studio.public.movie", "studio.public.studio"

_TABLES = """
CREATE TABLE studio (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE movie (id bigint PRIMARY KEY, title text, year integer, rating numeric(6,2), note text, studio_id bigint);
CREATE TABLE audit (seq bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), tbl text NOT NULL, op text NOT NULL,
                    before jsonb, after jsonb);
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit (tbl, op, before, after) VALUES (TG_TABLE_NAME, TG_OP,
    CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
  RETURN NULL;
END $$;
"""
_AUDITED = """
ALTER TABLE movie REPLICA IDENTITY FULL;
ALTER TABLE studio REPLICA IDENTITY FULL;
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON movie FOR EACH ROW EXECUTE FUNCTION audited();
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON studio FOR EACH ROW EXECUTE FUNCTION audited();
"""

_MESH = "mesh: altered\nnotify: {webhook: '${HOOK_URL}', webhook_hosts: [127.0.0.1]}\n"
_SOURCE = """\
source: studio
connector: postgres
url: ${STUDIO_URL}
slot: ${STUDIO_SLOT}
tables: [public.movie, public.studio]
owner: team-studio
"""

Alteration = Callable[[Row], object]
"""Changes a row of the table's shape before into one of its shape after; nothing where the row has that already."""


def pipeline(name: str, sql: str, *sinks: str, follow: bool = False) -> str:
    """A pipeline's file. Its step has its name, and so have its sinks' targets."""
    targets = {"jsonl": f"file: {name}.jsonl", "search": f"index: {name}", "iceberg": f"table: lake.{name}, mode: changelog"}
    lines = [f"pipeline: {name}", f"owner: team-{name}", f"evolve: {'follow' if follow else 'pinned'}"]
    lines += ["steps:", f"  - name: {name}", f"    sql: {sql}", *(["    key: [id]"] if "JOIN" in sql else []), "sinks:"]
    return "\n".join(lines + [f"  - {{from: {name}, {sink}: {{{targets[sink]}}}}}" for sink in sinks]) + "\n"


@dataclass(frozen=True)
class Pipeline:
    """One pipeline and what must come of it: see Wanted."""

    sql: str
    sinks: tuple[str, ...]
    wanted: Wanted
    follow: bool = False


class Altered:
    """Enter it: the database is made, the mesh is applied and has caught up, the workload writes. `hook` is where owners are told."""

    _numbers = count(1)
    definition = _SOURCE

    def __init__(self, server: Any, folder: Path, pipelines: dict[str, Pipeline], *, seed: object, pace_s: float = 0.02) -> None:
        self._server, self.database = server, f"altered_{next(self._numbers)}"
        self.pipelines = dict(pipelines)
        self._make()
        files = {"mesh.yaml": _MESH, "sources/studio.yaml": self.definition}
        files |= {f"pipelines/{name}.yaml": pipeline(name, p.sql, *p.sinks, follow=p.follow) for name, p in pipelines.items()}
        self.hook = Hook()
        settings = {"STUDIO_URL": server.url(self.database), "STUDIO_SLOT": self.database, "HOOK_URL": self.hook.url}
        self.project = Project(folder, settings, files)
        self.workload = self._writer(seed, pace_s)
        self._alterations: list[Alteration] = []
        self._events: dict[str, list[Told]] = {}

    def _make(self) -> None:
        """The database with its tables and first rows."""
        self._server.create_database(self.database)
        with self.connect() as connection:
            connection.execute(_TABLES)
            connection.execute(f"INSERT INTO studio SELECT i, 'Studio ' || i FROM generate_series(1, {STUDIOS}, 2) i".encode())
            connection.execute(
                f"INSERT INTO movie SELECT i, 'Movie ' || i, 1980 + i % 45, i % 100 / 10.0, 'note ' || i, 1 + i % {STUDIOS} "
                f"FROM generate_series(1, {MOVIES}, 2) i".encode()
            )
            connection.execute(f"INSERT INTO movie SELECT i, 'Old ' || i, 2001, 1, NULL, 1 FROM generate_series({QUIET}) i".encode())
            connection.execute(_AUDITED)  # what is there before the first change is read, and that the replay shows

    def _writer(self, seed: object, pace_s: float) -> Writer:
        return Writer(self.connect, seed, pace_s)

    def _drop(self) -> None:
        drop_database(self._server, self.database)

    def __enter__(self) -> Altered:
        self.project.command("apply")
        self.project.catch_up()
        self.workload.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.project.close()
        self.hook.close()
        try:
            self.workload.stop()
        finally:
            self._drop()

    def connect(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = self._server.connect(self.database)
        return connection

    # ---- what is done

    def alter(self, actions: str, becomes: Alteration) -> None:
        """`ALTER TABLE movie actions`, beside the workload."""
        with self.connect() as connection:
            connection.execute(f"ALTER TABLE movie {actions}".encode())
        self._alterations.append(becomes)

    def edit(self, name: str, sql: str, wanted: Wanted) -> None:
        """As the pipeline's owner does."""
        self.pipelines[name] = p = replace(self.pipelines[name], sql=sql, wanted=wanted)
        text = pipeline(name, sql, *p.sinks, follow=p.follow)
        (self.project.folder / f"pipelines/{name}.yaml").write_text(text)

    def expect(self, name: str, wanted: Wanted) -> None:
        """From now on this must come of the pipeline as it is."""
        self.pipelines[name] = replace(self.pipelines[name], wanted=wanted)

    def written(self, transactions: int = 30) -> None:
        """Wait for the workload to have done so much more."""
        before = self.workload.transactions
        until("the workload goes on", lambda: self.workload.transactions >= before + transactions)

    # ---- what there is

    def now(self, found: Row) -> Row:
        """A row of the table, of any time, in the shape that the table has now."""
        found = dict(found)
        for becomes in self._alterations:
            becomes(found)
        return found

    def audit(self, table: str) -> list[Change]:
        with self.connect() as connection:
            found = connection.execute(
                "SELECT seq, xid::text::bigint, op, before::text, after::text FROM audit WHERE tbl = %s ORDER BY seq", [table]
            ).fetchall()
        return [c for seq, xid, op, was, became in found for c in changes(seq, xid, op, was, became)]

    def truth(self, sql: str) -> dict[int, Row]:
        """What Postgres makes of a query over the tables as they are now."""
        with self.connect() as connection:
            return by_id(connection, sql)

    def topics(self) -> AbstractContextManager[LocalTopics]:
        return opened_topics(self.project)

    def events(self, topics: LocalTopics, name: str) -> list[Told]:
        """All events of a topic as they were written, each in its own version of the schema."""
        known = self._events.setdefault(name, [])
        for batch in batches_after(topics, name, known):
            known += [Told(**vars(e), schema=batch.schema) for e in events_of(batch)]
        return known

    def lines(self, name: str) -> list[Event]:
        return lines_of(self.project, f"{name}.jsonl")

    def index(self, name: str) -> list[Row]:
        try:
            hits = search(self.project.state, name, "*", 10_000).hits
        except Refused as error:
            raise AssertionError(f"index {name} cannot be asked: {error}") from None
        return [row(json.dumps(h.document)) or {} for h in hits]

    def lake(self, name: str) -> list[dict[str, Any]]:
        """Every row of an Iceberg table."""
        found = load_catalog(**lake_of(self.project)).load_table(f"lake.{name}").scan().to_arrow().to_pylist()
        return [{k: v if k.startswith("_") else (row({k: v}) or {})[k] for k, v in f.items()} for f in found]

    def parts(self) -> dict[str, dict[str, Any]]:
        """What `millstream status` says of each part."""
        process = self.project.start("--json", "status")
        code = process.wait()
        assert code in (0, 1, 4), process.words
        return {p["part"]: p for p in json.loads(process.words)["parts"]}

    def paused(self) -> set[str]:
        """The parts that are, as the running process says."""
        with closing(sqlite3.connect(f"file:{self.project.state / 'mesh.db'}?mode=ro", uri=True, timeout=10)) as connection:
            return {name for name, state in connection.execute("SELECT part, state FROM catalogue_states") if state == "paused"}

    def history(self, topic: str) -> list[dict[str, Any]]:
        """What `millstream schemas history` says of a topic's versions."""
        return list(self.project.json("schemas", "history", topic)["versions"])

    def until_up_to_date(self, but: Collection[str] = ()) -> None:
        """Wait for all parts of the running process but these. The workload must be paused."""
        with self.topics() as topics:  # asked before `status` is, which takes a process each time

            def read() -> bool:
                there = {reader: places for reader, places in topics.readers().items() if reader not in but}
                return all(offset >= topics.end(topic) for places in there.values() for topic, offset in places.items())

            until("all is read", read)
        until("all are up to date", lambda: self.behind() <= set(but))

    def behind(self) -> set[str]:
        """The parts that have not read all that their topics hold, or have keys that wait to be refreshed."""
        return {name for name, p in self.parts().items() if p["lag"] or p["figures"].get("pending")}

    # ---- the verdict

    def complaints(self, but: Collection[str] = ()) -> list[str]:
        said: list[str] = []
        with self.topics() as topics:
            for table in ("movie", "studio"):
                events = self.events(topics, f"studio.public.{table}")
                said += self.complaints_of_source(table, events)
            for name, p in self.pipelines.items():
                if name in but:
                    continue
                topic = f"{name}.{name}"
                events = self.events(topics, topic)
                source = self.events(topics, p.wanted.input) if p.wanted.input else []
                said += complaints_of(topic, events, source, p.wanted, self.truth(p.wanted.truth))
                said += self._complaints_of_sinks(name, p, events)
        return said

    def complaints_of_source(self, table: str, events: Sequence[Told]) -> list[str]:
        now = self.now if table == "movie" else (lambda found: found)
        return source_topic(f"studio.public.{table}", events, self.audit(table), now, self.truth(f"SELECT * FROM {table}"))

    def _complaints_of_sinks(self, name: str, p: Pipeline, events: Sequence[Told]) -> list[str]:
        said: list[str] = []
        if "jsonl" in p.sinks:
            said += written(f"{name}.jsonl", events, self.lines(name))
        if "search" in p.sinks:
            now = events[-1].schema.names if events and events[-1].schema else ()
            # A document is not made anew for a column that came without a value for old rows, nor for one that went.
            documents = [{c: d.get(c) for c in now} for d in self.index(name)]
            said += rows(f"index {name}", documents, self.truth(p.wanted.truth))
        if "iceberg" in p.sinks:
            said += changelog(f"iceberg {name}", events, self.lake(name))
        return said

    def check(self, *, code: int = 0) -> None:
        """Bring everything up to date without a fault and hold it against the truth. `code`: 4 while something is paused."""
        with self.workload.paused():
            self.project.command("run", "--until-caught-up", code=code)
            self.verdict()

    def verdict(self, but: Collection[str] = ()) -> None:
        """The workload must be paused, and all be caught up but the pipelines `but`."""
        said = self.complaints(but)
        if said:
            kept = self.project.folder / "complaints.txt"
            kept.write_text("\n".join(said))
            raise AssertionError("\n".join(said[:12]) + f"\n{len(said)} in all, in {kept}")


class Writer:
    """Random transactions on both tables, whatever columns they have at the moment, until `stop`."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], seed: object, pace_s: float) -> None:
        self._connect, self._rng, self._pace_s = connect, random.Random(str(seed)), pace_s
        self._stop, self._gate = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._failure: BaseException | None = None
        self.transactions = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is written and no transaction is open inside."""
        with self._gate:
            if self._failure is not None:
                raise self._failure
            yield

    def _write(self) -> None:
        rng = self._rng
        try:
            with self._connect() as connection:
                connection.prepare_threshold = None  # a prepared one would know the columns of earlier
                while not self._stop.wait(min(rng.expovariate(1 / self._pace_s), 20 * self._pace_s)):
                    with self._gate:
                        with connection.transaction(force_rollback=rng.random() < 0.05):
                            connection.execute("LOCK TABLE movie IN ROW EXCLUSIVE MODE")  # so that its columns stay as they are
                            columns = _columns(connection)
                            for _ in range(rng.choice((1, 1, 1, 2, 5))):
                                connection.execute(*statement(rng, columns))
                        self.transactions += 1
        except BaseException as error:
            self._failure = error


def _columns(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The table's columns but its key, with their types."""
    sql = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'movie'::regclass AND attnum > 1 AND NOT attisdropped ORDER BY attnum"
    )
    return dict(connection.execute(sql).fetchall())


def _value(rng: random.Random, column: str, type_: str) -> object:
    if column == "studio_id":
        return rng.choice((None, rng.randint(1, STUDIOS)))
    if rng.random() < 0.2:
        return None
    if type_ in ("integer", "bigint"):
        return rng.choice((rng.randint(1980, 2025), 1 << 40)) if type_ == "bigint" else rng.randint(1980, 2025)
    if type_.startswith("numeric"):
        return Decimal(rng.randint(0, 999)) / 100
    return rng.choice(("", 'Ein schöner "Titel"\n', f"text {rng.randint(1, 999)}", "x" * rng.randint(1, 200)))


def statement(rng: random.Random, columns: dict[str, str]) -> tuple[bytes, list[object]]:
    movie, other, studio = rng.randint(1, MOVIES), rng.randint(1, MOVIES), rng.randint(1, STUDIOS)
    some = rng.sample(sorted(columns), rng.randint(1, len(columns)))
    values = [_value(rng, c, columns[c]) for c in some]
    match rng.choices(range(9), (20, 25, 10, 4, 6, 6, 4, 3, 2))[0]:
        case 0:  # what is not given is what the table's defaults say
            names, places = ", ".join(some), ", ".join(["%s"] * len(some))
            return f"INSERT INTO movie (id, {names}) VALUES (%s, {places}) ON CONFLICT DO NOTHING".encode(), [movie, *values]
        case 1:
            return f"UPDATE movie SET {', '.join(f'{c} = %s' for c in some)} WHERE id = %s".encode(), [*values, movie]
        case 2:
            return b"DELETE FROM movie WHERE id = %s", [movie]
        case 3:
            return b"UPDATE movie SET studio_id = studio_id WHERE id = %s", [movie]
        case 4:  # another primary key
            return b"UPDATE movie SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM movie WHERE id = %s)", [other, movie, other]
        case 5:  # many rows
            return f"UPDATE movie SET {some[0]} = %s WHERE id BETWEEN %s AND %s".encode(), [values[0], movie, movie + 15]
        case 6:
            return b"INSERT INTO studio VALUES (%s, %s) ON CONFLICT DO NOTHING", [studio, f"Studio {rng.randint(1, 99)}"]
        case 7:
            return b"UPDATE studio SET name = %s WHERE id = %s", [f"Studio {rng.randint(100, 999)}", studio]
        case _:
            return b"DELETE FROM studio WHERE id = %s", [studio]
