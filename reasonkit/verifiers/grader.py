"""The Grader: what a run holds to have replies judged, with the resources that verdicts need.

Opened once per run and closed at its end. The worker pool, the sandbox and the judge start only when a
record first needs them. Filter, rollouts, evaluation and the judge server all call `Grader.verify`, and
nothing else scores anything. It never raises on what a model wrote or on a server that is down: such a
verdict has status `error` and says why. It does raise UsageError on a record that names no known verifier.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from typing import Self

from reasonkit.records import Record, Verdict
from reasonkit.registry import load
from reasonkit.sandbox import Sandbox, open_sandbox
from reasonkit.verifiers.judge import Judge, require_judge_url
from reasonkit.verifiers.pool import MAX_PENDING, VerifierPool
from reasonkit.verifiers.routing import INLINE, Mode, target, verifier_name
from reasonkit.verifiers.worker import verdict_of

Verifier = Callable[[Record, str], Verdict]
"""Pure parsers: synchronous, run in the killable pool."""
AsyncVerifier = Callable[[Record, str, "Grader"], Awaitable[Verdict]]
"""Sandboxed code, judges, remote servers: awaited, with their own deadline. The Grader lends its resources."""

MAX_CHARACTERS = 1_000_000
DEADLINE_SECONDS = 900.0


def refuse(text: str) -> Verdict | None:
    """The verdict on a reply that is too long for any verifier to be shown."""
    if len(text) <= MAX_CHARACTERS:
        return None
    return Verdict.timeout(f"the reply has {len(text)} characters; at most {MAX_CHARACTERS} are judged")


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A verifier as found: exactly one of `pure` and `awaited` is set."""

    where: str
    pure: Verifier | None
    awaited: AsyncVerifier | None


class Grader:
    """Judges replies: `async with Grader() as grader: verdict = await grader.verify(record, text)`.

    `deadline` bounds one verdict in wall seconds, waiting included; verifiers have tighter limits of their own.
    A sandbox or judge that is handed in is used and left open. `unsafe_sandbox` accepts code without walls where
    this machine has none, `sandbox_url` names a SandboxFusion server for that case.
    """

    def __init__(
        self,
        *,
        mode: Mode = "strict",
        workers: int | None = None,
        deadline: float = DEADLINE_SECONDS,
        sandbox: Sandbox | None = None,
        judge: Judge | None = None,
        unsafe_sandbox: bool = False,
        sandbox_url: str | None = None,
    ) -> None:
        self.mode = mode
        self._workers = workers
        self._deadline = deadline
        self._verifiers: dict[str, _Resolved] = {}
        self._room = asyncio.Semaphore(MAX_PENDING)
        self._pool: VerifierPool | None = None
        self._sandbox = sandbox
        self._judge = judge
        self._unsafe_sandbox = unsafe_sandbox
        self._sandbox_url = sandbox_url
        self._opening = asyncio.Lock()
        self._owned = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def at(self, _split: str, _step: int, /) -> AbstractContextManager[None]:
        """A reward server's client writes down what it asked, step by step; here nothing needs to be."""
        return nullcontext()

    async def close(self) -> None:
        if self._pool is not None:
            await asyncio.to_thread(self._pool.close)
        await self._owned.aclose()

    def check(self, records: Iterable[Record]) -> None:
        """Raise UsageError if one of `records` could not be judged: no known verifier."""
        for name in {verifier_name(record) for record in records}:
            self._resolve(name)
            if name == "judge" and self._judge is None:
                require_judge_url()

    async def verify(self, record: Record, text: str) -> Verdict:
        """The verdict on `text` as a reply to `record`."""
        name = verifier_name(record)
        resolved = self._resolve(name)
        refused = refuse(text)
        if refused is not None:
            return refused
        try:
            async with asyncio.timeout(self._deadline):
                if resolved.awaited is not None:
                    return await resolved.awaited(record, text, self)
                if resolved.pure is not None and name in INLINE:
                    return verdict_of(resolved.pure, record, text)
                return await self.in_pool(resolved.where, record, text)
        except TimeoutError:
            return Verdict.error(f"verifier '{name}' gave no verdict within {self._deadline:g} s")
        except Exception as error:  # the boundary of grading: every cause is reported, none is a silent 0
            return Verdict.error(f"{type(error).__name__}: {error}")

    async def in_pool(self, where: str, record: Record, text: str) -> Verdict:
        """The verdict of the pure verifier `where` (`module:function`), from a killable worker."""
        async with self._room:  # waits here and not in `submit`, which would block the event loop
            if self._pool is None:
                self._pool = VerifierPool(self._workers, max_pending=MAX_PENDING)
            return await asyncio.wrap_future(self._pool.submit(where, record, text))

    async def sandbox(self) -> Sandbox:
        """The sandbox of this run, opened by the first verdict that needs one."""
        async with self._opening:
            if self._sandbox is None:
                opened = await open_sandbox(unsafe=self._unsafe_sandbox, remote_url=self._sandbox_url)
                self._sandbox = await self._owned.enter_async_context(opened)
        return self._sandbox

    async def judge(self) -> Judge:
        """The LLM judge of this run, opened by the first verdict that needs one."""
        async with self._opening:
            if self._judge is None:
                self._judge = await self._owned.enter_async_context(Judge.from_environment())
        return self._judge

    def _resolve(self, name: str) -> _Resolved:
        if name not in self._verifiers:
            where = target(name, self.mode)
            found = load(where)
            awaited = inspect.iscoroutinefunction(found)
            self._verifiers[name] = _Resolved(
                where, pure=None if awaited else found, awaited=found if awaited else None
            )
        return self._verifiers[name]
