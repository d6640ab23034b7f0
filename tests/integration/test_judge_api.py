"""The judge's own API and SandboxFusion's, in this process, with real verdicts and a real sandbox."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from reasonkit.errors import UsageError
from reasonkit.judge.bench import CACHE_BYTES, Bench, question_key
from reasonkit.judge.board import CACHED, SHARED, Board
from reasonkit.judge.gate import Gate
from reasonkit.judge.settings import Settings
from reasonkit.records import Record, Verdict, to_row
from reasonkit.verifiers import verify
from tests.judge_app import app_client
from tests.verifier_samples import SAMPLES

QUICK = [name for name in SAMPLES if name not in ("judge", "reasoning_gym", "code", "codeio", "cruxeval")]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with app_client(Settings()) as opened:
        yield opened


def record_in(record: Record) -> dict[str, Any]:
    fields = ("uid", "source", "prompt", "answer", "verifier", "metadata")
    return {name: getattr(record, name) for name in fields}


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.content.split(b"\n") if line]


@pytest.mark.parametrize("name", QUICK)
def test_a_verdict_is_that_of_the_verifiers_here(client: TestClient, name: str) -> None:
    sample = SAMPLES[name]
    for reply in (sample.gold, sample.other, ""):
        response = client.post("/v1/verify", json={"record": record_in(sample.record), "response": reply})
        assert response.status_code == 200, response.text
        found, here = response.json(), verify(sample.record, reply)
        assert (found["status"], found["answer"], found["reason"]) == (here.status, here.answer, here.reason)
        assert found["score"] == (None if here.status.is_failure else pytest.approx(here.score))
        assert found["uid"] == sample.record.uid


def test_a_row_of_a_record_file_is_a_record(client: TestClient) -> None:
    row = to_row(Record("u7", "openai/gsm8k", ({"role": "user", "content": "?"},), "72"))
    response = client.post("/v1/verify", json={"record": row, "response": "#### 72"})
    assert (response.json()["status"], response.json()["uid"]) == ("correct", "u7")
    broken = client.post("/v1/verify", json={"record": row | {"extra_info": "{"}, "response": ""})
    assert broken.status_code == 422


def test_code_says_where_it_ran(client: TestClient) -> None:
    record = {"source": "taco", "answer": {"inputs": ["2\n"], "outputs": ["4\n"]}}
    reply = "```python\nprint(int(input()) * 2)\n```"
    found = client.post("/v1/verify", json={"record": record, "response": reply}).json()
    assert (found["status"], found["details"]["tests"]) == ("correct", 1)
    assert found["details"]["tier"] == client.get("/health").json()["sandbox"]["tier"]


def test_a_failure_has_no_score(client: TestClient) -> None:
    record = {"verifier": "judge", "answer": "twelve metres", "prompt": [{"role": "user", "content": "?"}]}
    found = client.post("/v1/verify", json={"record": record, "response": "\\boxed{12 m}"}).json()
    assert (found["status"], found["score"]) == ("error", None)
    assert "judge" in found["reason"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"source": "nobody_knows", "answer": "1"}, "nobody_knows"),
        ({"source": "math", "answer": "1", "verifier": "os:system"}, "os:system"),
        (
            {"source": "math", "answer": "1", "verifier": "reasonkit.judge.legacy:verify_llm_judge"},
            "no verifier",
        ),
        ({"source": "math", "answer": "1", "verifier": "math:"}, "no verifier"),
        ({"source": "math", "answer": "1", "verifier": "mathh"}, "no verifier"),
    ],
)
def test_only_verifiers_of_the_table_can_be_named(
    client: TestClient, record: dict[str, Any], words: str
) -> None:
    """A name like module:function would import and call what a client names."""
    response = client.post("/v1/verify", json={"record": record, "response": "x"})
    assert response.status_code == 422
    assert words in response.json()["detail"]
    in_a_batch = client.post("/v1/verify/batch", json={"items": [{"record": record, "response": "x"}]})
    assert [(line["status"], line["score"]) for line in lines(in_a_batch)] == [("error", None)]


def test_a_batch_answers_every_item_once_whatever_it_is(client: TestClient) -> None:
    items: list[Any] = [
        {"record": {"source": "math", "answer": str(n)}, "response": f"\\boxed{{{n % 7}}}"}
        for n in range(300)
    ]
    items[5] = {"record": {"source": "math"}, "response": "x"}
    items[6] = "nothing"
    items[7] = {"record": {"source": "math", "answer": "1"}, "response": "a\u2028b\x0b\\boxed{1}"}
    response = client.post("/v1/verify/batch", json={"items": items})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    found = {line["index"]: line for line in lines(response)}
    assert sorted(found) == list(range(300))
    assert [index for index, line in sorted(found.items()) if line["status"] == "error"] == [5, 6]
    right = [index for index, line in sorted(found.items()) if line["score"] == 1.0]
    assert right == [0, 1, 2, 3, 4, 7]
    assert "record" in found[5]["reason"]


def test_an_empty_batch_is_an_empty_answer(client: TestClient) -> None:
    assert client.post("/v1/verify/batch", json={"items": []}).content == b""


def test_a_batch_streams_what_is_ready_before_what_is_not() -> None:
    """The first lines are there while the last verdict has not even begun to be judged."""

    async def run() -> None:
        from reasonkit.judge.app import _judged

        class Halting:
            released = asyncio.Event()

            async def verdict(self, record: Record, text: str) -> Verdict:
                if text == "slow":
                    await self.released.wait()
                return Verdict.correct(text)

        halting = Halting()
        texts = ["slow", "quick", "quick too"]
        items: list[Any] = [{"record": {"source": "math", "answer": ""}, "response": text} for text in texts]
        stream = _judged(halting, items, 2)  # type: ignore[arg-type]
        seen = b"" + await anext(stream)
        while seen.count(b"\n") < 2:
            seen += await anext(stream)
        assert b'"slow"' not in seen
        halting.released.set()
        assert b'"slow"' in await anext(stream)
        assert [piece async for piece in stream] == []

    asyncio.run(run())


def test_equal_questions_share_a_verdict_and_failures_are_not_kept() -> None:
    async def run() -> None:
        board = Board()
        bench = Bench(Settings(), board)
        asked: list[str] = []
        release = asyncio.Event()

        async def verdict(record: Record, text: str) -> Verdict:
            asked.append(text)
            await release.wait()
            return Verdict.error("down") if text == "bad" else Verdict.correct(text)

        bench.grader.verify = verdict  # type: ignore[method-assign]
        one, other = Record("a", "math", (), "1"), Record("b", "math", (), "1")
        waiting = [asyncio.create_task(bench.verdict(record, "same")) for record in (one, other, one)]
        impatient = asyncio.create_task(bench.verdict(one, "same"))
        await asyncio.sleep(0)
        impatient.cancel()
        release.set()
        assert {(await task).answer for task in waiting} == {"same"}
        assert asked == ["same"], "one verdict for four, one of whom went away"
        assert board.total(SHARED) == 3
        await bench.verdict(other, "same")
        assert (asked, board.total(CACHED)) == (["same"], 1)
        for _ in range(2):
            assert (await bench.verdict(one, "bad")).status.is_failure
        assert asked == ["same", "bad", "bad"], "who asks again after a failure is judged again"
        board.close()

    asyncio.run(run())


def test_what_is_kept_is_bounded() -> None:
    async def run() -> None:
        board = Board()
        bench = Bench(Settings(), board)
        long = "x" * 100_000

        async def verdict(record: Record, text: str) -> Verdict:
            return Verdict.correct(text + long)

        bench.grader.verify = verdict  # type: ignore[method-assign]
        for number in range(500):
            await bench.verdict(Record("", "math", (), "1"), str(number))
        assert bench._kept_bytes <= CACHE_BYTES
        assert len(bench._kept) * len(long) <= CACHE_BYTES
        board.close()

    asyncio.run(run())


def test_a_question_is_all_that_a_verdict_can_depend_on() -> None:
    base = Record("u", "math", ({"role": "user", "content": "q"},), "1", "math", {"a": 1})
    same = Record("another", "math", ({"role": "user", "content": "q"},), "1", "math", {"a": 1})
    assert question_key(base, "x") == question_key(same, "x")
    others = [
        Record("u", "gsm8k", base.prompt, "1", "math", {"a": 1}),
        Record("u", "math", (), "1", "math", {"a": 1}),
        Record("u", "math", base.prompt, 1, "math", {"a": 1}),
        Record("u", "math", base.prompt, "1", None, {"a": 1}),
        Record("u", "math", base.prompt, "1", "math", {"a": 2}),
    ]
    keys = {question_key(record, "x") for record in (base, *others)} | {question_key(base, "y")}
    assert len(keys) == len(others) + 2


# SandboxFusion


def test_run_code_answers_as_sandbox_fusion(client: TestClient) -> None:
    data = base64.b64encode(b"hidden").decode()
    code = (
        "import sys\nprint(input(), open('in.txt').read())\nopen('out.txt', 'w').write('made')\nsys.exit(3)"
    )
    body = {
        "code": code,
        "language": "python",
        "stdin": "typed",
        "files": {"in.txt": data},
        "fetch_files": ["out.txt"],
    }
    found = client.post("/run_code", json=body).json()
    assert (found["status"], found["run_result"]["return_code"]) == ("Failed", 3)
    assert found["run_result"]["stdout"] == "typed hidden\n"
    assert base64.b64decode(found["files"]["out.txt"]) == b"made"
    assert found.keys() == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}


def test_a_time_limit_is_said(client: TestClient) -> None:
    body = {"code": "while True: pass", "language": "python", "run_timeout": 0.3}
    found = client.post("/run_code", json=body).json()
    assert (found["status"], found["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")


def test_a_program_that_does_not_compile_has_not_run(client: TestClient) -> None:
    found = client.post("/run_code", json={"code": "int main( {", "language": "cpp"}).json()
    if found["status"] == "SandboxError":
        pytest.skip(f"no compiler here: {found['message']}")
    assert (found["status"], found["run_result"]) == ("Failed", None)
    assert found["compile_result"]["return_code"] != 0


@pytest.mark.parametrize(
    "body",
    [
        {"code": "1", "language": "fortran"},
        {"code": "1", "language": "python", "files": {"a": "not base64!"}},
        {"code": "1", "language": "python", "files": {"../a": ""}},
        {"code": "1", "language": "python", "files": {"/etc/passwd": ""}},
        {"code": "1", "language": "python", "run_timeout": 1e9},
        {"code": "1", "language": "python", "memory_limit_MB": 10**6},
        {"language": "python"},
    ],
)
def test_what_cannot_be_run_is_422(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/run_code", json=body).status_code == 422


def submission(completion: str, tests: list[tuple[str, str]], **config: Any) -> dict[str, Any]:
    row = {
        "id": 1,
        "content": "",
        "test": [{"input": {"stdin": i}, "output": {"stdout": o}} for i, o in tests],
    }
    settings = {"dataset_type": "CommonOJDataset", "language": "python", "provided_data": row, **config}
    return {"dataset": "custom_dataset", "id": 1, "completion": completion, "config": settings}


def test_submit_stops_at_the_first_failure_unless_asked_not_to(client: TestClient) -> None:
    reply = "```python\nprint(int(input()) * 2)\n```\nor\n```python\nprint(0)\n```"
    tests = [("1", "2"), ("2", "5"), ("3", "6")]
    short = client.post("/submit", json=submission(reply, tests)).json()
    assert (short["accepted"], [test["passed"] for test in short["tests"]]) == (False, [True, False])
    assert short["extracted_code"] == "print(int(input()) * 2)\n", "the first fence"
    whole = client.post("/submit", json=submission(reply, tests, extra={"run_all_cases": True})).json()
    assert [test["passed"] for test in whole["tests"]] == [True, False, True]
    right = client.post("/submit", json=submission(reply, tests[:1])).json()
    assert (right["accepted"], right["tests"][0]["exec_info"]["status"]) == (True, "Success")


@pytest.mark.parametrize(
    ("printed", "expected", "passes"),
    [
        ("YES", "yes", True),
        ("  a  \nb", "a\nb  ", True),
        ("a\n\nb", "a\nb", False),
        ("1.000001", "1.0", True),
        ("1.0001", "1.0", False),
        ("nan", "nan", True),
        ("inf", "1e400", False),
        ("", "", True),
        ("1", "1\n2", False),
    ],
)
def test_output_is_compared_by_lines(printed: str, expected: str, passes: bool) -> None:
    from reasonkit.judge.fusion import same_lines

    assert same_lines(printed, expected) is passes


@pytest.mark.parametrize(
    "config",
    [
        {"custom_extract_logic": "import os; os.system('id')"},
        {"dataset_type": "HumanEvalDataset"},
        {"language": None},
        {"provided_data": None},
        {"provided_data": {"test": []}},
        {"provided_data": {"test": [{"input": {}, "output": {"stdout": ""}}]}},
        {"provided_data": {"test": ["x"]}},
        {"provided_data": [{"id": 2, "test": []}, {"id": 3, "test": []}]},
    ],
)
def test_what_cannot_be_submitted_is_422(client: TestClient, config: dict[str, Any]) -> None:
    response = client.post("/submit", json=submission("```python\n1\n```", [("", "")], **config))
    assert response.status_code == 422


def test_a_sandbox_fusion_ping_is_a_pong(client: TestClient) -> None:
    response = client.get("/v1/ping")
    assert (response.status_code, response.json()) == (200, "pong")


def test_health_shows_walls_and_workers(client: TestClient) -> None:
    found = client.get("/health").json()
    assert found["status"] == "ok"
    assert found["sandbox"]["stopped"] == found["sandbox"]["attacks"] > 0
    assert found["judge"] == {"model": None}
    assert [worker["alive"] for worker in found["workers"]["processes"]] == [True]


def test_metrics_count_what_was_judged(client: TestClient) -> None:
    client.post("/v1/verify", json={"record": {"source": "gsm8k", "answer": "9"}, "response": "#### 9"})
    text = client.get("/metrics").text
    assert 'reasonkit_judge_verdicts_total{verifier="gsm8k",status="correct"}' in text


@pytest.mark.parametrize(
    ("address", "open_to_all", "code"),
    [
        ("127.0.0.1", False, 200),
        ("::1", False, 200),
        ("192.0.2.7", False, 403),
        ("unknown", False, 403),
        ("192.0.2.7", True, 200),
    ],
)
def test_without_a_token_only_this_machine_is_served(address: str, open_to_all: bool, code: int) -> None:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    board = Board()
    gate = Gate(behind, Settings(open_to_all=open_to_all), board)
    assert TestClient(gate, client=(address, 1)).get("/ping").status_code == code
    board.close()


def test_a_bug_is_answered_without_its_message(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    message = secrets.token_hex(8)

    def broken(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("reasonkit.judge.app.health_of", broken)
    monkeypatch.setattr(logging.getLogger("reasonkit"), "propagate", True)
    response = client.get("/health", headers={"x-request-id": "mine-1"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "mine-1")
    assert message not in response.text + caplog.text
    assert "mine-1: RuntimeError" in caplog.text


def test_a_batch_item_names_what_is_wrong() -> None:
    from reasonkit.judge.schemas import parse_question

    with pytest.raises(UsageError, match="response"):
        parse_question({"record": {"source": "math", "answer": 1}})
