"""The stand-in as a whole: the catalogue as of any time, refusals as recorded, and a server in a process of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from feed_reading import OPTIONS, QUICK, read

from millstream.errors import Irrecoverable
from millstream.sources.cockroach import statements
from millstream.sources.names import TableName
from millstream.testing.cockroach.faults import Faults
from millstream.testing.cockroach.process import CockroachProcess
from millstream.testing.cockroach.server import CockroachServer

RECORDED = Path(__file__).parents[2] / "golden" / "cockroach"


@pytest.fixture
def server() -> Iterator[CockroachServer]:
    with CockroachServer(timing=QUICK) as server:
        yield server


@pytest.fixture
def connection(server: CockroachServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        yield connection


# ---- the catalogue, asked in the connector's own words


def test_tables_their_columns_and_keys(server: CockroachServer, connection: psycopg.Connection) -> None:
    server.execute("CREATE TABLE t (a STRING, b DECIMAL(10,2) NOT NULL DEFAULT 1.5, c INT8 AS (1) STORED, v INT8 AS (2) VIRTUAL, "
                   "k INT8, PRIMARY KEY (a, k DESC))")  # fmt: skip
    server.execute("COMMENT ON COLUMN t.b IS 'money'")
    server.execute("CREATE TABLE nokey (x STRING)")
    server.execute("CREATE VIEW w AS SELECT a FROM t")
    assert connection.execute(statements.VERSION).fetchone()[0].startswith("CockroachDB CCL v26.1.")
    assert connection.execute(statements.RANGEFEEDS).fetchone() == (True,)
    found = {name: (oid, kind) for oid, _, name, kind in connection.execute(statements.RELATIONS).fetchall()}
    assert {name: kind for name, (_, kind) in found.items()} == {"t": "r", "nokey": "r", "w": "v"}
    oid = found["t"][0]
    assert connection.execute(statements.find([TableName.parse("public.t")])).fetchall() == [(oid, "public", "t", "r")]
    shown = {row[4]: row[5:] for row in connection.execute(statements.columns([oid])).fetchall()}
    assert shown["a"][:4] == ("STRING", "NO", "NO", "")
    assert shown["b"][0] == "DECIMAL(10,2)"
    assert shown["b"][4].startswith("1.5")
    assert shown["b"][5] == "money"
    assert (shown["c"][3], shown["v"][3]) == ("s", "v")
    keys = connection.execute(statements.keys([oid, found["nokey"][0]])).fetchall()
    assert keys == [(oid, "a", "ASC"), (oid, "k", "DESC"), (found["nokey"][0], "rowid", "ASC")]
    assert [r[6] for r in connection.execute(statements.outlines([oid])).fetchall()] == [True, True, False, False, True]
    assert connection.execute(statements.readable([oid])).fetchall() == [(oid, True)]
    names = [c.name for c in connection.execute(statements.statistics(TableName.parse("public.t"))).description]
    assert {"created", "row_count"} <= set(names)


def test_the_catalogue_as_it_was(server: CockroachServer, connection: psycopg.Connection) -> None:
    server.execute("CREATE TABLE t (id INT8 PRIMARY KEY, a STRING)")
    oid = server.store.find(("t",)).now.id
    first = server.store.now()
    server.execute("ALTER TABLE t ADD COLUMN b STRING")
    server.execute("ALTER TABLE t RENAME COLUMN a TO c")
    second = server.store.now()
    server.execute("DROP TABLE t")

    def columns(at: object) -> dict[int, str]:
        return {row[3]: row[4] for row in connection.execute(statements.columns([oid], None if at is None else str(at))).fetchall()}

    assert list(columns(first).values()) == ["id", "a"]
    now = columns(second)
    assert sorted(now.values()) == ["b", "c", "id"]
    assert now[2] == "c"
    assert columns(None) == {}
    server.faults.gc()
    with pytest.raises(psycopg.Error, match="GC threshold"):
        columns(first)


def test_an_old_server_tells_which_change_is_under_way() -> None:
    with CockroachServer("22.1", timing=QUICK) as server, psycopg.connect(server.url(), autocommit=True) as connection:
        server.execute("CREATE TABLE t (id INT8 PRIMARY KEY, a STRING)")
        server.execute("INSERT INTO t VALUES (1, 'x')")
        before = server.store.now()
        server.execute("ALTER TABLE t ADD COLUMN d STRING DEFAULT 'y'")
        table = server.store.find(("t",))
        (rewritten,) = {c.hlc for c in table.log if c.cause == "schema" and c.mvcc == c.hlc}
        asked = {at: connection.execute(statements.running_changes([table.now.id], str(at))).fetchall() for at in (before, rewritten)}
        assert asked == {before: [], rewritten: [(table.now.id,)]}


def test_a_guarded_or_unknown_catalogue_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="crdb_internal"):
        connection.execute("SELECT * FROM crdb_internal.schema_changes")
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM pg_catalog.pg_rules")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("SELECT nope FROM pg_catalog.pg_class")


def test_a_text_that_names_the_catalogue_is_no_question_to_it(server: CockroachServer, connection: psycopg.Connection) -> None:
    server.execute("CREATE TABLE t (a STRING PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES ('pg_catalog.pg_class')")
    assert connection.execute("SELECT a FROM t WHERE a = 'pg_catalog.pg_class'").fetchall() == [("pg_catalog.pg_class",)]


# ---- statements


def test_rows_and_transactions_over_the_wire(server: CockroachServer, connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE t (id INT8 PRIMARY KEY, a STRING, d DECIMAL(6,2))")
    with connection.transaction():
        connection.execute("INSERT INTO t VALUES (%s, %s, %s)", (1, "é", "1.5"))
    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        connection.execute("INSERT INTO t VALUES (2, 'lost', NULL)")
        connection.execute("INSERT INTO t VALUES (1, 'again', NULL)")
    assert connection.execute("SELECT id, a, d::STRING FROM t").fetchall() == [(1, "é", "1.50")]
    connection.execute("INSERT INTO t VALUES (3, 'c', NULL); INSERT INTO t VALUES (4, 'd', NULL)")
    table = server.store.find(("t",)).now
    times = {c.hlc for c in server.store.changes(table.id, table.since, server.store.now()) if c.key[0] in (3, 4)}
    assert len(times) == 1


@pytest.mark.parametrize("version", ["26.1", "22.1"])
def test_refusals_are_those_that_were_recorded(version: str) -> None:
    lines = [json.loads(line) for line in (RECORDED / f"v{version}-alpha" / "10_errors.jsonl").read_text().splitlines()]
    refused = {line["feed"]: line for line in lines if line["kind"] == "feed_error" and line["sqlstate"] != "57014"}
    compared = 0
    with CockroachServer(version, timing=QUICK) as server:
        server.execute("CREATE USER plain")
        for line in lines:
            if line["kind"] == "sql" and not line["sql"].startswith(("CANCEL", "GRANT CHANGEFEED" if version == "22.1" else "CANCEL")):
                server.execute(line["sql"])
            expected = refused.get(line.get("feed"))
            if line["kind"] != "changefeed" or expected is None:
                continue
            user = "plain" if line["feed"] in ("no-privilege", "with-select", "with-changefeed-privilege") else "root"
            with pytest.raises(psycopg.Error) as caught:
                read(server.url(user=user), line["sql"], lambda told: False)
            assert (caught.value.sqlstate, str(caught.value)) == (expected["sqlstate"], expected["message"])
            compared += 1
    assert compared >= 13


def test_passwords_and_the_rangefeed_setting() -> None:
    with CockroachServer(timing=QUICK, passwords={"ann": "s%cret:/@"}, faults=Faults(repeats=0)) as server:
        with psycopg.connect(server.url(user="ann")) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("ann",)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed for user ann"):
            psycopg.connect(server.url(user="ann"), password="guess")
        server.execute("SET CLUSTER SETTING kv.rangefeed.enabled = false")
        server.execute("CREATE TABLE t (id INT8 PRIMARY KEY)")
        with pytest.raises(psycopg.Error, match=r"rangefeeds require the kv\.rangefeed\.enabled setting"):
            read(server.url(), "CREATE CHANGEFEED FOR t", lambda told: False)


# ---- a process of its own


def test_a_process_of_its_own_is_told_what_to_do_wrong() -> None:
    with CockroachProcess("--pace", "100", "--repeats", "0", "--version", "22.1", "--password", "ann=x") as cockroach:
        cockroach.tell("sql CREATE TABLE t (id INT8 PRIMARY KEY)")
        cockroach.tell("sql INSERT INTO t VALUES (1)")
        assert cockroach.tell("sql SELECT id FROM t") == {"columns": ["id"], "rows": [["1"]], "tag": "SELECT 1"}
        ((_, *change),) = cockroach.tell("history t")
        assert change == ["write", None, '{"id": 1}']

        def until(told: list) -> bool:
            if told[-1].is_resolved and sum(t.is_resolved for t in told) == 1:  # others may be on their way when the feed is killed
                cockroach.tell("split t")
                assert cockroach.tell("feeds") == 1
                cockroach.tell("kill")
            return False

        with pytest.raises(psycopg.OperationalError):
            read(cockroach.url, f"CREATE CHANGEFEED FOR t WITH {OPTIONS}", until)
        assert cockroach.tell("counts")["changefeed"] == 1
        for wrong in ("sql SELECT nope", "explode", "history nope", "drain soon", "split"[:3]):
            with pytest.raises(Irrecoverable):
                cockroach.tell(wrong)
        cockroach.tell("stop")


def test_a_process_that_cannot_start_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Irrecoverable, match="did not start"):
        CockroachProcess("--port", str(taken.getsockname()[1])).__enter__()
