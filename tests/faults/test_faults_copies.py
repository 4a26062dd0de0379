"""After every kill the copies of a state are what their topics say, up to the positions committed with them (invariant 3)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "faults_copies.py"

pytestmark = pytest.mark.faults


def kill_again_and_again(folder: Path, seed: str, lives: int) -> None:
    rng, said = random.Random(seed), []
    for number in range(lives):
        command = [sys.executable, str(PROGRAM), str(folder), f"{seed} {number}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            said.append(process.stdout.readline().strip())
            threading.Event().wait(rng.uniform(0.1, 2.5))  # not to await anything: to hit any moment
            process.send_signal(signal.SIGTERM if rng.random() < 0.3 else signal.SIGKILL)  # the first leaves a file of another make
            rest = process.stdout.read()
        assert said[-1] in ("new", "same"), f"in life {number}: {said[-1]}\n{rest}"
        assert not rest, rest
    assert said.count("same") > lives // 2, "hardly a life came so far as to commit anything: nothing is tested"


def test_copies_are_what_topics_say_after_a_dozen_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, "dozen", 12)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_copies_are_what_topics_say_after_many_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, "many", 150)
