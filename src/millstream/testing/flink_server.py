"""A real Flink for tests: JobManager, TaskManager and SQL Gateway as child processes on free loopback ports, and a session to it.

They stop with their parent, even one that was killed. Statements run in batch mode, with UTC as the time zone.
Reference: Flink 2.3, "SQL Gateway, REST Endpoint" v4.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from millstream.errors import Irrecoverable, Refused, Retryable
from millstream.testing.flink_files import jars, java

_STARTS_WITHIN_S = 180.0
_STATEMENT_WITHIN_S = 240.0
_STOPS_WITHIN_S = 10.0
_PAUSE_S = 0.05
_ENDED = frozenset({"FINISHED", "ERROR", "CANCELED", "CLOSED", "TIMEOUT"})

# $@ is first the folder that nobody will want, then the processes.
_WATCH = 'read _; folder=$1; shift; kill -9 "$@"; rm -rf "$folder"'

_PROGRAMS = {
    "jobmanager": ("org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", "512m"),
    "taskmanager": ("org.apache.flink.runtime.taskexecutor.TaskManagerRunner", "768m"),
    "gateway": ("org.apache.flink.table.gateway.SqlGateway", "512m"),
}
_OPENED = """
java.base/java.lang java.base/java.net java.base/java.io java.base/java.nio java.base/sun.nio.ch java.base/java.lang.reflect
java.base/java.text java.base/java.time java.base/java.util java.base/java.util.concurrent java.base/java.util.concurrent.atomic
java.base/java.util.concurrent.locks
"""
_EXPORTED = "java.rmi/sun.rmi.registry java.security.jgss/sun.security.krb5"


class StatementFailed(Refused):
    """Flink refused a statement, or its job failed. The message is Flink's innermost reason."""


