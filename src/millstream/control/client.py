"""A command's side: ask the running process, and read what it answers as it comes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millstream.control.protocol import Received, check_folder, send_request
from millstream.errors import Retryable

CONNECT_S = 5.0


def ask(path: Path, request: Mapping[str, Any], silence_s: float) -> Received:
    """Send one request; the answer is read as it is asked for. `silence_s`: how long nothing may come before it counts as lost.

    Raises Retryable("control_silent") where nobody listens; each call of the answer raises whatever error the process answers with.
    Close the answer.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_S)
        try:
            check_folder(path)
            connection.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError, TimeoutError, BlockingIOError) as e:  # the last: too many wait already
            raise Retryable(
                "the process that runs this mesh does not listen",
                code="control_silent",
                where=str(path),
                cure="it may be starting or stopping: try again in a moment",
            ) from e
        connection.settimeout(silence_s)
        send_request(connection, request)
        return Received(connection)
    except BaseException:
        connection.close()
        raise
