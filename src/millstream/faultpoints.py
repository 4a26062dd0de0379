"""Named moments at which a test may end or stop this process, to show that nothing is lost there.

MILLSTREAM_FAULT="name:n:signal" raises the signal (KILL, STOP) in this process the n-th time the moment is reached.
Unset, as it is outside tests, a call costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading

_WANTED = os.environ.get("MILLSTREAM_FAULT")
_LOCK = threading.Lock()
_left = int(_WANTED.split(":")[1]) if _WANTED else 0


def reached(name: str) -> None:
    """Mark a moment. `name` is dotted: part.moment."""
    global _left
    if _WANTED is None:
        return
    wanted, _, what = _WANTED.split(":")
    if name != wanted:
        return
    with _LOCK:
        _left -= 1
        if _left:
            return
    os.kill(os.getpid(), getattr(signal, f"SIG{what}"))
