"""The sandbox on this machine: a worker process for each core, each owned by a thread.

Threads keep the blocking traffic with the workers out of every event loop: a job may be awaited in any loop, or
waited for from any thread. A worker that dies is replaced and its job tried once more.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from reasonkit.errors import ReasonkitError
from reasonkit.sandbox import callrun, progrun, testrun, toolchains
from reasonkit.sandbox.interface import Sandbox
from reasonkit.sandbox.jobs import (
    CallJob,
    CallResult,
    ProgramJob,
    ProgramResult,
    RunStatus,
    ScriptJob,
    ScriptResult,
)
from reasonkit.sandbox.process import Order, Outcome, WorkerFailed, WorkerProcess

T = TypeVar("T")


class JobFuture(Future[T]):
    """Cancelling one, directly or by cancelling what awaits it, also ends the job if it runs already."""

    def __init__(self) -> None:
        super().__init__()
        self.abandoned = threading.Event()

    def cancel(self) -> bool:
        self.abandoned.set()
        return super().cancel()


class _Hands:
    """The workers of one thread: one for every job, a second for the tests of a tested solution."""

    def __init__(self, tier: str, first: WorkerProcess | None) -> None:
        self.tier = tier
        self._first = first
        self._second: WorkerProcess | None = None

    @property
    def first(self) -> WorkerProcess:
        self._first = self._first or WorkerProcess(self.tier)
        return self._first

    @property
    def second(self) -> WorkerProcess:
        self._second = self._second or WorkerProcess(self.tier)
        return self._second

    def perform(self, order: Order, cancelled: threading.Event) -> Outcome:
        return self.first.perform(order, cancelled)

    def drop(self) -> None:
        for worker in (self._first, self._second):
            if worker is not None:
                worker.close()
        self._first = self._second = None


@dataclass
class _Task:
    work: Callable[[_Hands, threading.Event], Any]
    give_up: Callable[[str], Any]
    future: JobFuture[Any]


class LocalSandbox(Sandbox):
    def __init__(self, tier: str, workers: int | None = None) -> None:
        """Starts the first worker at once, so that a tier that does not work is known: raises WorkerFailed."""
        self.tier = tier
        self.workers = workers or len(os.sched_getaffinity(0))
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._closed = False
        self._as_other_user = tier != "T1" and os.geteuid() == 0
        self._compiler = progrun.Compiler()
        first = WorkerProcess(tier)
        self.facts = first.facts
        self._threads = [
            threading.Thread(
                target=self._serve,
                args=(first if index == 0 else None,),
                daemon=True,
                name=f"sandbox-{index}",
            )
            for index in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    async def call(self, job: CallJob) -> list[CallResult]:
        return await asyncio.wrap_future(self.submit_call(job))

    async def run(self, job: ProgramJob) -> ProgramResult:
        return await asyncio.wrap_future(self.submit_run(job))

    async def test(self, job: ScriptJob) -> ScriptResult:
        return await asyncio.wrap_future(self.submit_test(job))

    def call_blocking(self, job: CallJob) -> list[CallResult]:
        """For code without an event loop."""
        return self.submit_call(job).result()

    def run_blocking(self, job: ProgramJob) -> ProgramResult:
        return self.submit_run(job).result()

    def submit_call(self, job: CallJob) -> JobFuture[list[CallResult]]:
        callrun.check(job)
        return self._submit(
            lambda hands, stop: callrun.run(job, lambda order: hands.perform(order, stop), hands.first.box),
            lambda why: [CallResult(RunStatus.SANDBOX_ERROR, error=why)] * len(job.inputs),
        )

    def submit_run(self, job: ProgramJob) -> JobFuture[ProgramResult]:
        progrun.check(job, as_other_user=self._as_other_user)
        return self._submit(
            lambda hands, stop: progrun.run(
                job, lambda order: hands.perform(order, stop), hands.first.box, self._compiler
            ),
            lambda why: ProgramResult(RunStatus.SANDBOX_ERROR, stderr=why),
        )

    def submit_test(self, job: ScriptJob) -> JobFuture[ScriptResult]:
        if job.pytest:
            toolchains.toolchain("pytest", as_other_user=self._as_other_user)
        return self._submit(
            lambda hands, stop: testrun.run(job, hands.first, hands.second, stop),
            lambda why: ScriptResult(RunStatus.SANDBOX_ERROR, error=why),
        )

    async def close(self) -> None:
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Jobs that were not begun are dropped; those that run are finished first."""
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _submit(
        self, work: Callable[[_Hands, threading.Event], T], give_up: Callable[[str], T]
    ) -> JobFuture[T]:
        if self._closed:
            raise ReasonkitError("this sandbox is closed", "open another with open_sandbox()")
        future: JobFuture[T] = JobFuture()
        self._queue.put(_Task(work, give_up, future))
        return future

    def _serve(self, worker: WorkerProcess | None) -> None:
        hands = _Hands(self.tier, worker)
        while (task := self._queue.get()) is not None:
            if self._closed:
                task.future.cancel()
            if task.future.set_running_or_notify_cancel():
                self._complete(task, hands)
        hands.drop()

    def _complete(self, task: _Task, hands: _Hands) -> None:
        failure = ""
        for _ in range(2):
            try:
                result = task.work(hands, task.future.abandoned)
            except WorkerFailed as error:
                failure = str(error)
                hands.drop()
            except BaseException as error:  # belongs to whoever waits, not to this thread
                task.future.set_exception(error)
                return
            else:
                task.future.set_result(result)
                return
        task.future.set_result(task.give_up(f"the sandbox lost its worker twice: {failure}"))
