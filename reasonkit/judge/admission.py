"""Back-pressure: so many bytes of requests at a time, and whoever comes next waits for its turn.

Clients of a reward server take a refusal for a verdict (II-VERL turns any 5xx into a 0), so nobody is refused. A
request that has no room yet is not even read: its body stays in the client's and the kernel's buffers, and what it
costs here is a socket. First come, first served, also for large requests behind small ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

LEAST = 1 << 16
"""Bytes that the smallest request counts for, so that their number is bounded as well."""


class Admission:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.admitted = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Hold room for a request of `size` bytes while the body of the `with` runs; waits until there is some."""
        size = min(self.limit, max(size, LEAST))
        if self._waiting or self.used + size > self.limit:
            await self._wait(size)
        else:
            self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _wait(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._give(size)  # the turn came together with the cancellation
            elif place in self._waiting:
                self._waiting.remove(place)
                self._admit()
            raise

    def _take(self, size: int) -> None:
        self.used += size
        self.admitted += 1

    def _give(self, size: int) -> None:
        self.used -= size
        self.admitted -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.limit:
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._take(size)
                turn.set_result(None)
