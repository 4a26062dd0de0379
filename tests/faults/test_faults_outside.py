"""Faults of the surroundings: the database goes away, the password is wrong, the disk is full, somebody starts it twice."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faults_project import until
from faults_world import SETTINGS, World, codes

from millstream.testing.postgres_server import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.servers]

PASSWORD, WRONG = "correct horse", "battery staple"
DISK_BYTES = 160 << 20


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with PostgresServer(durable=False, settings=SETTINGS, password=PASSWORD) as server:
        yield server


def test_the_server_crashes_and_comes_back(own_server: PostgresServer, tmp_path: Path) -> None:
    """Twice, in one run: what was committed is read on, the workload's unknown last commits included."""
    with World(own_server, tmp_path, seed="crash") as world, world.project.running() as process:
        for _ in range(2):
            before = world.published()
            until("work", lambda before=before: world.published() > before + 100)
            own_server.kill()
            until("it says that the server is gone", lambda: "retrying" in process.words or not process.running)
            own_server.start()
            before = world.published()
            until("it works again", lambda before=before: world.published() > before + 100)
        assert process.end() == 0
        world.check()


def test_a_wrong_password_stops_its_source_alone(own_server: PostgresServer, tmp_path: Path) -> None:
    with World(own_server, tmp_path, seed="password") as world:
        world.check()
        good = world.project.environment["CATALOGUE_URL"]
        bad = own_server.url(world.databases["catalogue"], "postgres", WRONG)
        before = world.published()
        process = world.project.start("run", environment={"CATALOGUE_URL": bad})
        until("people are read on", lambda: world.published() > before + 30)
        until("the source is refused", lambda: "source.catalogue" in process.words and "password" in process.words)
        assert process.end() == 1
        said = process.words
        for secret in (WRONG, PASSWORD, good, bad, "battery%20staple", "correct%20horse"):
            assert secret not in said
        world.check()


def test_a_second_run_is_refused_and_the_first_unharmed(world: World) -> None:
    with world.project.running() as first:
        world.until_loaded()
        second = world.project.start("run")
        assert second.wait(30) == 2, second.words
        assert codes(second.words) == {"already_running"}
        before = world.published()
        until("the first works on", lambda: world.published() > before + 100)
        assert "fenced" not in first.words
        assert first.end() == 0
    world.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test may fill."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a full disk; this machine does not allow a small file system to be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """A file that leaves about `leave` bytes free, whatever others write meanwhile."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as out, suppress(OSError):  # full before our count says so
        while (free := free_bytes(place)) > leave:
            out.write(bytes(min(free - leave, 1 << 20)))
    return filler


def free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


@pytest.mark.parametrize("leave", [pytest.param(0, marks=pytest.mark.long), 200_000, pytest.param(2_000_000, marks=pytest.mark.long)])
def test_a_full_disk_stops_and_loses_nothing(small_disk: Path, leave: int, own_server: PostgresServer) -> None:
    with World(own_server, small_disk, seed=f"disk {leave}", pace_s=0.01) as world:
        world.check()
        with world.project.running() as process:
            before = world.published()
            until("work", lambda: world.published() > before + 50)
            filler = fill(small_disk, leave)
            world.workload.bulk()
            world.workload.bulk()
            until("it says that the disk is full, and what to do", lambda: re.search(r"disk_full\]\n +cure: .*(free|room)", process.words))
            process.kill()
        filler.unlink()
        world.check()


HELD_S = 26.0  # longer than two waits of a writer for its turn, so that trying again is tried again


@pytest.mark.long
def test_topics_that_stay_busy_delay_and_lose_nothing(world: World) -> None:
    """Another program sits on the topics' lock: commits fail, their second tries fail, and then all goes on as if nothing had been."""
    world.check()
    with world.project.running() as process:
        for _ in range(2):
            before = world.published()
            until("work", lambda before=before: world.published() > before + 50)
            with (world.project.state / "topics.db-lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                threading.Event().wait(HELD_S)
        assert "topics_busy" in process.words
        before = world.published()
        until("it works on", lambda: world.published() > before + 50)
        assert process.end() == 0, process.words
    world.check()
