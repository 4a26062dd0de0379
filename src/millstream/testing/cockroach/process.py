"""The stand-in in a process of its own, so that what is tested does not share its interpreter; faults go in as lines of text.

`python -m millstream.testing.cockroach` is the process. Its control socket, on loopback, takes one line per command and answers one line
of JSON: {"done": …} or {"error": …}. Commands are the methods of faults.Faults by name: `split movies`, `kill`, `drain 2`, `hold_resolved`,
`hold_resolved off`, `gc 0`, `refuse ann`, `cancel`, `counts`; its fields: `repeats 0.2`, `disorder 0`, `slow_s 0.01`; and `feeds`,
`sql <statement>`, `stop`; `history <table>`: every change of a table's rows so far, as it was made, [time, cause, before, after], images as
JSON in the shape of that time. Who tests a reader of feeds holds it against this.
"""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

from millstream.errors import Irrecoverable
from millstream.testing.cockroach import jsontext
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.server import CockroachServer

_STOPS_WITHIN_S = 10.0
_ANSWERS_WITHIN_S = 60.0


class CockroachProcess:
    """`with CockroachProcess("--pace", "20") as cockroach: cockroach.url`. The process ends with its parent, even one that was killed.

    Arguments are the command line's. Raises Irrecoverable where it does not start.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self._control = ("127.0.0.1", 0)

    def __enter__(self) -> CockroachProcess:
        command = [sys.executable, "-m", "millstream.testing.cockroach", "--with-parent", *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise Irrecoverable("the stand-in for CockroachDB did not start", code="server_start", where=" ".join(command))
        said = json.loads(line)
        self.url, self._control = said["url"], ("127.0.0.1", said["control"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(_STOPS_WITHIN_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def tell(self, line: str) -> Any:
        """Run one control command and give what it did. Raises Irrecoverable with its error."""
        with socket.create_connection(self._control, timeout=_ANSWERS_WITHIN_S) as connection:
            connection.sendall(line.encode() + b"\n")
            with connection.makefile() as answers:
                said = json.loads(answers.readline())
        if "error" in said:
            raise Irrecoverable(said["error"], code="server_control", where=line)
        return said["done"]


class Control(socketserver.ThreadingTCPServer):
    """Listens for commands to a server, until closed."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: CockroachServer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Commands)
        self.cockroach = server
        self.stopped = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Commands(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Control)
        for line in self.rfile:
            try:
                said = {"done": command(self.server, line.decode().strip())}
            except (SqlError, ValueError) as e:
                said = {"error": str(e)}
            self.wfile.write(json.dumps(said).encode() + b"\n")


def command(control: Control, line: str) -> Any:
    """Raises ValueError for what is no command, SqlError for SQL that failed."""
    server, faults = control.cockroach, control.cockroach.faults
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "sql":
        result = server.execute(rest)
        return {"columns": [c for c, _ in result.columns], "rows": result.rows, "tag": result.tag}
    if name == "stop":
        return control.stopped.set()
    if name == "history" and rest:
        return _history(server, rest)
    if name == "feeds":
        return server.feeds()
    if name == "counts":
        return faults.counts()
    if name == "kill":
        return faults.kill()
    if name == "cancel":
        return faults.cancel()
    if name == "split":
        return faults.split(rest or None)
    if name == "hold_resolved" and rest in ("", "on", "off"):
        return faults.hold_resolved(rest != "off")
    if name == "drain":
        return faults.drain(float(rest or 0))
    if name == "gc":
        return faults.gc(float(rest or 0))
    if name in ("repeats", "disorder", "slow_s"):
        return setattr(faults, name, float(rest))
    if name == "refuse" and rest:
        user, _, off = rest.partition(" ")
        return faults.refuse(user, off != "off")
    raise ValueError(f"no such command: {line}")


def _history(server: CockroachServer, table: str) -> list[tuple[str | None, ...]]:
    store = server.store
    with store.lock:
        found = store.find(tuple(table.split(".")))
        if found is None:
            raise ValueError(f"no such table: {table}")
        told: list[tuple[str | None, ...]] = []
        for c in found.log:
            shape = found.descriptor(c.hlc)
            assert shape is not None
            images = [None if i is None else jsontext.row(shape, i, server.version) for i in (c.before, c.after)]
            told.append((str(c.hlc), c.cause, *images))
        return told
