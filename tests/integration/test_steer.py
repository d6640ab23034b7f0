"""`reasonkit steer` end to end: scripted models behind a real server, a real sandbox, real verdicts.

One test runs the command as users do; the others run the same command's code in this process, which starts faster.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reasonkit.cli.steer import app
from reasonkit.data.adapters import read_any
from reasonkit.data.files import read_records, write_records
from reasonkit.engines import Reply, Sampling
from reasonkit.errors import PartlyDone, ReasonkitError, UsageError
from reasonkit.records import Message, Record
from reasonkit.sandbox import Sandbox, open_sandbox
from reasonkit.steer import checks
from reasonkit.steer.env import Roles, Steering
from reasonkit.steer.texts import CODE, TEXT
from reasonkit.steer.trajectories import Trajectory, read_trajectories
from tests.chat_server import ChatServer, Fault, Refuse, Slow, serve_chat
from tests.micro import reasonkit

PROGRAM = """Here:
```python
total = 0
for n in range({n} + 1):
    total += n
print('\\\\boxed{{%d}}' % total)
```"""


def record(place: int) -> Record:
    question = f"What is the sum of all whole numbers from 0 to {place}? Put the answer into \\boxed{{}}."
    return Record(
        f"r{place}", "sums", ({"role": "user", "content": question},), str(place * (place + 1) // 2), "gsm8k"
    )


def steerer(body: dict[str, Any]) -> str:
    """Begins with text where its draw is even, and accepts whatever a program printed."""
    last = body["messages"][-1]["content"]
    if "Its program was run" in last:
        return "A program counted. <<<Return Answer>>>"
    if len(body["messages"]) > 1:
        return "<<<Return Answer>>>" if body["seed"] % 3 else "Text did not do. <<<Code>>>"
    return "<<<Text>>>" if body["seed"] % 2 == 0 else "Count by <<<Code>>>"


def task(body: dict[str, Any]) -> str:
    """Can count by a program, and cannot in its head."""
    asked = body["messages"][-1]["content"]
    number = body["messages"][0]["content"].split("from 0 to ")[1].split("?")[0]
    return PROGRAM.format(n=number) if asked.startswith(CODE) else r"It is surely \boxed{7}."


def models(body: dict[str, Any]) -> str:
    return {"steerer": steerer, "task": task}[body["model"]](body)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    write_records((record(place) for place in range(10, 16)), tmp_path / "sums.parquet")
    return tmp_path / "sums.parquet"


def command(server: ChatServer, verb: str, out: str, *more: str) -> list[str]:
    return [
        verb, "sums.parquet", "--out", out, "--steerer", f"openai:steerer@{server.url}",
        "--task", f"openai:task@{server.url}", *more,
    ]  # fmt: skip


def here(arguments: Sequence[str]) -> tuple[Any, str, BaseException | None]:
    """(what was printed as JSON, what was said beside it, the error) of `reasonkit steer ARGUMENTS --json`."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exception is None or isinstance(done.exception, ReasonkitError), done.exception
    return json.loads(done.stdout or "null"), done.stderr, done.exception


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "data"))


def by_id(folder: Path) -> dict[str, Trajectory]:
    return {each.id: each for each in read_trajectories(folder)}


