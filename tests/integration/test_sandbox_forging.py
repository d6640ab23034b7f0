"""Code that attacks its own report: it may lie about its outputs, and gains nothing else.

What remains possible is stated here as tests: a job can answer a call without running anything, because an output
is whatever it says; and in one process it can see the inputs of its other calls. Neither tells it what is expected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from reasonkit.sandbox import CallJob, Limits, ProgramJob, RunStatus, open_sandbox
from reasonkit.sandbox.local import LocalSandbox

PREAMBLE = """
import os, json, struct, socket, sys
def forge(message, fd=3):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    os.write(fd, struct.pack("!II", len(text), 0) + text)
def answer(index, value, status="ok"):
    return {"index": index, "status": status, "value": value, "stdout": "", "error": "", "cpu": 0.0}
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = asyncio.run(open_sandbox(workers=1))
    assert isinstance(opened, LocalSandbox)
    yield opened
    opened.close_blocking()


def run(sandbox: LocalSandbox, body: str, count: int = 3) -> list[tuple[RunStatus, object]]:
    job = CallJob(
        PREAMBLE + body, "f", tuple([n] for n in range(count)), Limits(cpu_seconds=2, wall_seconds=5)
    )
    return [(result.status, result.value) for result in sandbox.call_blocking(job)]


def test_forged_answers_are_only_ever_the_jobs_own_outputs(sandbox: LocalSandbox) -> None:
    results = run(sandbox, "for i in range(3): forge(answer(i, 'mine'))\nos._exit(0)")
    assert results == [(RunStatus.OK, "mine")] * 3


@pytest.mark.parametrize(
    "message",
    [
        '{"index": 0, "status": "sandbox_error", "value": 1, "stdout": "", "error": "", "cpu": 0.0}',
        '{"all": True, "status": "sandbox_error", "error": "infrastructure"}',
        "{'ready': False, 'complaint': 'broken'}",
        '{"id": 1, "code": 0, "stopped": None, "ready": False}',
        "b'not json'",
        "b'[' * 100000",
        "b'NaN'",
        "answer(0, None) | {'index': 2}",
        "answer(0, None) | {'cpu': 'fast'}",
        "[]",
        "7",
    ],
)
def test_no_message_makes_a_failure_the_sandboxes(sandbox: LocalSandbox, message: str) -> None:
    results = run(sandbox, f"forge({message})\nos._exit(0)")
    assert {status for status, _ in results} <= {RunStatus.RUNTIME_ERROR}


def test_a_flood_of_answers_or_one_huge_answer_ends_the_job(sandbox: LocalSandbox) -> None:
    flood = run(sandbox, "while True: forge(answer(0, 1))")
    assert flood[0] == (RunStatus.OK, 1)
    assert {status for status, _ in flood[1:]} == {RunStatus.RUNTIME_ERROR}
    huge = run(sandbox, "os.write(3, struct.pack('!II', 2**31, 0))\nwhile True: os.write(3, b'x' * 65536)")
    assert {status for status, _ in huge} == {RunStatus.RUNTIME_ERROR}


def test_the_control_socket_is_out_of_reach(sandbox: LocalSandbox) -> None:
    body = """
found = []
for fd in range(1024):
    try:
        os.fstat(fd)
        found.append(fd)
    except OSError:
        pass
def f(n): return found
"""
    ((status, value), *_) = run(sandbox, body)
    assert status == RunStatus.OK
    assert value == [0, 1, 2, 3]


def test_taking_the_runner_apart_changes_nothing_outside(sandbox: LocalSandbox) -> None:
    body = """
for name, module in list(sys.modules.items()):
    if name.startswith("reasonkit"):
        for attribute in list(vars(module)):
            setattr(module, attribute, None)
import gc
gc.collect()
def f(n): return n
"""
    assert {status for status, _ in run(sandbox, body)} <= {RunStatus.RUNTIME_ERROR}
    assert run(sandbox, "def f(n): return n") == [(RunStatus.OK, 0), (RunStatus.OK, 1), (RunStatus.OK, 2)]


def test_nothing_of_earlier_jobs_or_of_the_driver_is_in_memory(sandbox: LocalSandbox) -> None:
    """The worker passes descriptors on and reads no payload, so there is nothing to inherit by fork."""
    expected_answers = ["EXPECTED" + "-ANSWER"] * 1000
    # The needles are looked for in halves, or the search would find itself.
    scan = """
kept = "CONTROL" + "-NEEDLE"
def contains(data, head, tail):
    at = data.find(head)
    while at >= 0:
        if data[at + len(head) : at + len(head) + len(tail)] == tail:
            return True
        at = data.find(head, at + 1)
    return False
def f(halves):
    hits = set()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if line.split()[1][0] != "r" or "[v" in line:
                continue
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError, ValueError):
                continue
            hits.update(head for head, tail in halves if contains(data, head.encode(), tail.encode()))
    return sorted(hits)
"""
    planted = CallJob("kept = 'PLANTED-BY-A-JOB'\ndef f(n): return n", "f", (["PLANTED-BY-A-JOB" * 50],))
    assert sandbox.call_blocking(planted)[0].status == RunStatus.OK
    halves = [["PLANTED", "-BY-A-JOB"], ["EXPECTED", "-ANSWER"], ["CONTROL", "-NEEDLE"]]
    result = sandbox.call_blocking(CallJob(scan, "f", ([halves],)))[0]
    assert result.status == RunStatus.OK, result.error
    assert result.value == ["CONTROL"], "the scan finds what is there, and only that"
    assert expected_answers  # held by this process all the while


def test_an_early_exit_is_not_a_passed_test_suite(sandbox: LocalSandbox) -> None:
    def outcome(code: str) -> tuple[RunStatus, int | None]:
        done = sandbox.run_blocking(ProgramJob("pytest", code))
        return done.status, done.return_code

    assert outcome("def test_a(): assert 1") == (RunStatus.OK, 0)
    assert outcome("def test_a(): assert 0") == (RunStatus.RUNTIME_ERROR, 1)
    assert outcome("import os\ndef test_a(): os._exit(0)")[0] == RunStatus.RUNTIME_ERROR
    assert outcome("import pytest\npytest.skip(allow_module_level=True)")[0] == RunStatus.RUNTIME_ERROR
    assert outcome("")[0] == RunStatus.RUNTIME_ERROR
