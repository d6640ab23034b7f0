"""Verdicts depend on CPU time: with every core busy, the same jobs get the same statuses and values."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reasonkit.sandbox import CallJob, Limits, ProgramJob, open_sandbox
from reasonkit.sandbox.local import LocalSandbox

LIMITS = Limits(cpu_seconds=0.8, wall_seconds=2.0)
WORK = "def f(n):\n  total = 0\n  for i in range(n): total += i * i\n  return total"
CALLS = [
    CallJob(WORK, "f", ([10], [2_000_000]), LIMITS),
    CallJob(WORK, "f", ([10], [10**12], [10]), LIMITS),
    CallJob(WORK, "f", ([10], [10**12], [10]), LIMITS, per_input_cpu=0.2),
    CallJob("import time\ndef f(): time.sleep(0.5); return 1", "f", ([],), LIMITS),
    CallJob("import time\ndef f(): time.sleep(60)", "f", ([],), Limits(0.8, 0.8)),
    CallJob("print(sum(map(int, input().split())))", None, ("1 2", "x"), LIMITS),
]
PROGRAMS = [
    ProgramJob("python", "print(sum(range(3_000_000)))", limits=LIMITS),
    ProgramJob("bash", "while :; do :; done", limits=LIMITS),
    ProgramJob("bash", "echo done", limits=LIMITS),
]


@contextmanager
def every_core_busy() -> Iterator[None]:
    spin = [sys.executable, "-c", "while True: pass"]
    spinners = [subprocess.Popen(spin) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


async def verdicts() -> list[Any]:
    async with await open_sandbox() as sandbox:
        assert isinstance(sandbox, LocalSandbox)
        calls = await asyncio.gather(*(sandbox.call(job) for job in CALLS))
        programs = await asyncio.gather(*(sandbox.run(job) for job in PROGRAMS))
    return [
        *([(result.status, result.value, result.stdout) for result in results] for results in calls),
        *((result.status, result.stdout, result.return_code) for result in programs),
    ]


def test_a_busy_machine_changes_no_verdict() -> None:
    alone = asyncio.run(verdicts())
    with every_core_busy():
        busy = asyncio.run(verdicts())
    assert busy == alone
