"""What sinks on a local disk share: one writing process at a time, whole small files, and errors that say what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable

_FULL_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXT = re.compile(r"(?i)no space left|disk is full|file too large|quota exceeded|os error (27|28|122)\b")
_DENIED_TEXT = re.compile(r"(?i)permission denied|read-only file system|os error (13|30)\b|readonly database|unable to open database file")


def project_path(place: Path, text: str) -> Path:
    """A path from a definition: relative ones lie under the project, which holds the mesh's data folder `place`."""
    return (place.parent / Path(text).expanduser()).absolute()


def explained(error: Exception, what: str, where: str, text: str | None = None) -> MillstreamError:
    """The error to raise for a failed write: a full disk, a place that may not be written, or one worth another try.

    `text` stands for the error's own where that may hold secrets.
    """
    said = text if text is not None else str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL_ERRNO or _FULL_TEXT.search(said):
        return Irrecoverable(
            f"the disk is full: cannot {what}; what was there is unharmed",
            code="disk_full",
            where=where,
            cure="make room (or move the target to a larger disk) and start again; it goes on where it stopped",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST) or _DENIED_TEXT.search(said):
        return Refused(
            f"cannot {what}: {said}",
            code="target_unwritable",
            where=where,
            cure="let this user write there, or choose another place in the sink's options",
        )
    return Retryable(f"cannot {what}: {said}", code="target_unavailable", where=where, cure="see the reason; the write is tried again")


def make_folder(folder: Path) -> None:
    """Raises what `explained` says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, "make the folder", str(folder)) from error


def replace_file(path: Path, content: bytes) -> None:
    """Replace a small file: after a crash it is the old one or the new one, whole. Durable on return. Raises OSError."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """Held by one live process; the system lets go of it when that process ends, however it ends."""

    def __init__(self, path: Path, target: str) -> None:
        """Raises Refused("target_in_use") naming the process that holds it."""
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise explained(error, "make the lock file", str(path)) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise Refused(
                f"process {holder} is writing there",
                code="target_in_use",
                where=target,
                cure=f"stop process {holder}, or wait until it has ended, and start again",
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """A second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        # A sink dropped without close (its thread died) must not hold its target until the process ends.
        if getattr(self, "_handle", -1) >= 0:
            self.release()
