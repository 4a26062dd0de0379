"""psycopg 3, and libpq under it, against the wire protocol alone: the statements' answers are scripted."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
import pytest
from psycopg.crdb import CrdbConnection

from millstream.testing.cockroach import answers, messages, wire
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.parameters import gives_rows, parameter_count

PASSWORDS = {"root": None, "ann": "s3cret, π"}


class Scripted:
    """Answers by the statement's text."""

    def __init__(self, host: Host) -> None:
        self.status, self._host = "I", host

    def run(self, sql, parameters, running, gone) -> answers.Answer:
        self._host.ran.append((sql, parameters))
        if sql == "SELECT endless":
            return answers.Answer([("table", 25), ("key", 17)], self._endless(running, gone), lambda: "SELECT")
        if sql.startswith("SELECT wrong"):
            raise SqlError("42703", 'column "wrong" does not exist\nDETAIL:  source SQL:\nSELECT wrong\n       ^\nHINT:  try \\h SELECT')
        if sql.startswith("SELECT broken"):
            raise ZeroDivisionError("of the stand-in's own")
        if sql == "SELECT many":
            return answers.Answer([("n", 20)], iter([[(str(n),) for n in range(10)]]), lambda: "SELECT 10")
        if sql.startswith("SELECT"):
            row = tuple(parameters) or (None,)
            return answers.Answer([("?column?", 25)] * len(row), iter([[row]]), lambda: "SELECT 1")
        return answers.Answer(None, iter(()), lambda: "INSERT 0 1")

    def _endless(self, running: answers.Running, gone) -> Iterator[Sequence[messages.Row]]:
        n = 0
        try:
            while not gone():
                yield [("t", f"[{n}]")]
                n += 1
                running.wake.wait(0.02)
                running.check()
        finally:
            self._host.feeds_ended.set()

    def together(self, statements) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None: ...


class Host:
    """A listening socket that gives every connection a thread, and remembers what it was asked."""

    def __init__(self, clear_passwords: bool = False) -> None:
        self.settings = {"crdb_version": "CockroachDB CCL v26.1.0"}
        self.clear_passwords = clear_passwords
        self.ran: list[tuple[str, Sequence[str | None]]] = []
        self.open: dict[int, wire.Connection] = {}
        self.feeds_ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=wire.Connection(peer, self).serve, daemon=True).start()

    def password(self, user: str) -> str | None:
        if user not in PASSWORDS:
            raise SqlError("28P01", f"password authentication failed for user {user}")
        return PASSWORDS[user]

    def admit(self, user, database, application, connection) -> tuple[Scripted, int, int]:
        self.open[len(self.open)] = connection
        return Scripted(self), len(self.open) - 1, 77

    def cancel(self, process: int, secret: int) -> None:
        if secret == 77:
            self.open[process].running.end(SqlError("57014", "query execution canceled"))

    def left(self, connection: wire.Connection) -> None: ...

    def connect(self, **more) -> psycopg.Connection:
        return psycopg.connect(host="127.0.0.1", port=self.port, autocommit=True, **{"user": "root", "dbname": "defaultdb", **more})

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.open.values():
            connection.shut()


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def test_a_client_sees_cockroach(host: Host) -> None:
    with host.connect() as connection:
        assert CrdbConnection.is_crdb(connection)
        assert connection.info.parameter_status("client_encoding") == "UTF8"


def test_simple_and_extended_queries(host: Host) -> None:
    with host.connect() as connection:
        assert connection.execute("SELECT 'a;b'; -- nothing; here").fetchall() == [(None,)]
        assert connection.execute("SELECT %s, %s, %s", ("ü", None, 2**40)).fetchall() == [("ü", None, "1099511627776")]
        assert connection.execute("INSERT INTO t VALUES (1)").rowcount == 1
    assert [sql for sql, _ in host.ran] == ["SELECT 'a;b'", "SELECT $1, $2, $3", "INSERT INTO t VALUES (1)"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (7, "7"),
        (-(2**20), "-1048576"),
        (0.5, "0.5"),
        (b"\x00\xff", "\\x00ff"),
        (date(1969, 7, 20), "1969-07-20"),
        (datetime(2024, 1, 2, 3, 4, 5, 678901), "2024-01-02 03:04:05.678901"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02 03:04:05+00:00"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    ],
)
def test_parameters_in_binary(host: Host, value: object, text: str) -> None:
    with host.connect() as connection:
        assert connection.execute("SELECT %b", (value,)).fetchone() == (text,)


def test_what_is_not_read_in_binary_is_refused_by_name(host: Host) -> None:
    with host.connect() as connection:
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="1700"):
            connection.execute("SELECT %b", (Decimal(1),))
        assert connection.execute("SELECT %s", ("still here",)).fetchone() == ("still here",)


