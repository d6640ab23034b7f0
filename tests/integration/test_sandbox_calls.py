"""Python calls in the sandbox: outputs as plain data, one status for each input, whatever the code does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.sandbox import CallJob, CallResult, Limits, RunStatus, open_sandbox
from reasonkit.sandbox.local import LocalSandbox

S = RunStatus


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = asyncio.run(open_sandbox(workers=2))
    assert isinstance(opened, LocalSandbox)
    yield opened
    opened.close_blocking()


def call(
    sandbox: LocalSandbox, code: str, entry: str | None, *inputs: Any, **options: Any
) -> list[CallResult]:
    return sandbox.call_blocking(CallJob(code, entry, inputs, **options))


def statuses(results: list[CallResult]) -> list[RunStatus]:
    return [result.status for result in results]


def test_functions_and_methods(sandbox: LocalSandbox) -> None:
    code = "def add(a, b=1): return a + b\nclass Solution:\n  def twice(self, n): return 2 * n"
    assert [r.value for r in call(sandbox, code, "add", [1], [1, 2], {"args": [1], "kwargs": {"b": 5}})] == [
        2,
        3,
        6,
    ]
    assert call(sandbox, code, "Solution.twice", [4])[0].value == 8
    assert call(sandbox, code, "twice", [4])[0].value == 8


def test_values_keep_their_exact_types(sandbox: LocalSandbox) -> None:
    values = [
        r.value
        for r in call(sandbox, "def f(x): return x", "f", [True], [1], [1.0], ["1"], [None], [[1, [2]]])
    ]
    assert [type(value) for value in values] == [bool, int, float, str, type(None), list]


def test_an_object_that_claims_to_equal_everything_leaves_as_what_it_holds(sandbox: LocalSandbox) -> None:
    code = """