def test_run_says_what_is_solved_and_makes_nothing_twice(records: Path) -> None:
    with serve_chat(models) as server:
        figures, said, error = here(command(server, "run", "out"))
        assert error is None
        asked = len(server.seen)
        again, _, _ = here(command(server, "run", "out"))
        assert len(server.seen) == asked
    kept = by_id(Path("out"))
    assert set(kept) == {f"r{place}#0" for place in range(10, 16)}
    for place in range(10, 16):
        each = kept[f"r{place}#0"]
        used_code = any(turn.round is not None and turn.round.program for turn in each.turns)
        assert each.solved == used_code
        assert each.answer == (str(place * (place + 1) // 2) if used_code else "7")
    solved = sum(each.solved for each in kept.values())
    assert 0 < solved < 6, "the script must have gone both ways"
    assert (figures["all"]["attempts"], figures["all"]["solved"], figures["all"]["failed"]) == (6, solved, 0)
    assert figures["usage"]["requests"] == figures["usage"]["answered"] == asked
    assert "6 records: sums.parquet" in said
    assert again["all"] == figures["all"]
    assert json.loads(Path("out", "results.json").read_text())["all"] == figures["all"]


def test_collect_then_pairs_gives_data_that_the_rest_of_reasonkit_reads(records: Path) -> None:
    folder = Path("out")
    with serve_chat(models) as server:
        done = reasonkit(
            records.parent, "steer", *command(server, "collect", "out", "-n", "2", "--branches", "3")
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:3] == ["source", "attempts", "solved"]
    attempts = by_id(folder)
    branches = [each for each in attempts.values() if not each.root]
    assert branches, "some attempts must have failed"
    for each in branches:
        start, _, way = each.id.partition("/")
        shared = int(way.split(".")[0])
        assert not attempts[start].solved
        assert each.turns[:shared] == attempts[start].turns[:shared]

    demonstrations = list(read_records(folder / "sft.parquet"))
    assert demonstrations
    assert all(each.prompt[-1]["role"] == "user" and isinstance(each.answer, str) for each in demonstrations)

    written, _, error = here(["pairs", "out"])
    assert error is None
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert written["pairs"] == len(rows) > 0
    for row in rows:
        assert row["score_chosen"] - row["score_rejected"] >= 1
        pair = read_any(row)
        assert pair.answer["chosen"] != pair.answer["rejected"]
    assert any(
        "Code" in row["chosen"][0]["content"] and "Text" in row["rejected"][0]["content"] for row in rows
    )


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_the_same(records: Path) -> None:
    more = ("-n", "2", "--branches", "2", "--concurrency", "2", "--no-cache")
    with serve_chat(models, iter(lambda: Slow(0.02), None)) as server:
        _, _, error = here(command(server, "collect", "whole", *more))
        assert error is None
        asked = len(server.seen)
        killed = subprocess.Popen(
            [sys.executable, "-m", "reasonkit", "steer", *command(server, "collect", "cut", *more)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while len(server.seen) < asked + asked // 2:
            assert killed.poll() is None
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        before = by_id(Path("cut"))
        _, _, error = here(command(server, "collect", "cut", *more))
        assert error is None
    whole = by_id(Path("whole"))
    assert 0 < len(before) < len(whole)
    assert by_id(Path("cut")) == whole
    assert len(Path("cut", "trajectories.jsonl").read_text().splitlines()) == len(whole), (
        "none was made twice"
    )
    assert sorted(map(str, read_records(Path("cut", "sft.parquet")))) == sorted(
        map(str, read_records(Path("whole", "sft.parquet")))
    )


def test_what_an_endpoint_refuses_is_a_recorded_failure_and_made_again_by_the_next_run(records: Path) -> None:
    refusing: list[Fault | None] = [None, None, None, *[Refuse(400, body="model is being moved")] * 400]
    with serve_chat(models, refusing) as server:
        figures, _, error = here(command(server, "run", "out", "--concurrency", "1"))
        assert isinstance(error, PartlyDone)
        assert "model is being moved" in error.message
        assert figures["all"]["failed"] > 0
        assert figures["all"]["attempts"] == 6
        causes = [each.failure for each in by_id(Path("out")).values() if each.failure]
        assert len(causes) == figures["all"]["failed"]
        assert all("model is being moved" in str(cause) for cause in causes)
        server.faults = iter(())
        mended, _, error = here(command(server, "run", "out"))
    assert error is None
    assert mended["all"]["failed"] == 0


def test_the_ceiling_stops_it_and_a_higher_one_goes_on(records: Path) -> None:
    def priced(server: ChatServer, ceiling: str) -> list[str]:
        prices = [word for name in ("steerer", "task") for word in ("--price", f"{name}=1,10")]
        return command(server, "run", "out", "--max-cost", ceiling, *prices)

    with serve_chat(models) as server:
        figures, _, error = here(priced(server, "0.023"))
        assert isinstance(error, PartlyDone)
        assert "stopped at --max-cost 0.023" in error.message
        assert 0 < figures["usage"]["cost"] <= 0.023
        assert figures["all"]["attempts"] < 6
        figures, _, error = here(priced(server, "10"))
    assert error is None
    assert figures["all"]["attempts"] == 6


def test_what_cannot_be_right_is_said_at_the_start(records: Path) -> None:
    with serve_chat(models) as server:
        _, _, error = here(command(server, "run", "out", "--limit", "1"))
        assert error is None
        for more, said in (
            (["--turns", "3"], "was collected with turns 5, and now it is 3"),
            (["--max-cost", "1"], "the price of"),
            (["--checker", "openai:"], "names no model"),
        ):
            _, _, error = here(command(server, "run", "out", *more))
            assert isinstance(error, UsageError)
            assert said in error.message


class Scripted:
    """A Chat that says what it was given to say, in order."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.asked: list[list[Message]] = []

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply:
        self.asked.append(list(messages))
        return Reply(self.replies.pop(0), "stop")

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    opened = asyncio.run(open_sandbox())
    yield opened
    asyncio.run(opened.close())


def play(env: Steering, moves: Sequence[str]) -> list[Any]:
    async def run() -> list[Any]:
        steps = [await env.reset(record(10), 0)]
        return steps + [await env.step(Reply(move, "stop")) for move in moves]

    return asyncio.run(run())


def block(code: str) -> str:
    return f"```python\n{code}\n```"


class TestSteering:
    def test_the_steerer_sees_what_the_program_printed_and_the_task_model_does_not(
        self, sandbox: Sandbox
    ) -> None:
        chat = Scripted(block("print(6 * 7)\nprint(1 / 0)"), r"\boxed{55}")
        opening, first, second, end = play(
            Steering(Roles(chat, sandbox)), ["<<<Code>>>", "Say <<<it>>>", "<<<Return Answer>>>"]
        )
        assert "from 0 to 10" in opening[0]["content"]
        said = first.messages[0]["content"]
        assert "42" in said
        assert "ZeroDivisionError" in said
        assert "numerical, complexity 0.5; it may hold no more than a result" in said
        assert first.info["status"] == "runtime_error"
        assert "ZeroDivisionError" not in str(chat.asked)
        assert chat.asked[0][0]["content"].startswith(CODE)
        assert [turn["role"] for turn in chat.asked[1]] == ["user", "assistant", "user"]
        assert chat.asked[1][-1]["content"] == "it"
        assert (second.done, end.done, end.answer) == (False, True, r"\boxed{55}")

    def test_with_show_output_the_task_model_sees_it_too(self, sandbox: Sandbox) -> None:
        chat = Scripted(block("print(6 * 7)"), "ok")
        play(Steering(Roles(chat, sandbox, show_output=True)), ["<<<Code>>>", "<<<Go on>>>"])
        assert chat.asked[1][1]["content"].endswith("The program printed:\n42")

    def test_after_its_turns_the_last_answer_is_taken(self, sandbox: Sandbox) -> None:
        chat = Scripted("one", block("print('two')"))
        *_, last = play(Steering(Roles(chat, sandbox, turns=2)), ["<<<Text>>>", "<<<Code>>>"])
        assert (last.truncated, last.done, last.answer) == (True, False, "two")

    def test_there_is_nothing_to_accept_before_the_first_answer(self, sandbox: Sandbox) -> None:
        chat = Scripted("one")
        _, step = play(Steering(Roles(chat, sandbox)), ["<<<Return Answer>>>"])
        assert not step.done
        assert chat.asked[0][0]["content"].startswith(TEXT)

    def test_thinking_is_not_handed_on(self, sandbox: Sandbox) -> None:
        chat = Scripted(f"<think>{block('print(1)')}</think>two", "x")
        _, step, _ = play(Steering(Roles(chat, sandbox)), ["<<<Text>>>", "<<<again>>>"])
        assert step.info["program"] is None
        assert "print(1)" not in str(step.messages)
        assert chat.asked[1][1]["content"] == "two"

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            ("while True: pass", "cpu_timeout"),
            ("import os; os._exit(3)", "runtime_error"),
            ("print('x' * 10**7)", "output_limit"),
        ],
    )
    def test_hostile_programs_end_within_their_limits(
        self, code: str, status: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "LIMITS", replace(checks.LIMITS, cpu_seconds=0.5))
        _, step = play(Steering(Roles(Scripted(block(code)), sandbox)), ["<<<Code>>>"])
        assert step.info["status"] == status
        assert len(step.messages[0]["content"]) < 20_000

    def test_the_environment_and_its_keys_are_out_of_reach(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
        code = "import os\nprint(dict(os.environ))\nprint(open('/proc/self/environ').read())"
        _, step = play(Steering(Roles(Scripted(block(code)), sandbox)), ["<<<Code>>>"])
        assert "s3cret" not in str(step)

    def test_the_checkers_program_is_run_and_may_be_written_again(self, sandbox: Sandbox) -> None:
        checker = Scripted(block("print(1 / 0)"), "no program", block("print('the sum is 55')"))
        roles = Roles(Scripted("54"), sandbox, checker=checker)
        _, step = play(Steering(roles), ["<<<Text>>>"])
        assert "A program written to check the answer says:\nthe sum is 55" in step.messages[0]["content"]
        assert "ZeroDivisionError" in checker.asked[1][-1]["content"]

    def test_a_checker_that_never_writes_a_program_costs_three_tries(self, sandbox: Sandbox) -> None:
        checker = Scripted("a", "b", "c")
        _, step = play(Steering(Roles(Scripted("54"), sandbox, checker=checker)), ["<<<Text>>>"])
        assert "no check could be run" in step.messages[0]["content"]

    def test_the_extractor_states_what_the_verifier_is_shown(self, sandbox: Sandbox) -> None:
        extractor = Scripted(r"\boxed{55}")
        roles = Roles(Scripted(block("print(55)")), sandbox, extractor=extractor)
        *_, end = play(Steering(roles), ["<<<Code>>>", "<<<Return Answer>>>"])
        assert end.answer == r"\boxed{55}"
        assert "55" in extractor.asked[0][0]["content"]
