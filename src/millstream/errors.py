"""The four kinds of failure, named by what the runner does next. Invariant 9.

Every error says what happened, where, and how to mend it. Invariant 10: none of the three texts may hold a
secret; whoever raises one from a driver's message passes it through `without_secrets` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


class MillstreamError(Exception):
    """What happened (`message`), where (`where`: "file:line", "topic@offset", a source's name), the way out (`cure`)."""

    code: str

    def __init__(self, message: str, *, code: str, where: str = "", cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.where = where
        self.cure = cure

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        cure = f"\n  cure: {self.cure}" if self.cure else ""
        return f"{place}{self.message} [{self.code}]{cure}"


class Retryable(MillstreamError):
    """The runner waits and tries again: a dropped connection, a busy file."""


class BadRecord(MillstreamError):
    """One record cannot be processed; `where` names it. It goes to dead letters, or stops its pipeline."""


class Irrecoverable(MillstreamError):
    """Going on would lose or corrupt data. The part stops, with its reason in `status`, until a person decides."""


class Refused(MillstreamError):
    """A person asked for something that cannot be: goes back to them with the place and the cure."""


_URL_PASSWORD = re.compile(r"(\w+://[^\s:/@]+):[^\s@]*@")
_DSN_PASSWORD = re.compile(r"(?i)\b(password|passwd|secret|token)\s*=\s*('[^']*'|\S+)")


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """`text` with every known secret, URL password and password=… blotted out."""
    for secret in known:
        if secret:
            text = text.replace(secret, "***")
    return _DSN_PASSWORD.sub(r"\1=***", _URL_PASSWORD.sub(r"\1:***@", text))