@dataclass(frozen=True)
class Answer:
    """The columns of a result, as (name, Flink's type), and its rows as JSON values, numbers with a point as Decimal."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Any, ...], ...]


class FlinkServer:
    """`with FlinkServer() as flink: flink.sql("SELECT 1")`. `settings` are Flink's configuration, over our own.

    Raises Refused where Java or Flink's jars cannot be had.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._java, self._jars = java(), jars()
        self._home = Path(tempfile.mkdtemp(prefix="millstream-flink-"))
        self._rpc, self._rest, self._gateway = _free_ports(3)
        self._settings = {**_settings(self._rpc, self._rest, self._gateway, self._home), **(settings or {})}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watcher: subprocess.Popen[bytes] | None = None
        self._session: str | None = None

    # ---- life

    def __enter__(self) -> FlinkServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> FlinkServer:
        """Start the three and return when statements are taken."""
        (self._home / "plugins").mkdir()  # none, and Flink warns where there is no such folder
        (self._home / "config.yaml").write_text(json.dumps(self._settings), encoding="utf-8")  # JSON is YAML
        for name in _PROGRAMS:
            self._processes[name] = self._launch(name)
        pids = [str(p.pid) for p in self._processes.values()]
        # Ends them when its own standard input ends, which is when this process does, however that came about.
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "watch", str(self._home), *pids], stdin=subprocess.PIPE, start_new_session=True
        )
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while not self._ready():
            ended = [name for name, p in self._processes.items() if p.poll() is not None]
            if ended or time.monotonic() > give_up:
                log = "\n".join(self.log_tail(name) for name in ended or _PROGRAMS)
                self.stop()
                raise Irrecoverable(f"Flink did not start ({', '.join(ended) or 'too slow'}):\n{log}", code="server_start")
            time.sleep(_PAUSE_S)
        self._session = self._call(self._gateway, "POST", "/v4/sessions", {"properties": {}})["sessionHandle"]
        return self

    def stop(self) -> None:
        """End the processes and remove their files. A second call does nothing."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher = None
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(_STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._home, ignore_errors=True)

    # ---- use

    def sql(self, statement: str) -> Answer:
        """Run one statement to its end. Raises StatementFailed with Flink's reason."""
        of_session = f"/v4/sessions/{self._session}"
        operation = self._call(self._gateway, "POST", f"{of_session}/statements", {"statement": statement})["operationHandle"]
        base = f"{of_session}/operations/{operation}"
        try:
            give_up = time.monotonic() + _STATEMENT_WITHIN_S
            while self._call(self._gateway, "GET", f"{base}/status")["status"] not in _ENDED:
                if time.monotonic() > give_up:
                    raise Irrecoverable(f"Flink took too long over: {statement[:200]}", code="server_slow")
                time.sleep(_PAUSE_S)
            return self._results(base, give_up)
        finally:
            with contextlib.suppress(StatementFailed):
                self._call(self._gateway, "DELETE", f"{base}/close")

    def log_tail(self, name: str, characters: int = 3000) -> str:
        path = self._home / f"{name}.out"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    # ---- how

    def _launch(self, name: str) -> subprocess.Popen[bytes]:
        program, heap = _PROGRAMS[name]
        options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1" if name == "gateway" else "-Xshare:auto"]
        options += [f"--add-opens={m}=ALL-UNNAMED" for m in _OPENED.split()] + [f"--add-exports={m}=ALL-UNNAMED" for m in _EXPORTED.split()]
        options += [f"-Dlog4j.configurationFile={_log_settings(self._home)}", f"-Djava.io.tmpdir={self._home}"]
        # The gateway reads its configuration from the folder of this variable; the others from an argument.
        environment = {"FLINK_CONF_DIR": str(self._home), "FLINK_PLUGINS_DIR": str(self._home / "plugins"), "TZ": "UTC", "LANG": "C.UTF-8"}
        arguments = [] if name == "gateway" else ["--configDir", str(self._home)]
        command = [self._java, *options, "-classpath", f"{self._jars}/*", program, *arguments]
        with (self._home / f"{name}.out").open("ab") as out:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=self._home, start_new_session=True
            )

    def _ready(self) -> bool:
        try:
            slots = self._call(self._rest, "GET", "/overview")["slots-total"]
            self._call(self._gateway, "GET", "/v4/info")
        except (Retryable, StatementFailed):
            return False
        return bool(slots)

    def _results(self, base: str, give_up: float) -> Answer:
        columns: tuple[tuple[str, str], ...] = ()
        rows: list[tuple[Any, ...]] = []
        place: str | None = f"{base}/result/0?rowFormat=JSON"
        while place:
            answer = self._call(self._gateway, "GET", place)
            if answer["resultType"] == "NOT_READY":
                if time.monotonic() > give_up:
                    raise Irrecoverable("Flink took too long over a result", code="server_slow")
                time.sleep(_PAUSE_S)
                continue
            if answer.get("results"):
                columns = tuple((c["name"], _type_text(c["logicalType"])) for c in answer["results"]["columns"])
                rows += [tuple(row["fields"]) for row in answer["results"]["data"]]
            place = answer.get("nextResultUri") if answer["resultType"] != "EOS" else None
        return Answer(columns, tuple(rows))

    def _call(self, port: int, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        except OSError as e:
            raise Retryable(f"Flink does not answer on port {port}: {e}", code="server_away") from e
        finally:
            connection.close()
        if response.status >= 400:
            raise StatementFailed(_reason(text), code="flink_refused", cure="see the message")
        return json.loads(text or "{}", parse_float=Decimal)  # a decimal has more digits than a float


def _reason(text: str) -> str:
    """The innermost cause in a Java stack trace, and what is written before it where there is none."""
    with contextlib.suppress(ValueError):
        text = "\n".join(json.loads(text).get("errors", [text]))
    causes = re.findall(r"(?:Caused by: |^)([\w.$]+(?:Exception|Error)[^\n]*(?:\n(?!\s+at |Caused by|\s*\.\.\.)[^\n]*)*)", text, re.M)
    return (causes[-1] if causes else text)[:800]


def _type_text(type_: Mapping[str, Any]) -> str:
    """A type of the gateway's JSON as SQL, without its nullability."""
    name = str(type_["type"]).replace("_", " ")
    match name:
        case "DECIMAL":
            return f"DECIMAL({type_['precision']},{type_['scale']})"
        case "ARRAY":
            return f"ARRAY<{_type_text(type_['elementType'])}>"
        case "ROW":
            return "ROW<" + ", ".join(f"{f['name']} {_type_text(f.get('fieldType') or f['type'])}" for f in type_["fields"]) + ">"
        case "VARCHAR" if type_.get("length") == 2147483647:
            return "STRING"
        case "VARBINARY" if type_.get("length") == 2147483647:
            return "BYTES"
        case "VARCHAR" | "CHAR" | "VARBINARY" | "BINARY":
            return f"{name}({type_['length']})"
    if "precision" in type_ and name.startswith("TIME"):
        return f"{name}({type_['precision']})"
    return name


def _settings(rpc: int, rest: int, gateway: int, home: Path) -> dict[str, str]:
    return {
        "jobmanager.rpc.address": "127.0.0.1", "jobmanager.rpc.port": str(rpc), "jobmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1", "rest.bind-address": "127.0.0.1", "rest.port": str(rest),
        "taskmanager.host": "127.0.0.1", "taskmanager.bind-host": "127.0.0.1", "taskmanager.numberOfTaskSlots": "4",
        "taskmanager.cpu.cores": "2", "taskmanager.memory.task.heap.size": "384m", "taskmanager.memory.task.off-heap.size": "0",
        "taskmanager.memory.framework.heap.size": "128m", "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "256m", "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "taskmanager.memory.managed.size": "128m", "taskmanager.memory.network.min": "128m", "taskmanager.memory.network.max": "128m",
        "sql-gateway.endpoint.rest.address": "127.0.0.1", "sql-gateway.endpoint.rest.bind-address": "127.0.0.1",
        "sql-gateway.endpoint.rest.port": str(gateway), "execution.target": "remote", "execution.runtime-mode": "batch",
        "parallelism.default": "1", "table.local-time-zone": "UTC", "restart-strategy.type": "none", "io.tmp.dirs": str(home),
    }  # fmt: skip


def _log_settings(home: Path) -> Path:
    path = home / "log4j.properties"
    if not path.exists():
        lines = [
            "rootLogger.level = WARN",
            "rootLogger.appenderRef.out.ref = out",
            "appender.out.name = out",
            "appender.out.type = CONSOLE",
        ]
        lines += ["appender.out.layout.type = PatternLayout", "appender.out.layout.pattern = %d %p %c{1} %m%n"]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _free_ports(count: int) -> Sequence[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports
