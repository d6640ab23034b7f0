"""Where the verdicts come from: one Grader a process, and one verdict for equal questions.

A client that lost its patience asks again, and a trainer samples the same short reply many times over. Equal
questions in flight share one verdict, and the last verdicts are kept. Failures of the infrastructure are not:
whoever asks again is judged again. The sandbox and the LLM judge are opened at the start; one that cannot be opened
is tried again when a question needs it, at most once in a while; until then such a question is an error, never a 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeVar

from reasonkit.datahome import data_home
from reasonkit.errors import ReasonkitError
from reasonkit.judge.board import CACHED, CUSTOM, SHARED, Board, verdicts
from reasonkit.judge.settings import Settings
from reasonkit.records import Record, Verdict, dumps
from reasonkit.sandbox import Sandbox, open_sandbox
from reasonkit.verifiers.grader import Grader
from reasonkit.verifiers.judge import GENERAL_VERIFIER, TRUE_FALSE, Judge, endpoint
from reasonkit.verifiers.routing import VERIFIERS, verifier_name

LOGGER = logging.getLogger(__name__)
CACHE_BYTES = 32 << 20
ENTRY_BYTES = 1024
"""What a short verdict costs in memory, roughly."""
REOPEN_SECONDS = 5.0

T = TypeVar("T")


class Opened(Generic[T]):
    """A resource that is opened when first needed. A failure is remembered for a moment and then tried again."""

    def __init__(self, open_: Callable[[], Awaitable[T]]) -> None:
        self._open = open_
        self._lock = asyncio.Lock()
        self.value: T | None = None
        self.failure = ""
        self._failed_at = float("-inf")

    async def get(self) -> T:
        async with self._lock:
            if self.value is not None:
                return self.value
            if time.monotonic() - self._failed_at < REOPEN_SECONDS:
                raise ReasonkitError(self.failure)
            try:
                self.value = await self._open()
            except ReasonkitError as error:
                self.failure, self._failed_at = error.message, time.monotonic()
                raise
            self.failure = ""
            return self.value


class ServerGrader(Grader):
    """A Grader whose sandbox and judge are the server's."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(workers=settings.grading_workers)
        self._settings = settings
        self._resources = AsyncExitStack()
        self.sandbox_resource: Opened[Sandbox] = Opened(self._open_sandbox)
        self.judge_resource: Opened[Judge] = Opened(self._open_judge)

    async def sandbox(self) -> Sandbox:
        return await self.sandbox_resource.get()

    async def judge(self) -> Judge:
        return await self.judge_resource.get()

    async def close(self) -> None:
        await self._resources.aclose()
        await super().close()

    async def _open_sandbox(self) -> Sandbox:
        settings = self._settings
        sandbox = await open_sandbox(
            settings.grading_workers, unsafe=settings.unsafe_sandbox, remote_url=settings.sandbox_url or None
        )
        return await self._resources.enter_async_context(sandbox)

    async def _open_judge(self) -> Judge:
        if self._settings.judge is None:
            raise ReasonkitError("this server has no LLM judge", "start it with --judge-url or --judge-serve")
        return await self._resources.enter_async_context(judge_client(self._settings))


def judge_client(settings: Settings) -> Judge:
    """The judge that the settings name, with the prompt that it was made for. Not opened yet."""
    model = settings.judge
    assert model is not None
    return Judge(
        endpoint(model.url),
        model.model,
        model.api_key,
        prompt=GENERAL_VERIFIER if "general-verifier" in model.model.lower() else TRUE_FALSE,
        cache=data_home() / "judge.sqlite",
        max_tokens=model.max_tokens,
        temperature=model.temperature,
    )


class Bench:
    """`async with` it; `verdict` never raises on what a model wrote or on a resource that is down."""

    def __init__(self, settings: Settings, board: Board) -> None:
        self.grader = ServerGrader(settings)
        self._has_judge = settings.judge is not None
        self._board = board
        self._in_flight: dict[bytes, asyncio.Task[Verdict]] = {}
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self._kept_bytes = 0

    async def open(self) -> None:
        """Open what the machine has, and say what it lacks: a server without a sandbox still judges mathematics."""
        for name, resource in self._resources():
            try:
                await resource.get()
            except ReasonkitError as error:
                LOGGER.warning("no %s: %s\n  %s", name, error.message, error.hint)
        await self.grader.in_pool(
            VERIFIERS["math"], Record("", "math", (), "1"), ""
        )  # its imports take a while

    def _resources(self) -> list[tuple[str, Opened[Any]]]:
        found: list[tuple[str, Opened[Any]]] = [("sandbox", self.grader.sandbox_resource)]
        return [*found, ("LLM judge", self.grader.judge_resource)] if self._has_judge else found

    async def close(self) -> None:
        await self.grader.close()

    async def verdict(self, record: Record, text: str) -> Verdict:
        """The verdict on `text`; shared with whoever asks the same at the same time, or asked it before."""
        key = question_key(record, text)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            self._board.add(CACHED)
            return kept
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self.grader.verify(record, text))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._settle(key, record, done))
        else:
            self._board.add(SHARED)
        return await asyncio.shield(task)  # one impatient client takes the verdict from nobody else

    def _settle(self, key: bytes, record: Record, task: asyncio.Task[Verdict]) -> None:
        del self._in_flight[key]
        if task.cancelled() or task.exception() is not None:
            return
        verdict = task.result()
        name = verifier_name(record)
        self._board.add(verdicts(name if name in VERIFIERS else CUSTOM, verdict.status))
        if not verdict.status.is_failure:
            self._keep(key, verdict)

    def _keep(self, key: bytes, verdict: Verdict) -> None:
        self._kept[key] = verdict
        self._kept_bytes += _weight(verdict)
        while self._kept_bytes > CACHE_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= _weight(oldest)


def question_key(record: Record, text: str) -> bytes:
    """Equal for questions that cannot have different verdicts; a record's uid has no say in one."""
    parts = dumps([record.source, record.verifier, record.prompt, record.answer, dict(record.metadata)])
    return hashlib.blake2b(
        f"{len(parts)} {parts}{text}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def _weight(verdict: Verdict) -> int:
    return ENTRY_BYTES + len(verdict.answer or "") + len(verdict.reason)
