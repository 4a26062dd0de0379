"""Where a demo runs, and how it ends: a folder that is removed whatever happens, a closing line of JSON, an exit code."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from demo.commands import Failed
from demo.screen import Screen


@contextmanager
def workplace(project: Path, keep: bool, screen: Screen, hints: Sequence[str]) -> Iterator[Path]:
    """A copy of the project, in a folder outside the checkout. `hints`: of one that is kept, what is left, then commands to look around."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-demo-"))
    try:
        yield Path(shutil.copytree(project, folder / "project"))
    finally:
        if keep:
            screen.say(f"kept: {folder}")
            screen.say(f"look around ({hints[0]}):")
            for command in (f"cd {folder / 'project'}", *hints[1:]):
                screen.say(f"  {command}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def ended(judged: Callable[[Screen], dict[str, Any]]) -> int:
    """Runs a demo, whose verdict is the last line. Gives the exit code: 0 all equal, 1 something differs, 2 a step failed, 130 stopped."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        verdict = judged(Screen())
    except KeyboardInterrupt:
        print("stopped; everything it started is stopped and removed", file=sys.stderr)
        return 130
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 2
    print(json.dumps(verdict), flush=True)
    return 1 if verdict["mismatches"] else 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
