"""SIGKILL from outside, at any moment, under the steady workload: the process is started again each time and killed again."""

from __future__ import annotations

import random
import signal
import threading

import pytest
from faults_project import Living, until
from faults_world import World

pytestmark = [pytest.mark.faults, pytest.mark.servers]

LIVES_S_MAX = 4.0
CHECK_EVERY = 5
BULK_EVERY = 4


def kill_at_random(world: Living, kills: int, rng: random.Random, *, at_work: float = 0.0) -> None:
    """Kills spread over the whole life of a process: its start, its catching up, its steady work. The part `at_work` of the lives is
    let alone until it has published something, however slow the machine is."""
    for n in range(kills):
        if n % BULK_EVERY == 2:
            world.workload.bulk()
        with world.project.running() as process:
            if rng.random() < at_work:
                before = world.published()
                until("it works", lambda before=before: world.published() > before or not process.running)
            threading.Event().wait(rng.uniform(0.3, LIVES_S_MAX))  # not to await anything: to hit any moment
            assert process.running, f"it ended by itself:\n{process.words[-3000:]}"
            process.signal(signal.SIGKILL)
        if n % CHECK_EVERY == CHECK_EVERY - 1:
            world.check()


def test_ten_kills_at_random_moments(world: World) -> None:
    kill_at_random(world, 10, random.Random("ten"))
    world.reread()
    world.check()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_sixty_kills_at_random_moments(world: World) -> None:
    kill_at_random(world, 60, random.Random("sixty"))
    world.reread()
    world.check()
