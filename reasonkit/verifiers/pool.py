"""The verifier pool: persistent worker processes in which a verdict that takes too long is killed for good.

A parser cannot be interrupted from a thread, and timeouts by signal handler work in the main thread only and not
inside C code. So each worker is a process of its own (worker.py), freshly exec'd. A verdict that exceeds its CPU
limit ends its process, gets status `timeout`, and delays nobody: texts that had been sent to the same worker are
recalled after a moment, and while it is held up a reserve takes its place. CPU time and not wall time decides, so
that verdicts do not depend on the load of the machine; a worker that makes no progress for a long wall time
although it has CPU time left is an infrastructure failure and becomes `error`.

Callable from any thread; `asyncio.wrap_future` makes it awaitable. It installs no signal handlers. It does
not run untrusted code: that is what reasonkit.sandbox is for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers.worker import PRELOADS, RECALL, Job, pack

CPU_SECONDS = 1.5
WALL_SECONDS = 120.0
START_SECONDS = 120.0
RECALL_SECONDS = 0.1
RESERVES = 2
"""Slots a worker: while texts hold half of them up, the other half judges. Most are never started."""
MAX_BATCH = 16
MAX_BATCH_CHARACTERS = 1 << 18
MAX_PENDING = 4096
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
"""Signals that a process brings upon itself: a text that does it twice is at fault, not the machine."""
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", re.IGNORECASE)


def cores() -> int:
    """How many workers keep this machine busy without crowding it."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1))


class WorkerLost(Exception):
    """A worker process is gone for a reason that is not the text it was judging."""


@dataclass(slots=True)
class _Pending:
    job: Job
    future: Future[Verdict]
    started: bool = False
    deaths: int = 0
    """How many workers were lost while this text was being judged."""

    def resolve(self, verdict: Verdict) -> None:
        self.future.set_result(verdict)


@dataclass(slots=True)
class _Worker:
    """One worker process, seen from the parent: frames of jobs go in, lines of JSON come out."""

    preloads: frozenset[str]
    recalls: int = 0
    """Recalls that the worker has not confirmed yet; until then a death may not be laid to the next text."""
    process: subprocess.Popen[bytes] = field(init=False)
    _buffer: bytearray = field(default_factory=bytearray)
    _lines: deque[bytes] = field(default_factory=deque)

    def __post_init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with tempfile.TemporaryFile() as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reasonkit.verifiers.worker", *sorted(self.preloads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
            try:
                ready = self.receive(START_SECONDS)
            except WorkerLost:
                ready = None
            if ready is None:
                self.reap()
                stderr.seek(0)
                cause = stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise WorkerLost(f"a verifier worker did not start: {cause or 'no message'}")

    def send(self, frame: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(frame)
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerLost("a verifier worker closed its end of the pipe") from error

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message, or None when `timeout` seconds passed without one."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while not self._lines:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise WorkerLost("a verifier worker ended unexpectedly")
            *whole, rest = (bytes(self._buffer) + chunk).split(b"\n")
            self._lines.extend(whole)
            self._buffer = bytearray(rest)
        message: dict[str, Any] = json.loads(self._lines.popleft())
        return message

    def recall(self) -> None:
        """Take back the texts that were sent and not begun; the worker confirms when it gets to read this."""
        self.recalls += 1
        self.send(RECALL)

    def kill(self) -> None:
        """End the worker and its fork at once."""
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)

    def reap(self) -> None:
        self.kill()
        with contextlib.suppress(BrokenPipeError), self.process:  # closes the pipes and waits
            pass