class Any(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
class Always:
    def __eq__(self, other): return True
def f(kind): return Any(7) if kind == "int" else Always()
"""
    number, thing = call(sandbox, code, "f", ["int"], ["object"])
    assert (type(number.value), number.value) == (int, 7)
    assert thing.status == S.RUNTIME_ERROR
    assert "Always" in thing.error


def test_programs_read_and_write_in_every_usual_way(sandbox: LocalSandbox) -> None:
    code = """
import sys, os, atexit
way = input()
if way == "print": print(sum(map(int, input().split())))
if way == "buffer": sys.stdout.buffer.write(sys.stdin.buffer.read())
if way == "os": os.write(1, os.read(0, 100))
if way == "open": print(open(0).read(), end="")
if way == "atexit": atexit.register(lambda: print("late"))
if way == "exit": print("out"); sys.exit(0)
if way == "unclosed": out = open(1, "w"); out.write("kept")
if way == "/dev/stdin": print(open("/dev/stdin").read().splitlines()[1])
if way == "thread":
    import threading
    threading.stack_size(1 << 26)
    threading.Thread(target=lambda: print("from a thread")).start()
"""
    expected = {
        "print\n1 2": "3\n",
        "buffer\nx": "",
        "os\nx": "",
        "open\nx": "",
        "atexit": "late\n",
        "exit": "out\n",
        "unclosed": "kept",
        "/dev/stdin\nsecond": "second\n",
        "thread": "from a thread\n",
    }
    results = call(sandbox, code, None, *expected)
    assert statuses(results) == [S.OK] * len(expected)
    assert [r.stdout for r in results] == list(expected.values())
    raw = "import sys, os\nif len(sys.argv) > 5: pass\nos.write(1, os.read(0, 3))\nprint(open(0).read())"
    assert call(sandbox, raw, None, "abcdef")[0].stdout == "abcdef\n"


def test_one_run_does_not_disturb_the_next(sandbox: LocalSandbox) -> None:
    code = """
import builtins, sys
n = input()
print(n, sys.getrecursionlimit())
builtins.print = lambda *a: None
builtins.input = lambda: "poisoned"
builtins.extra = 1
sys.stdin.close()
sys.stdout.close()
sys.setrecursionlimit(99999)
"""
    results = call(sandbox, code, None, "a", "b", "c")
    assert [r.stdout for r in results] == ["a 1000\n", "b 1000\n", "c 1000\n"]


def test_the_same_job_gives_the_same_result(sandbox: LocalSandbox) -> None:
    code = "import random\ndef f(): return [random.random(), list({'a','b','c','d','e'}), hash('x')]"
    several = [call(sandbox, code, "f", [], [])[i].value for _ in range(4) for i in range(2)]
    assert all(value == several[0] for value in several)


def test_each_way_to_fail_costs_only_its_own_input(sandbox: LocalSandbox) -> None:
    code = """
import os, sys, signal, ctypes
def f(n):
    if n == 1: raise ValueError("no")
    if n == 2: os._exit(0)
    if n == 3: sys.exit(0)
    if n == 4: ctypes.string_at(0)
    if n == 5: os.kill(os.getpid(), signal.SIGKILL)
    if n == 6: return bytearray(10**10)
    if n == 7: return "x" * 3_000_000
    if n == 8: print("y" * 3_000_000)
    if n == 9:
        while True: pass
    return n
"""
    results = call(sandbox, code, "f", *([n] for n in range(11)), per_input_cpu=0.3)
    died, cost = S.RUNTIME_ERROR, S.OUTPUT_LIMIT
    assert statuses(results) == [
        S.OK,
        died,
        died,
        died,
        died,
        died,
        S.MEMORY,
        cost,
        cost,
        S.CPU_TIMEOUT,
        S.OK,
    ]
    assert "ValueError: no" in results[1].error


def test_code_that_cannot_start_fails_all_inputs_at_once(sandbox: LocalSandbox) -> None:
    assert statuses(call(sandbox, "def f(:", "f", [1], [2])) == [S.COMPILE_ERROR] * 2
    assert statuses(call(sandbox, "raise SystemExit", "f", [1], [2])) == [S.RUNTIME_ERROR] * 2
    assert statuses(call(sandbox, "import os; os._exit(0)", "f", [1], [2])) == [S.RUNTIME_ERROR] * 2
    missing = call(sandbox, "def g(): pass", "f", [1])[0]
    assert missing.status == S.RUNTIME_ERROR
    assert "no callable 'f'" in missing.error
    deep = call(sandbox, "x = " + "(" * 5000 + ")" * 5000, "f", [1])[0]
    assert deep.status == S.COMPILE_ERROR


def test_the_cpu_limit_covers_the_whole_job(sandbox: LocalSandbox) -> None:
    limits = Limits(cpu_seconds=0.5)
    results = call(sandbox, "def f(n):\n  while n: pass\n  return n", "f", [0], [1], [0], limits=limits)
    assert statuses(results) == [S.OK, S.CPU_TIMEOUT, S.CPU_TIMEOUT]


def test_sleeping_is_a_different_status_from_computing(sandbox: LocalSandbox) -> None:
    limits = Limits(cpu_seconds=5, wall_seconds=0.3)
    assert statuses(call(sandbox, "import time\ndef f(): time.sleep(60)", "f", [], limits=limits)) == [
        S.WALL_TIMEOUT
    ]


def test_processes_only_where_they_are_allowed(sandbox: LocalSandbox) -> None:
    code = "import subprocess as s\ndef f(): return s.run(['echo', 'hi'], stdout=s.PIPE).stdout.decode()"
    assert call(sandbox, code, "f", [])[0].status == S.RUNTIME_ERROR
    assert call(sandbox, code, "f", [], limits=Limits(processes=True))[0].value == "hi\n"


def test_it_works_in_any_event_loop_and_thread(sandbox: LocalSandbox) -> None:
    job = CallJob("def f(n): return n * n", "f", ([3],))
    assert [asyncio.run(sandbox.call(job))[0].value for _ in range(2)] == [9, 9]
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.append(asyncio.run(sandbox.call(job))[0].value))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [9] * 8


def test_a_cancelled_job_stops_and_frees_its_worker() -> None:
    async def scenario() -> RunStatus:
        async with await open_sandbox(workers=1) as sandbox:
            endless = CallJob("while True: pass", "f", ([],), Limits(cpu_seconds=3600, wall_seconds=3600))
            task = asyncio.create_task(sandbox.call(endless))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await sandbox.call(CallJob("def f(): return 1", "f", ([],))))[0].status

    assert asyncio.run(scenario()) == S.OK


def test_wrong_use_is_an_error_that_says_so(sandbox: LocalSandbox) -> None:
    with pytest.raises(UsageError, match="input 1 of a call job is 'x'"):
        call(sandbox, "", "f", [1], "x")
    with pytest.raises(UsageError, match="must be JSON"):
        call(sandbox, "", "f", [{1, 2}])
    closed = LocalSandbox(sandbox.tier, 1)
    closed.close_blocking()
    with pytest.raises(ReasonkitError, match="closed"):
        call(closed, "", "f", [1])