def test_prepared_statements_and_a_result_in_parts(host: Host) -> None:
    with host.connect(prepare_threshold=0) as connection:
        for n in range(3):
            assert connection.execute("SELECT %s", (str(n),)).fetchone() == (str(n),)
        connection.execute("DEALLOCATE ALL")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            connection.execute("SELECT %s", ("it was there",))
    with host.connect() as connection, connection.cursor() as cursor:
        assert [int(n) for (n,) in cursor.stream("SELECT many", size=3)] == list(range(10))


def test_an_error_keeps_its_fields_and_the_connection(host: Host) -> None:
    with host.connect() as connection:
        for parameters in ((), ("x",)):
            with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
                connection.execute("SELECT wrong" + ", %s" * len(parameters), parameters)
            assert caught.value.diag.message_primary == 'column "wrong" does not exist'
            assert caught.value.diag.message_hint == "try \\h SELECT"
            assert str(caught.value).endswith("DETAIL:  source SQL:\nSELECT wrong\n       ^\nHINT:  try \\h SELECT")
        assert connection.execute("SELECT 1").fetchone() == (None,)


def test_a_defect_of_the_stand_in_is_told_as_one(host: Host) -> None:
    with host.connect() as connection:
        for parameters in ((), ("x",)):
            with pytest.raises(psycopg.errors.InternalError_, match="of the stand-in's own"):
                connection.execute("SELECT broken" + ", %s" * len(parameters), parameters)
        assert connection.execute("SELECT 1").fetchone() == (None,)


def test_an_endless_result_gives_each_row_as_it_comes_and_is_cancelled(host: Host) -> None:
    with host.connect() as connection, connection.cursor() as cursor:
        rows = cursor.stream("SELECT endless")
        assert [next(rows)[1] for _ in range(5)] == [f"[{n}]".encode() for n in range(5)]
        connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled, match="query execution canceled"):
            list(rows)
        assert connection.execute("SELECT 1").fetchone() == (None,)


def test_a_client_that_leaves_ends_its_endless_result(host: Host) -> None:
    connection = host.connect()
    rows = connection.cursor().stream("SELECT endless")
    next(rows)
    connection.pgconn.finish()
    assert host.feeds_ended.wait(5)


def test_a_connection_is_broken_off_in_mid_message(host: Host) -> None:
    with host.connect() as connection, connection.cursor() as cursor:
        rows = cursor.stream("SELECT endless")
        next(rows)
        host.open[0].running.break_off()
        with pytest.raises(psycopg.OperationalError) as caught:
            list(rows)
        assert caught.value.sqlstate is None


@pytest.mark.parametrize("before", [[], [("t", b"[1]")]])
def test_what_is_cut_ends_within_a_message(before: list[messages.Row]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire_bytes = messages.Messages.__new__(messages.Messages)
        wire_bytes._socket, wire_bytes._in, wire_bytes._out = ours, bytearray(), bytearray()
        wire_bytes.rows(before)
        wire_bytes.cut()
        came = theirs.recv(10_000)
        assert theirs.recv(1) == b""
    whole = 0
    while len(came) >= 5 and len(came) > int.from_bytes(came[1:5]):
        came, whole = came[1 + int.from_bytes(came[1:5]) :], whole + 1
    assert whole == len(before)
    assert came[:1] == b"D"


@pytest.mark.parametrize("clear", [False, True])
def test_passwords(clear: bool) -> None:
    with Host(clear_passwords=clear) as host:
        with host.connect(user="ann", password=PASSWORDS["ann"]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (None,)
        for user, password in (("ann", "guess"), ("nobody", "guess")):
            with pytest.raises(psycopg.OperationalError, match=f"password authentication failed for user {user}"):
                host.connect(user=user, password=password)


def test_tls_is_refused_and_a_client_that_wants_it_stays_away(host: Host) -> None:
    host.connect(sslmode="prefer").close()
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        host.connect(sslmode="require")


def test_any_bytes_end_one_connection_only(host: Host) -> None:
    for noise in (b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x08\0\3\0\0" + b"Q\xff\xff\xff\xff", b"\0\0\0\5x", b"\0\0"):
        with socket.create_connection(("127.0.0.1", host.port)) as raw:
            raw.sendall(noise)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(5)
            while raw.recv(1000):
                continue
    host.connect().close()


def test_what_a_statement_takes_and_gives() -> None:
    assert parameter_count("SELECT '$9', $2, \"$7\", $1 -- $8") == 2
    giving = "select 1", "CREATE CHANGEFEED FOR t", "insert into t values (1) returning x", "SHOW CLUSTER SETTING x"
    assert all(map(gives_rows, giving))
    assert not any(map(gives_rows, ("INSERT INTO t VALUES ('RETURNING')", "CREATE TABLE t (x INT)", "", "SET a = 1")))
