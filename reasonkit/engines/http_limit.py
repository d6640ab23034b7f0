"""How many requests are in flight at once: as many as the server takes without complaint.

Additive increase, multiplicative decrease. Starting small, each success adds a slot until the first complaint
(429, 5xx, timeout); a complaint halves the slots, and from then on a whole round of successes adds one. Complaints
of requests that started before the last cut are echoes of the same congestion and cut nothing. Nothing here looks
at the clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

START = 8


class AdaptiveLimit:
    """asyncio.Semaphore cannot shrink, so the queue of waiters is our own: first come, first served."""

    def __init__(self, ceiling: int, start: int = START) -> None:
        self.size = min(start, ceiling)
        """Slots now."""
        self._ceiling = ceiling
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cuts = 0
        self._credit = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Waits for a slot; yields the mark to hand to `congested`."""
        await self._acquire()
        try:
            yield self._cuts
        finally:
            self._busy -= 1
            self._admit()

    def succeeded(self) -> None:
        if self._busy < self.size:
            return  # the limit was not what held requests back, so nothing was learned about it
        self._credit += 1.0 / self.size if self._cuts else 1.0
        if self._credit >= 1.0 and self.size < self._ceiling:
            self._credit = 0.0
            self.size += 1
            self._admit()

    def congested(self, mark: int) -> None:
        if mark < self._cuts:
            return
        self._cuts += 1
        self._credit = 0.0
        self.size = max(1, self.size // 2)

    async def _acquire(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled in the same moment
                self._busy -= 1
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._busy < self.size:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)
