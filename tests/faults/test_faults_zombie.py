"""A stopped process that comes back: another took over meanwhile, and what the first still holds must reach nothing."""

from __future__ import annotations

import fcntl
import signal
from pathlib import Path

import pytest
from faults_project import Process, Project, until
from faults_world import World, codes

pytestmark = [pytest.mark.faults, pytest.mark.servers]

SHARED = ("topics.db", "topics.db-lock", "mesh.db", "lake")
FROM_OUTSIDE, TRIES = "from outside", 8
NAMED = ("connector.before_commit", "pipeline.before_publish", "sink.before_write")
MOMENTS = [FROM_OUTSIDE, *(pytest.param(m, marks=pytest.mark.long) for m in NAMED)]
WRITERS = ("source.catalogue", "source.people", "pipeline.recents", "pipeline.documents")


def successor(world: World, folder: Path) -> Project:
    """A second project with state, index and files of its own over the first one's topics, registry and lake."""
    other = Project(folder, world.settings)
    other.state.mkdir()
    for name in SHARED:
        (other.state / name).symlink_to(world.project.state / name)
    return other


def stopped(world: World, moment: str) -> Process:
    """A run that was stopped in the middle of its work, by itself at a named moment or from outside; not inside a commit."""
    for _ in range(TRIES):
        if moment == FROM_OUTSIDE:
            process = world.project.start("run")
            before = world.published()
            until("work in progress", lambda before=before: world.published() > before + 50)
            process.signal(signal.SIGSTOP)
        else:
            process = world.project.start("run", fault=f"{moment}:3:STOP")
        until(f"stopped {moment}", process.stopped)
        if not holds_topics(world):
            return process
        process.kill()  # another of its threads was in a commit: that is the next test's matter
    raise AssertionError(f"{TRIES} times another thread was inside a commit when the process stopped {moment}")


def holds_topics(world: World) -> bool:
    """Whether somebody is inside a commit."""
    with (world.project.state / "topics.db-lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_zombie_is_fenced_off(moment: str, world: World, tmp_path: Path) -> None:
    world.check()
    first = world.project
    zombie = stopped(world, moment)
    before = world.workload.transactions
    until("changes that the zombie has not seen", lambda: world.workload.transactions > before + 50)
    with world.workload.paused():
        world.project = successor(world, tmp_path / "successor")
        world.project.catch_up()
        world.verdict()
        ends, snapshot = world.ends(), world.snapshot()
        zombie.signal(signal.SIGCONT)
        until("every writer of the zombie is refused", lambda: fenced(zombie) >= set(WRITERS))
        zombie.end()
        assert world.ends() == ends
        assert world.snapshot() == snapshot
        world.reread()
        world.verdict()
        world.project = first
    world.check()


def fenced(process: Process) -> set[str]:
    """The parts that say they were fenced off."""
    return {part for part in WRITERS for line in process.words.splitlines() if part in line and "[fenced]" in line}


@pytest.mark.long
def test_nobody_writes_beside_a_process_that_stopped_inside_a_commit(world: World, tmp_path: Path) -> None:
    """It holds the lock of the topics' file. Who comes says what to look for, and changes nothing; the stopped one goes on unharmed."""
    world.check()
    first = world.project.start("run", fault="topics.appended:3:STOP")
    until("stopped inside a commit", first.stopped)
    second = successor(world, tmp_path / "successor").start("run")
    assert second.wait() == 1, second.words
    assert "topics_busy" in second.words
    assert "stopped process" in second.words
    first.signal(signal.SIGCONT)
    before = world.published()
    until("the first works on", lambda: world.published() > before + 50)
    assert first.end() == 0, first.words
    world.check()


@pytest.mark.long
def test_a_second_run_beside_a_stopped_one_is_refused(world: World) -> None:
    """One project's state has one owner. The stopped process goes on afterwards as if nothing had been."""
    world.check()
    process = stopped(world, FROM_OUTSIDE)
    second = world.project.start("run", "--until-caught-up")
    assert second.wait() == 2, second.words
    assert codes(second.words) == {"already_running"}
    assert str(process.pid) in second.words
    process.signal(signal.SIGCONT)
    before = world.published()
    until("the first works on", lambda: world.published() > before + 50)
    assert not fenced(process)
    assert process.end() == 0
    world.check()
