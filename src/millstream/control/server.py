"""The running process's ear: a Unix socket that only its user may open, a few requests at once, each with a thread of its own.

What a request means is its handler's. Whoever serves holds the mesh's running lock: a socket that lies there already is a dead one's.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from millstream.control.protocol import Answer, check_folder, receive_request, send_answer, send_error
from millstream.errors import Irrecoverable, MillstreamError

log = logging.getLogger("millstream.control")

Handler = Callable[[Mapping[str, Any]], Answer]
"""handler(request): raises MillstreamError, which is the answer then. Called from several threads."""

AT_ONCE, WAITING = 4, 64
SILENCE_S = 30.0  # a client that neither reads nor writes for so long is gone


@contextmanager
def served(path: Path, handler: Handler) -> Iterator[None]:
    """Answer requests at `path` while this lasts. At the end answers that are under way are cut off."""
    server = _Server(path, handler)
    thread = threading.Thread(target=server.run, name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()


class _Server:
    def __init__(self, path: Path, handler: Handler) -> None:
        self._path, self._handler = path, handler
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._stopping = False
        self._lock = threading.Lock()
        self._open: dict[socket.socket, Answer | None] = {}
        self._threads: list[threading.Thread] = []
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(path)
        with suppress(FileNotFoundError):
            path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(os.fspath(path))
            path.chmod(0o600)
            self._socket.listen(WAITING)  # only now can anyone connect
        except BaseException:
            self._socket.close()
            raise

    def run(self) -> None:
        while True:
            self._free.acquire()
            try:
                connection, _ = self._socket.accept()
            except OSError:  # stop() closed it
                self._free.release()
                return
            connection.settimeout(SILENCE_S)
            with self._lock:
                if self._stopping:
                    connection.close()
                    self._free.release()
                    return
                self._open[connection] = None
                self._threads = [t for t in self._threads if t.is_alive()]
                thread = threading.Thread(target=self._answer, args=(connection,), name="control request", daemon=True)
                self._threads.append(thread)
                thread.start()  # under the lock: whoever stops us joins only what has begun

    def _answer(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError, EOFError):  # whoever asked has gone: nobody is there to be told
                self._answered(connection)
        finally:
            with self._lock:
                answer = self._open.pop(connection, None)
            if answer is not None:
                answer.close()
            connection.close()
            self._free.release()

    def _answered(self, connection: socket.socket) -> None:
        try:
            request = receive_request(connection)
            answer = self._handler(request)
            with self._lock:
                self._open[connection] = answer
            send_answer(connection, answer)
        except MillstreamError as e:
            send_error(connection, e)
        except (OSError, EOFError):
            raise
        except Exception as e:  # a defect of ours: who asked is told, and the process runs on
            log.exception("a request failed")
            send_error(connection, Irrecoverable(f"{type(e).__name__}: {e}", code="defect"))

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for connection, answer in self._open.items():
                if answer is not None:
                    answer.close()
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._socket.close()
        for thread in self._threads:
            thread.join()
        with suppress(FileNotFoundError):
            self._path.unlink()
