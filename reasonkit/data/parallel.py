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

PIPE_BYTES = 1 << 20
"""How far a process may be ahead: the largest pipe that Linux gives anyone. Of 64 KiB it waits half the time."""

_PROBE_SECONDS = 0.1
_PROBE_DRAWS = 20

Open = Callable[[int], Iterator[Record]]
"""Opens the stream of a part; sent to the processes, so it must be picklable."""


def cores() -> int:
    """The cores that this process may use. A container may have fewer than its machine."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def drawn_by(
    workers: int, open_part: Open, libraries: Sequence[str], order: Sequence[int]
) -> Iterator[Record | None]:
    """The next record of part `order[0]`, then of `order[1]`, …; None where that part has no more.

    `libraries[i]` names what part i is drawn with: who shares out the parts keeps those of one together.
    """
    costs = [_cost(open_part(place)) * order.count(place) for place in range(len(libraries))]
    team = _shared_out(costs, libraries, workers)
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow
    with ExitStack() as stack:
        received: list[Iterator[Record | None]] = []
        for worker in range(max(team) + 1):
            here, there = context.Pipe(duplex=False)
            _widen(there)
            mine = [place for place in order if team[place] == worker]
            process = context.Process(target=_draw, args=(there, open_part, mine), daemon=True)
            process.start()
            there.close()
            stack.callback(_end, process, here)
            received.append(_received(here))
        for place in order:
            yield next(received[team[place]])


def _widen(pipe: Connection) -> None:
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _draw(sink: Connection, open_part: Open, order: Sequence[int]) -> None:
    """In a process of its own: send the records of `order` in chunks, or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who ends this process
    parts = {place: open_part(place) for place in set(order)}
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


def _cost(stream: Iterator[Record]) -> float:
    """About how long a record of a part takes, from its first draws. Only decides who draws what."""
    next(stream, None)  # tables that are made once are no part of the pace
    started = time.process_time()
    draws = 0
    while draws < _PROBE_DRAWS and time.process_time() - started < _PROBE_SECONDS:
        next(stream, None)
        draws += 1
    return (time.process_time() - started) / draws


def _shared_out(costs: Sequence[float], libraries: Sequence[str], workers: int) -> list[int]:
    """A worker for each part: the costliest first, each to whoever has least to do.

    The parts of one library go together, so that not every process loads it, unless they are more than a share.
    """
    bundles: list[list[int]] = []
    for library in dict.fromkeys(libraries):
        parts = [place for place, its in enumerate(libraries) if its == library]
        together = sum(costs[place] for place in parts) <= sum(costs) / workers
        bundles += [parts] if together else [[place] for place in parts]
    load = [0.0] * min(workers, len(costs))
    team = [0] * len(costs)
    for bundle in sorted(bundles, key=lambda bundle: -sum(costs[place] for place in bundle)):
        worker = min(range(len(load)), key=load.__getitem__)
        for place in bundle:
            team[place] = worker
            load[worker] += costs[place]
    return team
