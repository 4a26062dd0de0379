"""A `millstream run` in a process of its own, as a benchmark starts it, watches it and asks its index."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tantivy

from millstream.sinks.search.generations import index_path, live
from millstream.sinks.search.query import search

PROGRAM = Path(sys.executable).parent / "millstream"


class Index:
    """An index, asked afresh each time."""

    def __init__(self, state: Path, name: str) -> None:
        self._state, self._name, self._opened = state, name, None

    def _searcher(self) -> Any:
        if self._opened is None:
            path = index_path(self._state, live(self._state, self._name))
            if not (path / "meta.json").exists():
                return None
            self._opened = tantivy.Index.open(str(path))
        self._opened.reload()
        return self._opened.searcher()

    def documents(self) -> int:
        """How many there are, the reserved one not counted."""
        searcher = self._searcher()
        return 0 if searcher is None else max(0, searcher.num_docs - 1)

    def found(self, field: str, value: object) -> int:
        """How many documents hold this value, as any user would ask."""
        return search(self._state, self._name, f"{field} = {value}", 1).total

    def everything(self) -> Iterator[dict[str, Any]]:
        searcher = self._searcher()
        for _, address in searcher.search(tantivy.Query.all_query(), max(searcher.num_docs, 1)).hits:
            stored = searcher.doc(address).to_dict()
            if "_document" in stored:
                yield json.loads(bytes(stored["_document"][0]))


@contextmanager
def running(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), "run"], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def used(pid: int) -> dict[str, float]:
    """CPU seconds and peak memory of a living process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), "peak_mib": int(peak.split()[1]) / 1024}


def waited(true: Callable[[], bool], every_s: float = 0.005, at_most_s: float = 900.0) -> float:
    """Seconds until it is true."""
    begin = time.monotonic()
    while not true():
        if time.monotonic() - begin > at_most_s:
            raise SystemExit("the documents did not come: see run.log")
        time.sleep(every_s)
    return time.monotonic() - begin


def reported(found: dict[str, Any], output: Path) -> int:
    """Written and shown; what the program exits with."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 0 if found["parity"] else 1
