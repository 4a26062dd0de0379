"""A client's connection: uvicorn's, which also ends where the head of a request does not come in time. Bodies are `server.py`'s to time."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from millstream.schemas.rest import server


class Connection(H11Protocol):
    """uvicorn times only what is between two requests: who says nothing, or half a head, would hold a connection for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait(self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(False)
        super().connection_lost(exc)

    def _wait(self, for_a_head: bool) -> None:
        if for_a_head and self._late is None:
            self._late = self.loop.call_later(server.HEAD_WITHIN_S, self.transport.close)
        elif not for_a_head and self._late is not None:
            self._late.cancel()
            self._late = None
