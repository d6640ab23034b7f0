"""What a sandbox can be asked, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from reasonkit.sandbox.jobs import CallJob, CallResult, ProgramJob, ProgramResult, ScriptJob, ScriptResult


class Sandbox(ABC):
    """Runs untrusted code. Usable from any event loop and any thread; close it, or use `async with`."""

    tier: str
    """What stands between a job and this machine: T1, bwrap, T2, remote or unsafe."""

    @abstractmethod
    async def call(self, job: CallJob) -> list[CallResult]:
        """One result for each input, in order."""

    @abstractmethod
    async def run(self, job: ProgramJob) -> ProgramResult: ...

    @abstractmethod
    async def test(self, job: ScriptJob) -> ScriptResult:
        """A solution by a script that cannot see into it, nor it into the script."""

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
