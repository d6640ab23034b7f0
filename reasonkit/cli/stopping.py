"""Ctrl-C and SIGTERM end a command's asynchronous work in order, and the error says how to go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from reasonkit.errors import Stopped

T = TypeVar("T")


def run_until_stopped(work: Coroutine[Any, Any, T], kept: str) -> T:
    """What `work` returns. `kept` says what is left of it when it is stopped."""
    return asyncio.run(_stoppable(work, kept))


async def _stoppable(work: Coroutine[Any, Any, T], kept: str) -> T:
    signals: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

    def stop(signum: int) -> None:
        signals.append(signum)
        task.cancel()

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop, signum)
    try:
        return await task
    except asyncio.CancelledError:
        if not signals:
            raise
        name = signal.Signals(signals[0]).name
        raise Stopped(signals[0], f"stopped by {name}; {kept}", "the same command goes on") from None
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)
