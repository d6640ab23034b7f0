"""The ranks of a learner as processes of this machine: starting them, talking to them, saying which one is stuck.

Every call goes to all ranks. They move on together, so it is over when the last has answered; one that dies, fails
or stops moving on ends the call with an error that names it. How long a call may take is no number: a step may be
long. What counts is that the ranks tick (`Mesh.tick`), all of them, again and again. Left out: several machines
(cluster.py runs the same ranks as actors there).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from reasonkit.errors import ReasonkitError

STALLED = 600.0
"""Seconds without a tick after which a rank is taken for stuck. Compiling a model may take minutes of them."""
GRACE = 2.0
"""Seconds in which a death explains the errors of those who were waiting for the dead."""


class Ranks:
    """Not for several threads at once, but for any thread: a lock sees to that."""

    def __init__(
        self,
        count: int,
        make: Callable[..., Any],
        *arguments: Any,
        threads: int = 0,
        stalled: float = STALLED,
    ) -> None:
        """`make(rank, count, address, tick, *arguments)` gives each process the object whose methods are called."""
        context = multiprocessing.get_context("spawn")
        self.broken = False
        """Whether a rank is lost, and with it what all of them do together."""
        self._stalled = stalled
        self._lock = threading.Lock()
        self._ticks = context.Array("q", count, lock=False)
        self._folder = tempfile.TemporaryDirectory(prefix="reasonkit-ranks-")
        address = f"file://{Path(self._folder.name) / 'rendezvous'}"
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(
                target=_serve,
                args=(rank, count, address, theirs, self._ticks, threads, make, arguments),
                name=f"learner-rank-{rank}",
                daemon=True,
            )
            for rank, (_, theirs) in enumerate(pipes)
        ]
        with _unstoppable():  # children inherit what they do about Ctrl-C: this process decides when they end
            for process in self._processes:
                process.start()
        for _, theirs in pipes:
            theirs.close()
        self._doing = "starting"
        try:
            self._answers()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """The method's result on every rank."""
        with self._lock, self._breaking():
            self._tell(method, arguments, options)
            return self._answers()

    def stream(self, method: str) -> Iterator[Any]:
        """What the method yields, on rank 0; the others yield along, for nobody."""
        with self._lock, self._breaking():
            self._tell(method, (), {})
            parts: list[Any] = []
            said = self._collect(parts.append)
            try:
                for _ in said:
                    yield from parts
                    parts.clear()
            finally:
                for _ in said:  # hear the ranks out, should nobody want the rest
                    pass

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if process.pid is not None:
                process.join(GRACE)
                process.kill()
                process.join()
        self._folder.cleanup()

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except ReasonkitError:
            self.broken = True
            raise

    def _tell(self, method: str, arguments: Sequence[Any], options: dict[str, Any]) -> None:
        self._doing = method
        message = pickle.dumps((method, arguments, options))
        for rank, pipe in enumerate(self._pipes):
            try:
                pipe.send_bytes(message)
            except OSError as error:
                raise self._dead(rank) from error

    def _answers(self) -> list[Any]:
        answers: dict[int, Any] = {}
        for _ in self._collect(lambda _part: None, answers):
            pass
        return [answers[rank] for rank in range(len(self._pipes))]

    def _collect(self, part: Callable[[Any], None], answers: dict[int, Any] | None = None) -> Iterator[None]:
        """Waits until every rank has answered; comes back after everything that was said."""
        open_ = dict(enumerate(self._pipes))
        ticks, moved = list(self._ticks), time.monotonic()
        while open_:
            for pipe in wait(list(open_.values()), timeout=min(1.0, self._stalled / 4)):
                rank = self._pipes.index(pipe)  # type: ignore[arg-type]
                kind, content = self._hear(rank)
                moved = time.monotonic()
                if kind == "part":
                    part(content)
                    yield
                    continue
                if kind == "failed":
                    raise self._failure(rank, content)
                if answers is not None:
                    answers[rank] = content
                del open_[rank]
            if list(self._ticks) != ticks:
                ticks, moved = list(self._ticks), time.monotonic()
            if time.monotonic() - moved > self._stalled:
                raise self._stuck(sorted(open_))
        yield

    def _hear(self, rank: int) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = pickle.loads(self._pipes[rank].recv_bytes())
        except (EOFError, OSError) as error:
            raise self._dead(rank) from error
        return message

    def _failure(self, rank: int, error: _Failed) -> ReasonkitError:
        """Whose partner dies or fails will fail too: the cause is a death, or else what came first."""
        if error.known is not None:
            return error.known
        failures = {rank: error}
        until = time.monotonic() + GRACE
        while open_ := [pipe for other, pipe in enumerate(self._pipes) if other not in failures]:
            ready = wait(open_, timeout=max(until - time.monotonic(), 0.0))
            if not ready:
                break
            other = self._pipes.index(ready[0])  # type: ignore[arg-type]
            kind, content = self._hear(other)
            failures[other] = content if kind == "failed" else _Failed("", "", None, float("inf"))
        first = min(failures, key=lambda each: failures[each].moment)
        return ReasonkitError(
            f"learner rank {first} of {len(self._pipes)} failed in {self._doing}: {failures[first].summary}\n"
            f"{failures[first].trace}",
            "resume from the last checkpoint",
        )

    def _dead(self, rank: int) -> ReasonkitError:
        process = self._processes[rank]
        process.join(GRACE)
        code = process.exitcode
        how = (
            f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        )
        return ReasonkitError(
            f"learner rank {rank} of {len(self._pipes)} ended {how} in {self._doing}",
            "out of memory? `dmesg | tail` says; then reasonkit train --resume RUN --set train.token_budget=1024",
        )

    def _stuck(self, silent: list[int]) -> ReasonkitError:
        """The rank that has come least far is the one that the others wait for."""
        behind = min(silent, key=lambda rank: self._ticks[rank])
        ticks = ", ".join(f"rank {rank} at {self._ticks[rank]}" for rank in range(len(self._pipes)))
        return ReasonkitError(
            f"learner rank {behind} of {len(self._pipes)} has not moved on for {self._stalled:g} s "
            f"in {self._doing} (ticks: {ticks})",
            "look at that process with py-spy or at its device, then resume from the last checkpoint",
        )


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error of a rank, as it travels."""

    summary: str
    trace: str
    known: ReasonkitError | None
    moment: float


@contextlib.contextmanager
def _unstoppable() -> Iterator[None]:
    """Spawned processes keep ignoring what is ignored here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(
    rank: int,
    count: int,
    address: str,
    pipe: Connection,
    ticks: Any,
    threads: int,
    make: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    """The life of a rank's process: make the object, then do what is asked until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if threads:
        torch.set_num_threads(threads)

    def tick() -> None:
        ticks[rank] += 1

    def say(kind: str, content: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, content)))

    def attempt(work: Callable[[], Any]) -> Any:
        tick()
        try:
            result = work()
            if isinstance(result, Iterator):
                for part in result:
                    tick()
                    if rank == 0:
                        say("part", part)
                result = None
        except BaseException as error:
            moment = time.monotonic()
            known = error if isinstance(error, ReasonkitError) else None
            summary = f"{type(error).__name__}: {error}"
            with contextlib.suppress(BrokenPipeError):  # another rank's failure was heard first
                say("failed", _Failed(summary, traceback.format_exc(), known, moment))
            os._exit(1)
        say("done", result if work is not begin else None)
        return result

    def begin() -> Any:
        return make(rank, count, address, tick, *arguments)

    target = attempt(begin)
    with contextlib.suppress(EOFError):
        while True:
            method, given, options = pickle.loads(pipe.recv_bytes())
            attempt(partial(getattr(target, method), *given, **options))
    os._exit(0)  # threads of a collective that never ends would hold the interpreter


def _end_with(sentinel: int) -> None:
    """A process whose parent was killed has nobody left to work for."""
    wait([sentinel])
    os._exit(1)
