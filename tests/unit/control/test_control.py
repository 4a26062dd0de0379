"""The control socket: answers stream, errors arrive as what they were, and nothing that a client does harms the process."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.control import client, protocol, server
from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable

SCHEMA = pa.schema([("n", pa.int64()), ("t", pa.string())])


class Counted:
    """So many batches; then an error, if there is one, or an end."""

    def __init__(self, batches: int, error: Exception | None = None, wide: int = 1) -> None:
        self._batches, self._error, self._wide = batches, error, wide
        self.closed = threading.Event()

    def begin(self) -> pa.Schema:
        return SCHEMA

    def batches(self) -> Iterator[pa.RecordBatch]:
        for n in range(self._batches):
            yield pa.record_batch([[n], ["x" * self._wide]], schema=SCHEMA)
        if self._error is not None:
            raise self._error

    def end(self) -> Mapping[str, Any]:
        return {"batches": self._batches}

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return protocol.socket_path(tmp_path)


def answer(place: Path, request: Mapping[str, Any]) -> list[int]:
    with closing(client.ask(place, request, 10)) as received:
        return numbers(received)


def numbers(received: protocol.Received) -> list[int]:
    received.begin()
    return [n for b in received.batches() for n in b.column("n").to_pylist()]


@pytest.mark.parametrize("wide", [1, protocol.FRAME_BYTES_MAX + 17])
def test_an_answer_streams_and_ends(place: Path, wide: int) -> None:
    seen: list[Mapping[str, Any]] = []

    def handle(request: Mapping[str, Any]) -> Counted:
        seen.append(request)
        return Counted(3, wide=wide)

    with server.served(place, handle):
        received = client.ask(place, {"what": "three"}, 10)
        assert received.begin() == SCHEMA
        assert [n for b in received.batches() for n in b.column("n").to_pylist()] == [0, 1, 2]
        assert received.end() == {"batches": 3}
        received.close()
    assert seen == [{"what": "three"}]
    assert not place.exists()


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("error", [Refused("no", code="no", where="w", cure="c"), Irrecoverable("over", code="over")])
def test_an_error_arrives_as_what_it_was_at_any_moment(place: Path, error: MillstreamError, after: int) -> None:
    def handle(request: Mapping[str, Any]) -> Counted:
        if not after:
            raise error
        return Counted(after, error)

    with server.served(place, handle), pytest.raises(type(error)) as caught, closing(client.ask(place, {}, 10)) as received:
        assert len(numbers(received)) == after
        received.end()
    assert (caught.value.message, caught.value.code, caught.value.where, caught.value.cure) == (
        error.message,
        error.code,
        error.where,
        error.cure,
    )


def test_a_defect_is_told_and_the_next_request_is_answered(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    def handle(request: Mapping[str, Any]) -> Counted:
        if request.get("bad"):
            raise ZeroDivisionError
        return Counted(1)

    with server.served(place, handle):
        with pytest.raises(Irrecoverable, match="ZeroDivisionError"):
            answer(place, {"bad": 1})
        assert answer(place, {}) == [0]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (struct.pack(">I", protocol.REQUEST_BYTES_MAX + 1), "request_too_large"),
        (struct.pack(">I", 3) + b"xyz", "request_unreadable"),
        (struct.pack(">I", 2) + b"[]", "request_unreadable"),
    ],
)
def test_what_is_no_request_is_refused(place: Path, sent: bytes, code: str) -> None:
    with server.served(place, lambda request: Counted(1)):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(place))
        connection.sendall(sent)
        with pytest.raises(Refused) as caught:
            protocol.Received(connection).begin()
        connection.close()
    assert caught.value.code == code


def test_a_client_that_goes_harms_nobody(place: Path) -> None:
    made: list[Counted] = []

    def handle(request: Mapping[str, Any]) -> Counted:
        made.append(Counted(1_000_000, wide=1000))
        return made[-1]

    with server.served(place, handle):
        for _ in range(server.AT_ONCE + 2):  # more than there are places for
            client.ask(place, {}, 10).close()
        assert all(m.closed.wait(10) for m in made)
    with server.served(place, handle):
        socket.socket(socket.AF_UNIX).close()


def test_stopping_cuts_an_answer_off(place: Path) -> None:
    with server.served(place, lambda request: Counted(1_000_000_000)):
        received = client.ask(place, {}, 10)
        assert received.begin() == SCHEMA
    with pytest.raises(Retryable) as caught:
        for _ in received.batches():
            pass
    received.close()
    assert caught.value.code == "control_lost"


def test_nobody_listens(place: Path) -> None:
    with pytest.raises(Retryable) as caught:
        client.ask(place, {}, 10)
    assert caught.value.code == "control_silent"


def test_a_dead_process_s_socket_is_replaced_and_only_its_user_may_open_it(place: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(place))
    dead.close()
    with pytest.raises(Retryable):
        client.ask(place, {}, 10)
    with server.served(place, lambda request: Counted(1)):
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert answer(place, {}) == [0]


def test_a_long_path_has_a_short_socket_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        home = tmp_path / ("d" * 90) / "state"
        home.mkdir(parents=True)
        place = protocol.socket_path(home)
        assert len(os.fsencode(place)) <= protocol.PATH_BYTES_MAX
        assert place != protocol.socket_path(home.parent)
        with server.served(place, lambda request: Counted(1)):
            assert answer(place, {}) == [0]
            place.parent.chmod(0o777)
            with pytest.raises(Refused) as caught:
                client.ask(place, {}, 10)
        assert caught.value.code == "control_unsafe"
