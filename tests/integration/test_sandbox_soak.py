"""After many jobs of every kind nothing is left: no process, mount, descriptor, temporary file, and no growth."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

from reasonkit.sandbox import CallJob, Limits, ProgramJob, RunStatus
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.probes import descendants

SHORT = Limits(cpu_seconds=0.05, wall_seconds=1.0)
CHILDREN = Limits(cpu_seconds=2.0, wall_seconds=2.0, processes=True)
MIX = [
    CallJob("def f(n): return n", "f", ([1], [2])),
    CallJob("print(input())", None, ("a", "b")),
    CallJob("import os\nopen('file', 'w').write('x' * 1000)\nos.makedirs('a/b')\ndef f(): pass", "f", ([],)),
    CallJob("import os, time\nif os.fork() == 0: time.sleep(60)\ndef f(): pass", "f", ([],), CHILDREN),
    CallJob("import os\ndef f(): os._exit(3)", "f", ([],)),
    CallJob("def f(): return 'x' * 2_000_000", "f", ([],)),
    CallJob("raise MemoryError", "f", ([],)),
]
RARE = [CallJob("while True: pass", "f", ([],), SHORT)]
PROGRAMS = [ProgramJob("bash", "sleep 60 & cat; echo x > out.txt", stdin="abc", collect=("*.txt",))]


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def leftovers() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("reasonkit-sandbox-*")}


def soak(tier: str, rounds: int) -> None:
    before = (descriptors(), mounts(), descendants(), threading.active_count())
    folders = leftovers()
    sandbox = LocalSandbox(tier, 2)
    settled: tuple[int, int] | None = None
    for round_number in range(rounds):
        jobs = [*MIX * 7, *(RARE if round_number % 5 == 0 else [])]
        futures = [sandbox.submit_call(job) for job in jobs]
        futures += [sandbox.submit_run(job) for job in PROGRAMS]
        wait(futures)
        for future in futures[:-1]:
            assert not [each.error for each in future.result() if each.status is RunStatus.SANDBOX_ERROR]
        last = futures[-1].result()
        assert (last.status, dict(last.files)) == (RunStatus.OK, {"out.txt": b"x\n"})
        family = [psutil.Process(pid) for pid in descendants() - before[2]]
        held = (len(descriptors()), len(family))
        if round_number == rounds // 5:
            settled = held
        elif settled is not None:
            assert held == settled
    memory = max(process.memory_info().rss for process in family)
    assert memory < 120e6, "a worker grew"
    sandbox.close_blocking()
    assert (descriptors(), mounts(), descendants(), threading.active_count()) == before
    # Sandboxes of tests in other processes have folders beside ours for a while; ours would stay.
    left, deadline = leftovers() - folders, time.monotonic() + 120
    while left := left & leftovers():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize("tier", ["T1", "T2"])
def test_nothing_is_left_after_500_jobs(tier: str) -> None:
    soak(tier, rounds=10)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("tier", ["T1", "T2"])
def test_nothing_is_left_after_100_000_jobs(tier: str) -> None:
    soak(tier, rounds=2000)


def test_a_driver_that_dies_takes_its_workers_and_their_jobs_with_it() -> None:
    code = """
import sys, time
from reasonkit.sandbox import CallJob, Limits
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.probes import descendants
sandbox = LocalSandbox(sys.argv[1], 1)
sandbox.submit_call(CallJob("while True: pass", "f", ([],), Limits(3600, 3600)))
time.sleep(0.5)
print(*descendants(), flush=True)
time.sleep(60)
"""
    for tier in ("T1", "T2"):
        known = leftovers()
        driver = subprocess.Popen([sys.executable, "-c", code, tier], stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        family = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        assert len(family) >= 2
        driver.kill()
        driver.wait()
        driver.stdout.close()
        deadline = time.monotonic() + 20
        while any(process.is_running() for process in family) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [process for process in family if process.is_running()] == []
        assert leftovers() == known
