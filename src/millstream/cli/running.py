"""Whether some process runs the mesh at this moment: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millstream.errors import Refused

LOOKS = 10


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Be the one process that runs the mesh. A second one would fence the first off: it is refused before it touches anything.

    Raises Refused("already_running") naming the process that does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _taken(handle):
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise Refused(
                f"process {holder} runs this mesh",
                code="already_running",
                where=str(path),
                cure=f"stop process {holder} (it may be suspended), or give this project another state folder",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    """Take the lock. Who only looks holds it for a moment: that is waited for."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False


def is_held(path: Path) -> bool:
    """Whether a process runs the mesh. The answer may be out of date when it is read."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
