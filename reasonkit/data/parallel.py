"""A mixture drawn by several processes, record for record the same as by one.

The order of a mixture's parts is known before a record is drawn, and each part is a stream of its own. So each
process draws a few of the parts, in the order in which their records will be needed, and the caller merges.
What one process sends is bounded by its pipe, so memory does not grow with the mixture. Which process draws what
depends on how long each part takes, and changes no record.

A single source is not divided: whether a problem is new depends on all before it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

from reasonkit.records import Record

CHUNK = 64
"""Records sent at once."""

_PROBE_SECONDS = 0.1
_PROBE_DRAWS = 20

Streams = Callable[[], list[Iterator[Record]]]
"""Opens the stream of each part; sent to the processes, so it must be picklable."""


def cores() -> int:
    """The cores that this process may use. A container may have fewer than its machine."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def drawn_by(workers: int, streams: Streams, order: Sequence[int]) -> Iterator[Record | None]:
    """The next record of part `order[0]`, then of `order[1]`, …; None where that part has no more."""
    team = _shared_out(_costs(streams(), order), workers)
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow
    with ExitStack() as stack:
        received: list[Iterator[Record | None]] = []
        for worker in range(max(team) + 1):
            here, there = context.Pipe(duplex=False)
            mine = [place for place in order if team[place] == worker]
            process = context.Process(target=_draw, args=(there, streams, mine), daemon=True)
            process.start()
            there.close()
            stack.callback(_end, process, here)
            received.append(_received(here))
        for place in order:
            yield next(received[team[place]])


def _draw(sink: Connection, streams: Streams, order: Sequence[int]) -> None:
    """In a process of its own: send the records of `order` in chunks, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who ends this process
    parts = streams()
    try:
        for start in range(0, len(order), CHUNK):
            sink.send([next(parts[place], None) for place in order[start : start + CHUNK]])
    except BrokenPipeError:
        return  # the caller is gone
    except Exception as error:
        sink.send(error)  # raised there as if it had been drawn there
    sink.close()


def _received(source: Connection) -> Iterator[Record | None]:
    while True:
        chunk: list[Record | None] | Exception = source.recv()
        if isinstance(chunk, Exception):
            raise chunk
        yield from chunk


def _end(process: Any, connection: Connection) -> None:
    connection.close()
    process.terminate()
    process.join()


def _costs(streams: Sequence[Iterator[Record]], order: Sequence[int]) -> list[float]:
    """About how long each part's share takes, from its first draws. Only decides who draws what."""
    costs = []
    for place, stream in enumerate(streams):
        next(stream, None)  # tables that are made once are no part of the pace
        started = time.process_time()
        draws = 0
        while draws < _PROBE_DRAWS and time.process_time() - started < _PROBE_SECONDS:
            next(stream, None)
            draws += 1
        costs.append((time.process_time() - started) / draws * order.count(place))
    return costs


def _shared_out(costs: Sequence[float], workers: int) -> list[int]:
    """A worker for each part: the costliest parts first, each to whoever has least to do."""
    load = [0.0] * min(workers, len(costs))
    team = [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        team[place] = min(range(len(load)), key=load.__getitem__)
        load[team[place]] += costs[place]
    return team
