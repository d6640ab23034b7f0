"""Verdicts from elsewhere: an RL Verifier, our own server, several of them, and all that can go wrong between."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers import Grader
from reasonkit.verifiers.remote import ATTEMPTS, RemoteGrader, verification_info
from tests.judge_server import JudgeServer, free_port, judging
from tests.reward_server import RLVerifier, rl_verifier
from tests.verifier_samples import SAMPLES

GOLD = Record("u1", "math", (), "4", metadata={"info": {"type": "math_verifiable", "answer": {"value": "5"}}})


@pytest.fixture
def legacy() -> Iterator[RLVerifier]:
    with rl_verifier() as server:
        yield server


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeServer]:
    with judging(tmp_path_factory.mktemp("judge")) as server:
        yield server


def asked(use: Callable[[RemoteGrader], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with RemoteGrader(**options) as grader:
            return await use(grader)

    return asyncio.run(run())


def verify(record: Record, *texts: str) -> Callable[[RemoteGrader], Coroutine[Any, Any, list[Verdict]]]:
    async def use(grader: RemoteGrader) -> list[Verdict]:
        return list(await asyncio.gather(*(grader.verify(record, text) for text in texts)))

    return use


# An RL Verifier


def test_an_rl_verifier_is_asked_in_its_own_words(legacy: RLVerifier) -> None:
    right, wrong = asked(verify(GOLD, "\\boxed{4}", "\\boxed{5}"), url=legacy.url)
    assert (right.status, right.score, wrong.status, wrong.score) == (Status.CORRECT, 1.0, Status.WRONG, 0.0)
    sent = {request["llm_output"]: request["verification_info"] for request in legacy.requests}
    assert json.loads(sent["\\boxed{4}"]) == {"type": "math_verifiable", "answer": {"value": "4"}}


def test_a_column_of_the_data_goes_as_it_is(legacy: RLVerifier) -> None:
    (found,) = asked(verify(GOLD, "\\boxed{5}"), url=legacy.url, verification_info_column="info")
    assert found.score == 1.0, "the column says 5"
    (missing,) = asked(verify(GOLD, "\\boxed{5}"), url=legacy.url, verification_info_column="nothing")
    assert missing.status is Status.ERROR
    assert "'nothing'" in missing.reason


def test_no_more_requests_at_a_time_than_allowed(legacy: RLVerifier) -> None:
    texts = [f"{n} \\boxed{{4}}" for n in range(40)]
    found = asked(verify(GOLD, *texts), url=legacy.url, max_workers=5)
    assert all(verdict.score == 1.0 for verdict in found)
    assert legacy.most_at_once <= 5


@pytest.mark.parametrize("fault", [500, 502, 503, 429, "hang up"])
def test_what_may_pass_is_asked_again(legacy: RLVerifier, fault: int | str) -> None:
    legacy.faults = [fault]
    (found,) = asked(verify(GOLD, "\\boxed{4}"), url=legacy.url)
    assert found.score == 1.0
    assert len(legacy.requests) == 2


def test_what_never_passes_is_an_error_and_not_a_zero(legacy: RLVerifier) -> None:
    legacy.faults = [500] * ATTEMPTS
    (found,) = asked(verify(GOLD, "\\boxed{4}"), url=legacy.url)
    assert found.status is Status.ERROR
    assert f"{ATTEMPTS} times" in found.reason
    assert len(legacy.requests) == ATTEMPTS


def test_a_request_that_gets_no_answer_is_given_up_in_time(legacy: RLVerifier) -> None:
    legacy.faults = ["silence"]
    (found,) = asked(verify(GOLD, "\\boxed{4}"), url=legacy.url, timeout=0.3)
    assert found.score == 1.0


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_an_error_at_once(legacy: RLVerifier, status: int) -> None:
    legacy.faults = [status]
    (found,) = asked(verify(GOLD, "\\boxed{4}"), url=legacy.url)
    assert found.status is Status.ERROR
    assert f"status {status}" in found.reason
    assert len(legacy.requests) == 1


# Several hosts


def test_the_host_that_failed_is_avoided(legacy: RLVerifier) -> None:
    with rl_verifier() as broken:
        broken.faults = ["hang up"] * 100
        texts = [f"{n} \\boxed{{4}}" for n in range(20)]
        found = asked(verify(GOLD, *texts), url=[broken.url, legacy.url], max_workers=4)
        assert all(verdict.score == 1.0 for verdict in found)
        assert len(broken.requests) <= 8, "after its first failures it is left alone for a while"


def test_load_is_spread(legacy: RLVerifier) -> None:
    with rl_verifier() as other:
        asked(verify(GOLD, *map(str, range(40))), url=[legacy.url, other.url], max_workers=8)
        assert min(len(legacy.requests), len(other.requests)) >= 10


def test_no_host_at_the_start_is_an_error_that_says_what_to_type() -> None:
    with pytest.raises(ReasonkitError, match="does not answer") as failure:
        asked(verify(GOLD), url=f"http://127.0.0.1:{free_port()}")
    assert "serve-judge" in failure.value.hint


def test_when_all_are_down_for_long_questions_are_errors_and_quickly() -> None:
    async def use(grader: RemoteGrader) -> list[Verdict]:
        server.down = True
        async with asyncio.timeout(60):
            slow = await asyncio.gather(*(grader.verify(GOLD, str(n)) for n in range(50)))
        async with asyncio.timeout(10):  # by now it is known
            return [*slow, await grader.verify(GOLD, "another")]

    with rl_verifier() as server:
        found = asked(use, url=server.url, patience=1.0)
    assert {verdict.status for verdict in found} == {Status.ERROR}
    assert "no reward server" in found[0].reason


def test_secrets_in_an_address_stay_there() -> None:
    url = f"http://user:password@127.0.0.1:{free_port()}/the-token"
    with pytest.raises(ReasonkitError) as failure:
        asked(verify(GOLD), url=url)
    shown = failure.value.message + failure.value.hint
    assert "password" not in shown
    assert "the-token" not in shown


# Our own server


def test_our_server_gives_the_verdicts_that_a_grader_here_gives(judge: JudgeServer) -> None:
    names = [name for name in SAMPLES if name not in ("judge", "reasoning_gym")]
    pairs = [
        (SAMPLES[name].record, text)
        for name in names
        for text in (SAMPLES[name].gold, SAMPLES[name].other, "")
    ]

    async def run() -> tuple[list[Verdict], list[Verdict]]:
        async with RemoteGrader(url=judge.url) as remote, Grader() as here:
            remote.check(record for record, _ in pairs)
            far = await asyncio.gather(*(remote.verify(*pair) for pair in pairs))
            return far, await asyncio.gather(*(here.verify(*pair) for pair in pairs))

    far, near = asyncio.run(run())
    assert [(v.status, v.score, v.answer, v.reason) for v in far] == [
        (v.status, v.score, v.answer, v.reason) for v in near
    ]


def test_questions_that_wait_together_travel_together(judge: JudgeServer) -> None:
    import httpx

    def count() -> float:
        lines = httpx.get(f"{judge.url}/metrics").text.splitlines()
        name = 'reasonkit_judge_requests_total{route="/v1/verify/batch",code="200"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = count()
    texts = [f"#### {n}" for n in range(500)]
    found = asked(verify(Record("", "gsm8k", (), "7"), *texts), url=judge.url, max_workers=4)
    assert [n for n, verdict in enumerate(found) if verdict.score == 1.0] == [7]
    assert count() - before < 30


def test_text_of_any_kind_arrives_as_it_was(judge: JudgeServer) -> None:
    """Separators that split lines elsewhere, and what JSON cannot say."""
    record = Record("", "", (), "a\u2028b\x85c\x0bd", "exact")
    texts = ["<answer>a\u2028b\x85c\x0bd</answer>", "\ud800", "", "x" * 2_000_000]
    right, half, empty, long = asked(verify(record, *texts), url=judge.url)
    assert right.status is Status.CORRECT
    assert (half.status, half.answer) == (Status.WRONG, "\ud800")
    assert empty.status is Status.NO_ANSWER
    assert long.status is Status.TIMEOUT
    (unsayable,) = asked(verify(Record("", "", (), float("nan"), "exact"), "x"), url=judge.url)
    assert unsayable.status is Status.ERROR


def test_what_a_server_cannot_be_asked_is_said_at_the_start(judge: JudgeServer, legacy: RLVerifier) -> None:
    own, unknown, zebra = (
        Record("", "x", (), "", "mine:even"),
        Record("", "nobody_knows", (), ""),
        SAMPLES["zebra"].record,
    )

    async def check(grader: RemoteGrader, *records: Record) -> None:
        grader.check(records)

    asked(lambda grader: check(grader, zebra, GOLD), url=judge.url)
    for record, words in ((own, "your own"), (unknown, "nobody_knows")):
        with pytest.raises(UsageError, match=words):
            asked(lambda grader, record=record: check(grader, record), url=judge.url)
    with pytest.raises(UsageError, match="zebra"):
        asked(lambda grader: check(grader, zebra), url=legacy.url)


@pytest.mark.slow
def test_a_token_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="NOT_THERE"):
        RemoteGrader(url="http://x", api_key_env="NOT_THERE")
    monkeypatch.setenv("THE_TOKEN", "correct-horse-battery")
    with judging(
        tmp_path, "--api-key-env", "THE_TOKEN", environment={"THE_TOKEN": "correct-horse-battery"}
    ) as server:
        (with_token,) = asked(verify(GOLD, "\\boxed{4}"), url=server.url, api_key_env="THE_TOKEN")
        (in_the_path,) = asked(verify(GOLD, "\\boxed{4}"), url=f"{server.url}/correct-horse-battery")
        (without,) = asked(verify(GOLD, "\\boxed{4}"), url=server.url)
    assert (with_token.score, in_the_path.score) == (1.0, 1.0)
    assert without.status is Status.ERROR
    assert "401" in without.reason


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_costs_nothing_but_time(tmp_path: Path) -> None:
    """Every question gets exactly one verdict, the right one, though the server dies in the middle, twice."""
    port = free_port()
    records = [Record(str(n), "math", (), str(n)) for n in range(600)]

    async def run() -> list[Verdict]:
        with judging(tmp_path, port=port) as first:
            grader = await RemoteGrader(
                url=first.url, save_dir=str(tmp_path / "log"), patience=120
            ).__aenter__()
            tasks = [
                asyncio.create_task(grader.verify(record, f"\\boxed{{{n + n % 2}}}"))
                for n, record in enumerate(records)
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            first.stop(signal.SIGKILL)
        with judging(tmp_path, port=port) as second:
            await asyncio.sleep(0.2)
            second.stop(signal.SIGTERM)
        with judging(tmp_path, port=port):
            found = list(await asyncio.gather(*tasks))
            await grader.close()
            return found

    found = asyncio.run(run())
    assert [verdict.score for verdict in found] == [1.0 - n % 2 for n in range(600)]
    rows = pq.read_table(tmp_path / "log" / "train" / "0.parquet").to_pylist()
    assert sorted(int(row["id"]) for row in rows) == list(range(600)), "each counted once"


# What is written down


def test_steps_are_written_as_ii_verl_writes_them(legacy: RLVerifier, tmp_path: Path) -> None:
    async def use(grader: RemoteGrader) -> None:
        for step in range(4):
            with grader.at("train", step):
                await asyncio.gather(
                    grader.verify(GOLD, f"{step} \\boxed{{4}}"), grader.verify(GOLD, f"{step} no")
                )
            with grader.at("val", step):
                await grader.verify(GOLD, f"val {step}")
        legacy.faults = [404]
        await grader.verify(GOLD, "refused")

    asked(use, url=legacy.url, save_dir=str(tmp_path), save_freq=2)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")) == [
        "train/0.parquet", "train/2.parquet", "val/0.parquet", "val/2.parquet",
    ]  # fmt: skip
    table = pq.read_table(tmp_path / "train" / "2.parquet")
    assert table.column_names == ["llm_output", "verification_info", "score", "id", "data_source"]
    rows = {row["llm_output"]: row for row in table.to_pylist()}
    assert rows["2 \\boxed{4}"] == {
        "llm_output": "2 \\boxed{4}",
        "verification_info": verification_info(GOLD),
        "score": 1.0,
        "id": "u1",
        "data_source": "math",
    }
    assert rows["2 no"]["score"] == 0.0


def test_a_verdict_belongs_to_the_step_that_asked_for_it(legacy: RLVerifier, tmp_path: Path) -> None:
    async def use(grader: RemoteGrader) -> None:
        async def step(number: int, text: str) -> None:
            with grader.at("train", number):
                await asyncio.sleep(0)  # the other one begins
                await grader.verify(GOLD, text)

        await asyncio.gather(step(1, "one"), step(2, "other"))
        legacy.faults = [404]
        await step(3, "refused")

    asked(use, url=legacy.url, save_dir=str(tmp_path))
    found = [pq.read_table(tmp_path / "train" / f"{step}.parquet").to_pylist() for step in (1, 2, 3)]
    assert [[(row["llm_output"], row["score"]) for row in rows] for rows in found] == [
        [("one", 0.0)], [("other", 0.0)], [("refused", None)],  # a failure has no score
    ]  # fmt: skip
