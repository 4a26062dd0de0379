"""A project on disk and the `millstream` command on it, called as a user calls it: a process of its own, URLs in the environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

PROGRAM = Path(sys.executable).parent / "millstream"
FINISHES_WITHIN_S = 120.0

RECENT = "SELECT id, title, year, rating, changed, director_id FROM catalogue.public.movie WHERE year >= 2000 AND released"
DOCUMENT = """SELECT m.id, m.title, m.year, m.rating, m.released, m.changed, m.director_id, m.studio_id,
             p.name AS director, p.born, s.name AS studio, s.country
      FROM catalogue.public.movie m
      LEFT JOIN people.public.person p ON p.id = m.director_id
      LEFT JOIN catalogue.public.studio s ON s.id = m.studio_id"""


def files(recent: str, document: str, lake: str = "", **sources: str) -> dict[str, str]:
    """A mesh of these sources and two steps: one into a file, one into an index and a file. `lake`: the line of one sink more."""
    return {
        "mesh.yaml": "mesh: faults\n",
        **{f"sources/{name}.yaml": text for name, text in sources.items()},
        "pipelines/recents.yaml": f"""\
pipeline: recents
owner: team-recent
steps:
  - name: recent
    sql: {recent}
sinks:
  - {{from: recent, jsonl: {{file: recent.jsonl}}}}
""",
        "pipelines/documents.yaml": f"""\
pipeline: documents
owner: team-documents
steps:
  - name: document
    sql: |
      {document}
    key: [id]
sinks:
  - {{from: document, search: {{index: documents}}}}
{lake}  - {{from: document, jsonl: {{file: documents.jsonl}}}}
""",
    }


FILES = files(
    RECENT,
    DOCUMENT,
    "  - {from: document, iceberg: {table: lake.documents, mode: changelog}}\n",
    catalogue="""\
source: catalogue
connector: postgres
url: ${CATALOGUE_URL}
slot: ${CATALOGUE_SLOT}
tables: [public.movie, public.studio]
owner: team-catalogue
""",
    people="""\
source: people
connector: postgres
url: ${PEOPLE_URL}
slot: ${PEOPLE_SLOT}
tables: [public.person]
owner: team-people
""",
)


class Process:
    """One running command. What it prints goes to `log`."""

    def __init__(self, arguments: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.arguments = arguments
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [str(PROGRAM), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # Ends it when its own standard input ends, which is when the tests' process does, however that came about.
        self._watcher: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["/bin/sh", "-c", "read _; kill -KILL $0", str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float = FINISHES_WITHIN_S) -> int:
        """Its exit code; minus the signal's number where one ended it. Raises AssertionError if it goes on too long."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"millstream {' '.join(self.arguments)} still runs after {timeout_s} s:\n{self.words[-3000:]}") from None
        self._end_watch()
        return code

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """Nothing, if it has ended already."""
        self._popen.kill()
        self._popen.wait()
        self._end_watch()

    def _end_watch(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            assert self._watcher.stdin is not None
            self._watcher.stdin.close()
            self._watcher = None

    def stopped(self) -> bool:
        """Whether a SIGSTOP holds it."""
        stat = Path(f"/proc/{self.pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] in ("T", "t")

    def end(self) -> int:
        """Ask it to stop, as Ctrl-C does not but a service manager does; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(60)


class Project:
    """The mesh's files in `folder`. `settings` has the sources' URLs and slots, `state` is where it keeps what it knows."""

    def __init__(self, folder: Path, settings: Mapping[str, str], files: Mapping[str, str] = FILES) -> None:
        self.folder = folder
        self.state = folder / ".millstream"
        self.environment = {k: v for k, v in os.environ.items() if k != "MILLSTREAM_FAULT"} | settings | {"PYTHONUNBUFFERED": "1"}
        self._logs = 0
        self._processes: list[Process] = []
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def start(self, *arguments: str, fault: str | None = None, environment: Mapping[str, str] | None = None) -> Process:
        self._logs += 1
        settings = self.environment | (environment or {}) | ({"MILLSTREAM_FAULT": fault} if fault else {})
        process = Process(list(arguments), self.folder, settings, self.folder / f"{self._logs:03}.log")
        self._processes.append(process)
        return process

    @contextmanager
    def running(self, *arguments: str, fault: str | None = None) -> Iterator[Process]:
        """`millstream run` beside us; killed at the end if it is still there."""
        process = self.start("run", *arguments, fault=fault)
        try:
            yield process
        finally:
            process.kill()

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; what it printed. Raises AssertionError on any other exit code."""
        process = self.start(*arguments)
        found = process.wait()
        assert found == code, f"millstream {' '.join(arguments)} ended with {found}, not {code}:\n{process.words[-4000:]}"
        return process.words

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.command("--json", *arguments, code=code))

    def catch_up(self) -> None:
        """Everything that is committed now goes through everything."""
        self.command("run", "--until-caught-up")

    def close(self) -> None:
        for process in self._processes:
            process.kill()


def until(what: str, true: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for another process to have done something. Raises AssertionError at the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"after {timeout_s} s still not: {what}"
        threading.Event().wait(0.02)


class Bulky(Protocol):
    """A workload that can write very many rows at once."""

    def bulk(self) -> None: ...


class Living(Protocol):
    """A world, as far as those need it who kill its process: entered, it works; `check` holds it against the truth."""

    project: Project

    @property
    def workload(self) -> Bulky: ...
    def check(self) -> None: ...
    def published(self) -> int: ...
    def __enter__(self) -> Living: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
