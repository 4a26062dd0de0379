"""`registry serve` is killed while clients register: what was answered stays so, and what was not is there whole or not at all."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.faults

SUBJECTS = ("a", "b", "c")
TEXTS = [json.dumps({"type": "record", "name": f"R{n}", "fields": [{"name": "x", "type": "long"}]}) for n in range(400)]
CLIENTS = 4
STARTS_WITHIN_S = 60


class Served:
    """The command in a process of its own, on a port that stays."""

    def __init__(self, folder: Path) -> None:
        (folder / "mesh.yaml").write_text("mesh: shop\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.listen = f"127.0.0.1:{probe.getsockname()[1]}"
        self.url = f"http://{self.listen}"
        self.folder = folder
        self.up = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def start(self, fault: str = "") -> None:
        """Returns when it answers."""
        command = [sys.executable, "-c", "from millstream.wiring import main; main()", "--project", str(self.folder), "--json"]
        env: Mapping[str, str] = {**os.environ, **({"MILLSTREAM_FAULT": fault} if fault else {})}
        command += ["registry", "serve", "--listen", self.listen]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == {"address": self.url}
        self.up.set()

    def kill(self) -> None:
        self.up.clear()
        assert self._process is not None
        self._process.kill()
        self.ended()

    def ended(self) -> int:
        """Wait until it has ended; its exit code, or the signal below 0."""
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.wait(STARTS_WITHIN_S)
        self._process.stdout.close()
        self.up.clear()
        return code

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.ended()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    if made._process is not None and made._process.poll() is None:
        made.kill()


class Clients:
    """Register at random, and keep what was answered."""

    def __init__(self, served: Served) -> None:
        self._served, self._stopping = served, threading.Event()
        self.told: list[tuple[str, str, int, int]] = []  # subject, text, id, version
        self.odd: list[str] = []

    @contextmanager
    def working(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._served.up.set()
            for thread in threads:
                thread.join()

    def _work(self, number: int) -> None:
        dice = random.Random(number)
        with httpx2.Client(base_url=self._served.url, timeout=30) as http:
            while not self._stopping.is_set():
                self._served.up.wait()
                subject, text = dice.choice(SUBJECTS), dice.choice(TEXTS)
                try:
                    answer = http.post(f"/subjects/{subject}/versions", json={"schema": text})
                except httpx2.HTTPError:  # killed before it answered
                    continue
                if answer.status_code == 200:
                    self.told.append((subject, text, answer.json()["id"], answer.json()["version"]))
                else:
                    self.odd.append(answer.text)


def proven(served: Served, told: list[tuple[str, str, int, int]]) -> None:
    """Everything that was answered is so, nothing is half, and the file is sound."""
    ids: dict[str, int] = {}
    for _, text, number, _ in told:
        assert ids.setdefault(text, number) == number
    assert len(set(ids.values())) == len(ids)
    with httpx2.Client(base_url=served.url, timeout=30) as http:

        def get(path: str) -> Any:
            answer = http.get(path)
            assert answer.status_code == 200, answer.text
            return answer.json()

        for text, number in ids.items():
            assert json.loads(get(f"/schemas/ids/{number}")["schema"]) == json.loads(text)
        there = {(v["subject"], json.dumps(json.loads(v["schema"])), v["id"], v["version"]) for v in get("/schemas")}
        assert set(told) <= there
        for subject in get("/subjects"):
            numbers = get(f"/subjects/{subject}/versions")
            assert numbers == list(range(1, len(numbers) + 1))
    with closing(sqlite3.connect(served.folder / ".millstream" / "mesh.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = file.execute("SELECT id FROM registry_schemas ORDER BY id").fetchall()
        assert kept == [(n,) for n in range(1, len(kept) + 1)]
        alone = "SELECT id FROM registry_schemas WHERE id NOT IN (SELECT schema_id FROM registry_versions)"
        assert file.execute(alone).fetchall() == [], "a schema without its version was left"


def test_killed_at_random_moments(served: Served) -> None:
    dice = random.Random(11)
    served.start()
    set_level(served)
    clients = Clients(served)
    pause = threading.Event()
    with clients.working():
        for _ in range(3):
            pause.wait(dice.uniform(0.05, 0.6))
            served.kill()
            served.start()
            proven(served, list(clients.told))
        pause.wait(0.3)
    assert clients.odd == []
    assert len(clients.told) > 100
    proven(served, clients.told)
    assert served.stop() == 0


@pytest.mark.parametrize("moment", ["registry.schema", "registry.version"])
def test_killed_in_the_middle_of_registering(served: Served, moment: str) -> None:
    served.start(fault=f"{moment}:3:KILL")
    told = []
    with httpx2.Client(base_url=served.url, timeout=30) as http:
        set_level(served)
        for number in range(2):
            answer = http.post("/subjects/a/versions", json={"schema": TEXTS[number]}).json()
            told.append(("a", TEXTS[number], answer["id"], answer["version"]))
        with pytest.raises(httpx2.HTTPError):
            http.post("/subjects/a/versions", json={"schema": TEXTS[2]})
    assert served.ended() == -signal.SIGKILL
    served.start()
    proven(served, told)
    with httpx2.Client(base_url=served.url, timeout=30) as http:
        assert http.get("/subjects/a/versions").json() == [1, 2]
        assert http.post("/subjects/a/versions", json={"schema": TEXTS[2]}).json() == {"id": 3, "version": 3}


def set_level(served: Served) -> None:
    assert httpx2.put(f"{served.url}/config", json={"compatibility": "NONE"}).status_code == 200
