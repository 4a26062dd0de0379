"""What a command and the running process say to each other: one request, one answer, then the connection ends.

A request is its length (u32 big-endian) and JSON. An answer is frames, each a letter, a length (u32 big-endian) and bytes: `D` pieces of
one Arrow IPC stream, then `Z` the JSON that ends it; or `E`, at any moment, a JSON error in which the answer ends.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from millstream.errors import BadRecord, Irrecoverable, MillstreamError, Refused, Retryable

REQUEST_BYTES_MAX = 1 << 20
FRAME_BYTES_MAX = 4 << 20
PATH_BYTES_MAX = 100  # of sockaddr_un's 104 to 108, with its zero
DATA, END, ERROR = b"D", b"Z", b"E"

_KINDS: Mapping[str, type[MillstreamError]] = {k.__name__: k for k in (Retryable, BadRecord, Irrecoverable, Refused)}
_HEAD = struct.Struct(">cI")
_LENGTH = struct.Struct(">I")


class Answer(Protocol):
    """What a request is answered with: columns, batches of them, and when those are used up, what there is to say at the end.

    `close` may come at any moment and from any thread, and ends what is under way.
    """

    def begin(self) -> pa.Schema: ...

    def batches(self) -> Iterator[pa.RecordBatch]: ...

    def end(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


def socket_path(home: Path) -> Path:
    """Where the process that runs the mesh of this state folder listens: in it, or where that path is too long for a socket, in a
    folder of this user's own among the temporary files, found by the state folder's name."""
    path = home.resolve() / "control.sock"
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"millstream-{os.getuid()}" / f"{name}.sock"


def check_folder(path: Path) -> None:
    """Raises Refused where the socket's folder is not this user's alone to write: another could listen in its place."""
    about = path.parent.stat()
    if about.st_uid != os.getuid() or (path.parent.parent == Path(tempfile.gettempdir()) and stat.S_IMODE(about.st_mode) & 0o077):
        raise Refused(
            "the folder of the control socket belongs to someone else, or others may write to it",
            code="control_unsafe",
            where=str(path.parent),
            cure="remove that folder, or set TMPDIR to one of your own",
        )


# ---- requests


def send_request(connection: socket.socket, request: Mapping[str, Any]) -> None:
    data = json.dumps(request).encode()
    if len(data) > REQUEST_BYTES_MAX:
        raise Refused(f"the request has more than {REQUEST_BYTES_MAX:,} bytes", code="request_too_large", cure="make the query shorter")
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive_request(connection: socket.socket) -> dict[str, Any]:
    """Raises Refused for what is no request, EOFError where the other side went."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > REQUEST_BYTES_MAX:
        raise Refused(f"the request has more than {REQUEST_BYTES_MAX:,} bytes", code="request_too_large", cure="make it shorter")
    try:
        request = json.loads(_exactly(connection, length))
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise Refused("the request is no JSON object", code="request_unreadable", cure="use the millstream command of the same version")
    return request


# ---- answers


def send_answer(connection: socket.socket, answer: Answer) -> None:
    """Batch after batch as they come: nothing is gathered."""
    out = _Outgoing(connection)
    with pa.ipc.new_stream(pa.PythonFile(out, mode="w"), answer.begin()) as writer:
        for batch in answer.batches():
            writer.write_batch(batch)
            out.send()
    out.send()
    _send(connection, END, json.dumps(answer.end()).encode())


def send_error(connection: socket.socket, error: MillstreamError) -> None:
    kind = next(name for name, k in _KINDS.items() if isinstance(error, k))
    said = {"kind": kind, "message": error.message, "code": error.code, "where": error.where, "cure": error.cure}
    _send(connection, ERROR, json.dumps(said).encode()[:FRAME_BYTES_MAX])


class Received:
    """An answer as it comes in. Each call may raise the error that ended it."""

    def __init__(self, connection: socket.socket) -> None:
        self._frames = _Incoming(connection)
        self._connection = connection

    def begin(self) -> pa.Schema:
        self._reader = self._failing(lambda: pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(self._frames), mode="r")))
        return self._reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                yield self._failing(self._reader.read_next_batch)
            except StopIteration:
                return

    def end(self) -> Mapping[str, Any]:
        self._frames.read_to_end()
        if self._frames.error is not None:
            raise self._frames.error
        return self._frames.ended

    def close(self) -> None:
        self._connection.close()

    def _failing(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (pa.ArrowException, OSError, EOFError) as e:
            raise self._frames.error or _gone() from e


class _Outgoing(io.RawIOBase):
    """A file whose bytes go out as `D` frames; what was not sent when an error ends the answer stays unsaid."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), FRAME_BYTES_MAX // 2):
            self._held += view[start : start + FRAME_BYTES_MAX // 2]
            if len(self._held) >= FRAME_BYTES_MAX // 2:
                self.send()
        return len(view)

    def send(self) -> None:
        if self._held:
            _send(self._connection, DATA, bytes(self._held))
            self._held.clear()


class _Incoming(io.RawIOBase):
    """The bytes of `D` frames as a file; what ended them is kept."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = memoryview(b"")
        self.error: MillstreamError | None = None
        self.ended: dict[str, Any] = {}
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._next():
            return 0
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def read_to_end(self) -> None:
        while self._next():
            self._left = memoryview(b"")

    def _next(self) -> bool:
        if self._over:
            return False
        try:
            kind, length = _HEAD.unpack(_exactly(self._connection, _HEAD.size))
            if length > FRAME_BYTES_MAX or kind not in (DATA, END, ERROR):
                raise EOFError
            data = _exactly(self._connection, length)
        except (OSError, EOFError) as e:
            self.error, self._over = _gone(), True
            raise self.error from e
        if kind == DATA:
            self._left = memoryview(data)
            return True
        self._over = True
        said = json.loads(data)
        if kind == ERROR:
            self.error = _KINDS[said["kind"]](said["message"], code=said["code"], where=said["where"], cure=said["cure"])
        else:
            self.ended = said
        return False


def _gone() -> Retryable:
    return Retryable("the running process ended before it had answered", code="control_lost", cure="look at `millstream status`; try again")


def _send(connection: socket.socket, kind: bytes, data: bytes | memoryview) -> None:
    connection.sendall(_HEAD.pack(kind, len(data)))
    connection.sendall(data)


def _exactly(connection: socket.socket, count: int) -> bytes:
    """Raises EOFError where the other side ends before."""
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
