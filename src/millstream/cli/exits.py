"""What a command's exit code means. A script may rely on these; `millstream --help` shows them."""

from __future__ import annotations

from cyclopts import CycloptsError

from millstream.errors import MillstreamError, Refused

OK = 0
FAILED = 1
REFUSED = 2
NOT_APPLIED = 3
PAUSED = 4
INTERRUPTED = 130

MEANING = {
    OK: "done",
    FAILED: "something failed, or a part has stopped with a reason",
    REFUSED: "refused: you have to change something first; the message says what",
    NOT_APPLIED: "the project is not applied, or differs from what was: run `millstream apply`",
    PAUSED: "all else is done, but a part is paused before a change of schema that its owner has to look at",
    INTERRUPTED: "interrupted by Ctrl-C, everything committed",
}

_NOT_APPLIED_CODES = ("not_applied", "differs_from_applied")


def exit_code(error: BaseException) -> int:
    """The code of a command that ended with this error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, CycloptsError):
        return REFUSED
    if isinstance(error, MillstreamError) and error.code in _NOT_APPLIED_CODES:
        return NOT_APPLIED
    return REFUSED if isinstance(error, Refused) else FAILED
