"""Sandbox throughput: jobs a second, and tests a second at 20 tests a solution, beside a subprocess for each test.

    python benchmarks/sandbox.py [--seconds 5] [--tiers T1,bwrap,T2]

All rows of a table are measured in turns within one run, so that they meet the same load, which is printed too.
The rows without a sandbox are what graders commonly do: `subprocess.run` of a fresh interpreter for each test, in
as many threads as there are cores, with no isolation at all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import psutil

from reasonkit.errors import ReasonkitError
from reasonkit.sandbox import CallJob, RunStatus
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.process import WorkerFailed

CORES = len(os.sched_getaffinity(0))
FUNCTION = "def solve(a, b):\n    return sorted(a)[:b]\n"
PROGRAM = "n = int(input())\nprint(sum(i * i for i in range(n)))\n"
ONE = CallJob(FUNCTION, "solve", ([[3, 1, 2], 2],))
TWENTY_CALLS = CallJob(FUNCTION, "solve", tuple([[n, 3, 1, 2], 2] for n in range(20)))
TWENTY_RUNS = CallJob(PROGRAM, None, tuple(str(n) for n in range(20)))
IN_FLIGHT = 4 * CORES


@dataclass
class Row:
    name: str
    tests_per_job: int
    burst: Callable[[float], tuple[int, float, list[float]]]
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    done: int = 0
    cpu: float = 0.0


def sandbox_burst(sandbox: LocalSandbox, job: CallJob, seconds: float) -> tuple[int, float, list[float]]:
    """Keeps a few jobs in flight for a while: jobs done, seconds, and each job's latency."""
    latencies: list[float] = []
    failures: list[RunStatus] = []

    def finished(future: Future[Any], began: float) -> None:
        latencies.append(time.perf_counter() - began)
        failures.extend(result.status for result in future.result() if result.status != RunStatus.OK)

    began = time.perf_counter()
    running: set[Future[Any]] = set()
    while time.perf_counter() - began < seconds:
        while len(running) < IN_FLIGHT:
            submitted = time.perf_counter()
            future = sandbox.submit_call(job)
            future.add_done_callback(lambda done, at=submitted: finished(done, at))
            running.add(future)
        _, running = wait(running, return_when="FIRST_COMPLETED")
    wait(running)
    took = time.perf_counter() - began
    if failures:
        raise SystemExit(f"jobs failed: {set(failures)}")
    return len(latencies), took, latencies


def subprocess_burst(arguments: list[str], seconds: float) -> tuple[int, float, list[float]]:
    latencies: list[float] = []
    deadline = time.perf_counter() + seconds

    def loop() -> None:
        while time.perf_counter() < deadline:
            began = time.perf_counter()
            subprocess.run(arguments, input=b"7\n", stdout=subprocess.DEVNULL, check=True)
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(CORES) as threads:
        for _ in range(CORES):
            threads.submit(loop)
    return len(latencies), time.perf_counter() - began, latencies


def cpu_seconds() -> float:
    """Of this process and all below it, those that have ended included: other work does not touch it."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in family if process.is_running()]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def rows(tiers: list[str]) -> tuple[list[Row], list[LocalSandbox]]:
    table, opened = [], []
    for tier in tiers:
        try:
            sandbox = LocalSandbox(tier)
        except (WorkerFailed, ReasonkitError) as error:
            print(f"{tier}: not available: {error}", file=sys.stderr)
            continue
        opened.append(sandbox)
        for name, job in (("1 call", ONE), ("20 calls", TWENTY_CALLS), ("20 programs", TWENTY_RUNS)):
            burst = lambda seconds, sandbox=sandbox, job=job: sandbox_burst(sandbox, job, seconds)  # noqa: E731
            table.append(Row(f"{tier}, {name} a job", len(job.inputs), burst))
    python = [sys.executable, "-c", PROGRAM]
    bare = [sys.executable, "-I", "-S", "-c", PROGRAM]
    table.append(Row("subprocess a test", 1, lambda seconds: subprocess_burst(python, seconds)))
    table.append(Row("subprocess a test, -I -S", 1, lambda seconds: subprocess_burst(bare, seconds)))
    return table, opened


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row and turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tiers", default="T1,bwrap,T2")
    options = parser.parse_args()
    table, opened = rows(options.tiers.split(","))
    load_before = os.getloadavg()[0]
    for row in table:
        row.burst(0.3)
    for _ in range(options.turns):
        for row in table:
            used = cpu_seconds()
            count, took, latencies = row.burst(options.seconds)
            row.done, row.cpu = row.done + count, row.cpu + cpu_seconds() - used
            row.rates.append(count / took)
            row.latencies += latencies
    for sandbox in opened:
        sandbox.close_blocking()
    print(f"{CORES} cores, load {load_before:.1f} before and {os.getloadavg()[0]:.1f} after;", end=" ")
    print(f"medians of {options.turns} turns of {options.seconds:g} s, {IN_FLIGHT} jobs in flight\n")
    print(f"{'':34} {'jobs/s':>8} {'tests/s':>8} {'best':>8} {'p50 ms':>8} {'p99 ms':>8} {'tests/CPU-s':>12}")
    for row in table:
        rate, best = statistics.median(row.rates), max(row.rates)
        slow = statistics.quantiles(row.latencies, n=100)
        print(
            f"{row.name:34} {rate:8.0f} {rate * row.tests_per_job:8.0f} {best * row.tests_per_job:8.0f}"
            f" {slow[49] * 1e3:8.1f} {slow[98] * 1e3:8.1f} {row.done * row.tests_per_job / row.cpu:12.0f}"
        )


if __name__ == "__main__":
    main()
