"""The file and its position beside it: `<file>.position` holds {sink, fence, positions} and the length that they stand for.

Lines are made durable first, the position second, by replacing its small file. What lies past that length was never
committed: opening cuts it off. So a crash at any byte leaves each event once. `<file>.lock` names the one process that
writes; it is left behind and means nothing without a living process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from millstream.errors import Irrecoverable, MillstreamError
from millstream.faultpoints import reached
from millstream.sinks.files import Lock, explained, make_folder, replace_file, sync_folder
from millstream.sinks.position import Held


class LineFile:
    """One opening of the file, by the only process that writes it."""

    def __init__(self, path: Path) -> None:
        """Raises Refused("target_in_use"), Refused("target_unwritable"), Irrecoverable("position_lost"), ("target_changed")."""
        self.path = path
        self._position_path = path.with_name(f"{path.name}.position")
        make_folder(path.parent)
        self._lock = Lock(path.with_name(f"{path.name}.lock"), str(path))
        self._handle, self._length = -1, 0
        self.held: Held | None = None
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self.settle()
            sync_folder(path.parent)
        except OSError as error:
            self.close()
            raise explained(error, "open the file", str(path)) from error
        except MillstreamError:
            self.close()
            raise

    def _read_position(self) -> tuple[Held | None, int]:
        size = os.fstat(self._handle).st_size
        try:
            text = self._position_path.read_text()
        except FileNotFoundError:
            if size:
                raise self._lost("it is gone, and the file is not empty") from None
            return None, 0
        try:
            length = int(json.loads(text)["length"])
            held = Held.of(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._lost("it is not readable") from error
        if size < length:
            raise Irrecoverable(
                f"the file has {size} bytes, but {length} were written: someone cut or replaced it",
                code="target_changed",
                where=str(self.path),
                cure=f"bring the file back, or delete {self._position_path.name} and the file to write it anew from the topic's start",
            )
        return held, length

    def _lost(self, why: str) -> Irrecoverable:
        return Irrecoverable(
            f"the position {self._position_path.name} cannot be used: {why}; events could be lost or written twice",
            code="position_lost",
            where=str(self.path),
            cure="bring it back, or move the file away so that it is written anew from the topic's start",
        )

    def append(self, chunks: Iterable[bytes], held: Held) -> None:
        """Append and move the position, as one. Durable on return; after an error the file is as its position says."""
        end = self._length
        try:
            for chunk in chunks:
                end = self._put(chunk, end)
            os.fsync(self._handle)
            reached("sink.jsonl.lines_written")
            document = {**json.loads(held.text()), "length": end}
            replace_file(self._position_path, json.dumps(document).encode())
            reached("sink.jsonl.position_written")
        except OSError as error:
            self.settle()
            raise explained(error, "append to the file", str(self.path)) from error
        except Exception:
            self.settle()
            raise
        self.held, self._length = held, end

    def settle(self) -> None:
        """Take the position as it stands on disk and cut off what lies past it. Raises as the opening does."""
        try:
            self.held, self._length = self._read_position()
            os.ftruncate(self._handle, self._length)
        except OSError as error:
            raise explained(error, "read the position", str(self.path)) from error

    def _put(self, chunk: bytes, at: int) -> int:
        rest = memoryview(chunk)
        while rest:
            written = os.pwrite(self._handle, rest, at)
            at, rest = at + written, rest[written:]
        return at

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._lock.release()

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            self.close()
