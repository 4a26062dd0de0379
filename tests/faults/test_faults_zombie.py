"""A stopped process that comes back: another took over meanwhile, and what the first still holds must reach nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from faults_project import Process, Project, until
from faults_world import World, codes

pytestmark = [pytest.mark.faults, pytest.mark.servers]

SHARED = ("topics.db", "topics.db-lock", "mesh.db", "lake")
WRITERS = ("source.catalogue", "source.people", "pipeline.recents", "pipeline.documents")


def successor(world: World, folder: Path) -> Project:
    """A second project with state, index and files of its own over the first one's topics, registry and lake."""
    other = Project(folder, world.urls)
    other.state.mkdir()
    for name in SHARED:
        (other.state / name).symlink_to(world.project.state / name)
    return other


def stopped_from_outside(world: World) -> Process:
    process = world.project.start("run")
    before = world.published()
    until("work in progress", lambda: world.published() > before + 50)
    process.signal(signal.SIGSTOP)
    return process


def stopped_at(world: World, moment: str) -> Process:
    process = world.project.start("run", fault=f"{moment}:3:STOP")
    until(f"stopped at {moment}", process.stopped)
    return process


@pytest.mark.parametrize("moment", ["from outside", "connector.before_commit", "pipeline.before_publish", "sink.before_write"])
def test_a_zombie_is_fenced_off(moment: str, world: World, tmp_path: Path) -> None:
    world.check()
    first = world.project
    zombie = stopped_from_outside(world) if moment == "from outside" else stopped_at(world, moment)
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


def test_a_zombie_that_holds_the_topics_is_waited_for_and_then_fenced_off(world: World, tmp_path: Path) -> None:
    """Stopped inside a commit, it holds the lock of the topics' file: nobody writes, and the successor says why."""
    world.check()
    first = world.project
    zombie = stopped_at(world, "topics.appended")
    world.project = successor(world, tmp_path / "successor")
    taking_over = world.project.start("run")
    until("the successor says what it waits for", lambda: "topics_busy" in taking_over.words)
    zombie.signal(signal.SIGCONT)
    until("every writer of the zombie is refused", lambda: fenced(zombie) >= set(WRITERS))
    zombie.end()
    assert taking_over.end() == 0
    world.check()
    world.project = first
    world.check()


def test_a_second_run_beside_a_stopped_one_is_refused(world: World) -> None:
    """One project's state has one owner. The stopped process goes on afterwards as if nothing had been."""
    world.check()
    process = stopped_from_outside(world)
    second = world.project.start("run", "--until-caught-up")
    assert second.wait() == 2, second.words
    assert codes(second.words) & {"already_running", "state_in_use"}
    assert str(process.pid) in second.words
    process.signal(signal.SIGCONT)
    before = world.published()
    until("the first works on", lambda: world.published() > before + 50)
    assert not fenced(process)
    assert process.end() == 0
    world.check()
