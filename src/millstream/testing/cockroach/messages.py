"""Messages of PostgreSQL's wire protocol as bytes, in and out, of one connection. What they mean is wire.py's."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from millstream.testing.cockroach.errors import SqlError

Row = Sequence[str | bytes | None]
"""Values as text; bytes are written as BYTEA is, in hex."""

_MESSAGE_BYTES_MAX = 64 << 20


class Gone(Exception):
    """The client has closed the connection."""


class Messages:
    """What is put goes out with `flush`, or when more is waited for. Everything that reads raises Gone at the end of the client's bytes."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = peer
        self._in, self._out = bytearray(), bytearray()

    def close(self) -> None:
        self._socket.close()

    def shut(self) -> None:
        """From another thread: the connection is over, whatever it does."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # ---- out

    def raw(self, text: bytes) -> None:
        self._out += text

    def put(self, kind: bytes, body: bytes = b"") -> None:
        self._out += kind + struct.pack("!i", len(body) + 4) + body

    def columns(self, columns: Sequence[tuple[str, int]]) -> None:
        body = struct.pack("!h", len(columns))
        for name, oid in columns:
            body += z(name) + struct.pack("!ihihih", 0, 0, oid, -1, -1, 0)
        self.put(b"T", body)

    def rows(self, rows: Sequence[Row]) -> None:
        out = self._out
        for row in rows:
            body = bytearray(struct.pack("!h", len(row)))
            for value in row:
                if value is None:
                    body += b"\xff\xff\xff\xff"
                else:
                    text = b"\\x" + value.hex().encode() if isinstance(value, bytes) else value.encode()
                    body += struct.pack("!i", len(text)) + text
            out += b"D" + struct.pack("!i", len(body) + 4) + body

    def error(self, error: SqlError, severity: str) -> None:
        message, detail, hint = _parts(error.message)
        fields = b"S" + z(severity) + b"V" + z(severity) + b"C" + z(error.sqlstate) + b"M" + z(message)
        fields += (b"D" + z(detail) if detail else b"") + (b"H" + z(hint) if hint else b"")
        self.put(b"E", fields + b"\0")

    def flush(self) -> None:
        out, self._out = self._out, bytearray()
        self._socket.sendall(out)

    def cut(self) -> None:
        """What was to be sent, without its last bytes: never at the end of a message, and no more for ever."""
        self.rows([("cut", b"[1]", b'{"after": {')])
        with suppress(OSError):
            self._socket.sendall(self._out[: len(self._out) - 3])
        self.shut()

    # ---- in

    def message(self) -> tuple[bytes, bytes]:
        head = self.take(5)
        (length,) = struct.unpack("!i", head[1:])
        if not 4 <= length <= _MESSAGE_BYTES_MAX:
            raise Gone
        return head[:1], self.take(length - 4)

    def take(self, size: int) -> bytes:
        while len(self._in) < size:
            if self._out:
                self.flush()  # whoever waits for us must not be waited for
            self._receive()
        taken = bytes(self._in[:size])
        del self._in[:size]
        return taken

    def _receive(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise Gone
        self._in += piece

    def gone(self) -> bool:
        """Whether the client has left while it is being answered: the end of its bytes, or its goodbye."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            while poll.poll(0):
                self._receive()
        except (Gone, OSError):
            return True
        return self._in[:5] == b"X\0\0\0\4" or self._in[5:10] == b"X\0\0\0\4"


def z(text: str) -> bytes:
    return text.encode() + b"\0"


def string(body: bytes, at: int) -> tuple[str, int]:
    """The text at a place, and the place behind it."""
    end = body.index(b"\0", at)
    return body[at:end].decode(), end + 1


def _parts(text: str) -> tuple[str, str, str]:
    text, _, hint = text.partition("\nHINT:  ")
    message, _, detail = text.partition("\nDETAIL:  ")
    return message, detail, hint
