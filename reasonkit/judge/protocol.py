"""uvicorn's HTTP protocol with the one time limit that it lacks: on a request that never gets past its headers.

uvicorn closes idle connections between requests, but one that sends a header a minute stays open for ever; a few
thousand of those (slow loris) use up the descriptors.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEADER_SECONDS = 15.0


class ImpatientProtocol(H11Protocol):
    """Closes a connection whose next request is not under way within HEADER_SECONDS of its first byte."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if not self._waits():
            self._forget()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _waits(self) -> bool:
        """For a request to get past its headers: uvicorn has no `cycle` before the first has."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _forget(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        self._overdue = None
        if self._waits() and not self.transport.is_closing():
            self.transport.close()