class _Queue:
    """The texts that wait for a worker. Shared by all slots; guards itself."""

    def __init__(self, workers: int) -> None:
        self.closed = False
        self.preloads: frozenset[str] = frozenset()
        """What the verifiers seen so far need imported."""
        self._workers = workers
        self._warm = 0
        """Slots that wait and whose worker is running."""
        self._judging = 0
        """Slots that hold texts and get on with them; those that one text holds up do not count."""
        self._changed = threading.Condition()
        self._waiting: deque[_Pending] = deque()

    def put(self, pending: _Pending) -> None:
        needed = PRELOADS.get(pending.job.target.partition(":")[0], ())
        with self._changed:
            if not self.closed:
                self.preloads = self.preloads.union(needed)
                self._waiting.append(pending)
                self._changed.notify_all()
                return
        pending.resolve(Verdict.error("the verifier pool is closed"))

    def take(self, *, warm: bool) -> deque[_Pending]:
        """The next batch: small while little waits, so that every slot gets some. Empty once closed.

        Slots whose worker is running are `warm` and come first; the others wait until those are all taken.
        """
        batch: deque[_Pending] = deque()
        characters = 0
        with self._changed:
            self._warm += warm
            while not self.closed and (
                not self._waiting or self._judging >= self._workers or (self._warm and not warm)
            ):
                self._changed.wait()
            self._warm -= warm
            self._judging += 1
            size = max(1, min(MAX_BATCH, len(self._waiting) // (2 * self._workers)))
            while self._waiting and len(batch) < size and characters < MAX_BATCH_CHARACTERS:
                pending = self._waiting.popleft()
                if pending.started or pending.future.set_running_or_notify_cancel():
                    pending.started = True
                    batch.append(pending)
                    characters += len(pending.job.text)
        return batch

    def give_back(self, batch: Iterable[_Pending]) -> None:
        """Put what was taken back in front; whoever took it is free, or held up, and another may go on."""
        with self._changed:
            self._judging -= 1
            self._waiting.extendleft(reversed(list(batch)))
            self._changed.notify_all()

    def get_on(self) -> None:
        """A slot that was held up is so no more, for its text has been judged."""
        with self._changed:
            self._judging += 1

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def drain(self) -> None:
        """After closing: tell everyone who still waits."""
        with self._changed:
            left, self._waiting = self._waiting, deque()
        for pending in left:
            if pending.started or pending.future.set_running_or_notify_cancel():
                pending.resolve(Verdict.error("the verifier pool was closed before this verdict"))


class _Slot:
    """A thread that owns one worker process, and replaces it when it is lost."""

    def __init__(self, queue: _Queue, wall_seconds: float) -> None:
        self._queue = queue
        self._wall_seconds = wall_seconds
        self._worker: _Worker | None = None
        self._held_up = False
        self._thread = threading.Thread(target=self._run, name="verifier-pool", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """After the queue was closed: end the worker, whatever it is doing."""
        worker = self._worker
        if worker is not None:
            worker.kill()
        self._thread.join()

    def _run(self) -> None:
        while not self._queue.closed:
            batch = self._queue.take(warm=self._worker is not None)
            self._held_up = False
            while batch and not self._queue.closed:
                try:
                    self._judge(self._ready_worker(), batch)
                except WorkerLost as lost:
                    self._retire()
                    self._blame(batch, str(lost))
            if self._held_up:
                self._queue.get_on()
            self._queue.give_back(batch)
        self._retire()

    def _ready_worker(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self._queue.preloads)
        return self._worker

    def _retire(self) -> None:
        if self._worker is not None:
            self._worker.reap()
            self._worker = None

    def _judge(self, worker: _Worker, batch: deque[_Pending]) -> None:
        """See `batch` through on `worker`; texts that it leaves in the batch are for its successor."""
        worker.send(pack([pending.job for pending in batch]))
        begun = time.monotonic()
        while (batch or worker.recalls) and not self._queue.closed:
            patience = self._wall_seconds if self._held_up else RECALL_SECONDS
            message = worker.receive(begun + patience - time.monotonic())
            if message is None and self._held_up:
                raise WorkerLost(f"no verdict within {self._wall_seconds:g} s of wall time")
            if message is None:
                self._hold_up(worker, batch)
            elif "recalled" in message:
                worker.recalls -= 1
                if batch and batch[0].job.number in message["recalled"]:
                    # The worker had no core for so long that it had not even begun what was thought to take long.
                    worker.send(pack([batch[0].job]))
                    begun = time.monotonic()
            elif "died" in message:
                self._bury(batch, message["died"])
                if worker.preloads != self._queue.preloads:
                    self._retire()
                    return
                if batch:
                    worker.send(pack([pending.job for pending in batch]))
                begun = time.monotonic()
            elif batch and message["job"] == batch[0].job.number:
                batch.popleft().resolve(_verdict(message["verdict"]))
                begun = time.monotonic()

    def _hold_up(self, worker: _Worker, batch: deque[_Pending]) -> None:
        """The text in progress takes long: hand the others back, and let another slot take this place."""
        head = batch.popleft() if batch else None
        if batch:
            worker.recall()
        self._queue.give_back(batch)
        batch.clear()
        if head is not None:
            batch.append(head)
        self._held_up = True

    def _bury(self, batch: deque[_Pending], signum: int) -> None:
        """The fork that judged died: of its CPU limit, or of something that deserves one more try."""
        if not batch:
            return  # it died over a text that another worker has by now
        head = batch[0]
        if signum == signal.SIGPROF:
            limit = head.job.cpu_seconds
            batch.popleft().resolve(Verdict.timeout(f"checking the answer took over {limit:g} s of CPU time"))
        elif head.deaths and signum in CRASHES:
            name = signal.Signals(signum).name
            batch.popleft().resolve(
                Verdict.timeout(f"checking the answer crashed the checker twice ({name})")
            )
        else:
            self._blame(batch, f"the process that judged was killed by signal {signum}")

    def _blame(self, batch: deque[_Pending], cause: str) -> None:
        """Count a loss against the text in progress; the second makes it an error."""
        if batch and batch[0].deaths:
            batch.popleft().resolve(Verdict.error(f"{cause}, twice"))
        elif batch:
            batch[0].deaths += 1


def _verdict(fields: dict[str, Any]) -> Verdict:
    return Verdict(**{**fields, "status": Status(fields["status"])})


class VerifierPool:
    """Judges texts in killable processes; `submit` from any thread, then wait for the future.

    `cpu_seconds` is what one verdict may use. At most `max_pending` texts wait at a time: a further
    `submit` blocks until one of them is done. Workers start when there is work for them.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        cpu_seconds: float = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self.cpu_seconds = cpu_seconds
        self.max_pending = max_pending
        count = workers or cores()
        self._queue = _Queue(count)
        self._slots = [_Slot(self._queue, wall_seconds) for _ in range(RESERVES * count)]
        self._room = threading.BoundedSemaphore(max_pending)
        self._numbers = itertools.count()

    def submit(self, target: str, record: Record, text: str) -> Future[Verdict]:
        """Have `target` (`module:function`) judge `text` as a reply to `record`."""
        self._room.acquire()
        future: Future[Verdict] = Future()
        future.add_done_callback(lambda _: self._room.release())
        self._queue.put(_Pending(Job(next(self._numbers), target, record, text, self.cpu_seconds), future))
        return future

    def close(self) -> None:
        """Kill the workers. Texts not yet judged get status `error`."""
        self._queue.close()
        for slot in self._slots:
            slot.stop()
        self._queue.drain()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
