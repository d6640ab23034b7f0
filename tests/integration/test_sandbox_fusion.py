"""The remote tier, over HTTP against a small SandboxFusion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.sandbox import CallJob, CallResult, Limits, ProgramJob, ProgramResult, RunStatus
from reasonkit.sandbox.fusion import FusionClient, RemoteSandbox
from tests.fusion_server import FusionServer, serve

S = RunStatus


@pytest.fixture
def server() -> Iterator[FusionServer]:
    with serve() as running:
        yield running


def call(server: FusionServer, job: CallJob) -> list[CallResult]:
    async def ask() -> list[CallResult]:
        async with RemoteSandbox(server.url, first_pause=0.01) as sandbox:
            return await sandbox.call(job)

    return asyncio.run(ask())


def run(server: FusionServer, job: ProgramJob) -> ProgramResult:
    async def ask() -> ProgramResult:
        async with RemoteSandbox(server.url, first_pause=0.01) as sandbox:
            return await sandbox.run(job)

    return asyncio.run(ask())


def test_calls_mean_the_same_as_on_a_local_worker(server: FusionServer) -> None:
    code = "import os\ndef f(n):\n  if n == 1: os._exit(0)\n  if n == 2: raise ValueError\n"
    code += "  print('noise'); return (n, {n})"
    results = call(server, CallJob(code, "f", ([0], [1], [2], [3])))
    assert [r.status for r in results] == [S.OK, S.RUNTIME_ERROR, S.RUNTIME_ERROR, S.OK]
    assert results[3].value == [3, {"$set": [3]}]
    assert results[3].stdout == "noise\n"


def test_programs_as_calls(server: FusionServer) -> None:
    results = call(server, CallJob("print(int(input()) + 1)", None, ("1", "2", "x")))
    assert [(r.status, r.stdout) for r in results] == [(S.OK, "2\n"), (S.OK, "3\n"), (S.RUNTIME_ERROR, "")]


def test_one_request_carries_all_calls_and_no_expected_answer(server: FusionServer) -> None:
    call(server, CallJob("def f(n): return n", "f", tuple([n] for n in range(20))))
    assert [path for path, _ in server.requests] == ["/run_code"]


def test_a_program_with_files(server: FusionServer) -> None:
    code = "print(input(), open('in.txt').read()); open('out.txt', 'w').write('o')"
    done = run(server, ProgramJob("python", code, "hi\n", files={"in.txt": b"data"}, collect=("out.txt",)))
    assert (done.status, done.stdout, dict(done.files)) == (S.OK, "hi data\n", {"out.txt": b"o"})
    _, body = server.requests[-1]
    assert {
        "code",
        "language",
        "stdin",
        "compile_timeout",
        "run_timeout",
        "memory_limit_MB",
        "files",
        "fetch_files",
    } == set(body)


def test_wall_limit_and_failures_become_statuses(server: FusionServer) -> None:
    slow = ProgramJob("python", "while True: pass", limits=Limits(wall_seconds=0.5))
    assert run(server, slow).status == S.WALL_TIMEOUT
    assert run(server, ProgramJob("python", "1/0")).status == S.RUNTIME_ERROR
    assert run(server, ProgramJob("cpp", "")).status == S.COMPILE_ERROR
    endless = CallJob("def f(n):\n  while n: pass\n  return n", "f", ([0], [1]), Limits(wall_seconds=1))
    assert [r.status for r in call(server, endless)] == [S.OK, S.WALL_TIMEOUT]


def test_the_servers_own_failures_are_retried_then_raised(server: FusionServer) -> None:
    server.failures = [503, {"status": "SandboxError", "message": "busy"}]
    assert run(server, ProgramJob("python", "print(1)")).stdout == "1\n"
    server.failures = [{"status": "SandboxError", "message": "broken for good"}] * 5
    with pytest.raises(ReasonkitError, match=r"failed 5 times.*broken for good"):
        run(server, ProgramJob("python", "print(1)"))
    server.failures = [422]
    with pytest.raises(ReasonkitError, match="answered 422"):
        run(server, ProgramJob("python", "print(1)"))


def test_submit_judges_by_a_dataset_row(server: FusionServer) -> None:
    client = FusionClient(server.url)
    rows = [
        {"input": {"stdin": "1"}, "output": {"stdout": "2"}},
        {"input": {"stdin": "5"}, "output": {"stdout": "6"}},
    ]
    config = {"dataset_type": "CommonOJDataset", "language": "python", "provided_data": {"test": rows}}
    right = client.submit("dataset", 1, "Sure:\n```python\nprint(int(input()) + 1)\n```", config)
    wrong = client.submit("dataset", 1, "```python\nprint(2)\n```", config)
    client.close()
    assert (right.accepted, [test["passed"] for test in right.tests]) == (True, [True, True])
    assert (wrong.accepted, [test["passed"] for test in wrong.tests]) == (False, [True, False])


def test_code_for_the_server_itself_is_refused(server: FusionServer) -> None:
    client = FusionClient(server.url)
    with pytest.raises(UsageError, match="custom_extract_logic"):
        client.submit("d", 1, "", {"custom_extract_logic": "import os"})
    client.close()
    with pytest.raises(UsageError, match="no arguments"):
        run(server, ProgramJob("python", "", args=("a",)))


def test_no_server_is_said_at_once() -> None:
    with pytest.raises(ReasonkitError, match="no answer") as caught:
        RemoteSandbox("http://127.0.0.1:9")
    assert "ping" in caught.value.hint
