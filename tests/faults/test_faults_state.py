"""A lost state, a state from earlier, and topics from earlier: each ends equal to the oracle, or in the refusal that says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faults_project import until
from faults_world import World

pytestmark = [pytest.mark.faults, pytest.mark.servers]


def work(world: World) -> None:
    """Let the mesh run under the workload until it has published a good deal more, then stop it."""
    with world.project.running() as process:
        before = world.published()
        until("500 records more", lambda: world.published() > before + 500)
        assert process.end() == 0


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_a_lost_state_is_rebuilt(world: World) -> None:
    world.check()
    shutil.rmtree(world.project.state / "state")
    world.check()
    work(world)
    shutil.rmtree(world.project.state / "state")
    work(world)
    world.check()


def test_a_state_from_earlier_is_rebuilt(world: World, tmp_path: Path) -> None:
    world.check()
    state = world.project.state / "state"
    earlier = copied(state, tmp_path / "earlier")
    work(world)
    shutil.rmtree(state)
    copied(earlier, state)
    world.check()
    work(world)
    world.check()


def test_topics_from_earlier_are_refused(world: World, tmp_path: Path) -> None:
    """Topics that are older than what was computed, or than what sinks have written, are never gone on with in silence."""
    world.check()
    kept = tmp_path / "topics"
    kept.mkdir()
    for path in world.project.state.glob("topics.db*"):
        shutil.copy2(path, kept)
    work(world)
    with world.workload.paused():
        world.project.catch_up()
        for path in world.project.state.glob("topics.db*"):
            path.unlink()
        for path in kept.iterdir():
            shutil.copy2(path, world.project.state)
        process = world.project.start("run", "--until-caught-up")
        assert process.wait() == 1, process.words
        assert "topics_restored" in process.words
        assert "delete" in process.words
