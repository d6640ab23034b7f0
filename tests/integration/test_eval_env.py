"""Tasks that are played over several turns: by a local model and over HTTP, with every turn kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reasonkit.cli.eval import GraderName, evaluate
from reasonkit.cli.rescore import rescore
from reasonkit.errors import ReasonkitError
from reasonkit.evaluate.results import read_results
from reasonkit.evaluate.samples import GAME, Sample, read_samples
from reasonkit.records import Status
from tests.chat_server import serve_chat
from tests.tiny_models import save_tiny_model

COUNTING = '''\
"""Say the number after the one that was said, so many times."""

from reasonkit.envs import Env, Step
from reasonkit.records import Message, Verdict


class Counting(Env):
    def __init__(self, *, times=3):
        self._left = times

    async def reset(self, record, seed):
        self._number = int(record.answer)
        return [Message(role="user", content=f"I say {self._number}.")]

    async def step(self, reply):
        self._left -= 1
        if reply.text.strip() != str(self._number + 1):
            return Step(done=True, verdict=Verdict.wrong(reply.text, f"not {self._number + 1}"))
        if self._left == 0:
            return Step(done=True, reward=1.0, verdict=Verdict.correct(reply.text))
        self._number += 2
        return Step([Message(role="user", content=f"I say {self._number}.")])
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "numbers.jsonl").write_text(
        "".join(f'{{"problem": "p{n}", "answer": "{n}"}}\n' for n in range(0, 40, 10))
    )
    (tmp_path / "count.yaml").write_text(
        "source: {name: numbers.jsonl, map: {question: problem, answer: answer}}\n"
        "env: {counting:Counting: {times: 2}}\nverifier: number\n"
    )
    return tmp_path


def run(tasks: str, model: str, **options: Any) -> None:
    evaluate(tasks.split(), model=[model], out=Path("out"), json_=True, **options)


def samples(folder: Path) -> list[Sample]:
    return list(read_samples(folder).values())


def test_a_local_model_plays_and_every_turn_is_kept(here: Path) -> None:
    save_tiny_model(here / "a", "llama", context=2048)
    run("sokoban frozen_lake:2 sokoban-plan", "a", limit=3, max_tokens=8)
    found = {each.task: each for each in read_results(here / "out")}
    assert {name: (each.n, each.k, each.judged) for name, each in found.items()} == {
        "sokoban": (3, 1, 3),
        "frozen_lake": (3, 2, 6),
        "sokoban-plan": (3, 1, 3),
    }
    played = {name: samples(here / "out/a" / name) for name in found}
    assert {len(each.turns) for each in played["sokoban"]} == {5}, "nobody solves a room by chance"
    assert {len(each.turns) for each in played["frozen_lake"]} == {10}
    assert {len(each.turns) for each in played["sokoban-plan"]} == {0}
    for sample in [*played["sokoban"], *played["frozen_lake"]]:
        assert sample.verdicts.keys() == {GAME}
        assert all(reply for reply, _ in sample.turns)
        assert all(answer for _, answer in sample.turns[:-1])
        assert sample.completion_tokens > 8, "of all turns"
    written = (here / "out/a/sokoban/samples.jsonl").read_text()
    run("sokoban frozen_lake:2", "a", limit=3, max_tokens=8)
    assert (here / "out/a/sokoban/samples.jsonl").read_text() == written
    (here / "other.yaml").write_text(
        "name: sokoban\nsource: sokoban\nenv: {sokoban: {max_turns: 2}}\nverifier: sokoban\n"
    )
    run("other.yaml", "a", limit=3, max_tokens=8)
    assert len(samples(here / "out/a/sokoban")) == 6, "another game is another sample"


def test_a_model_behind_an_address_plays_a_game_of_the_users_own(here: Path) -> None:
    """It counts well, but for one number."""

    def answer(body: Mapping[str, Any]) -> str:
        number = int(body["messages"][-1]["content"].removeprefix("I say ").removesuffix("."))
        return "what?" if number == 22 else str(number + 1)

    with serve_chat(answer) as server:
        run("count.yaml", f"openai:m@{server.url}")
        histories = [[turn["content"] for turn in request.body["messages"]] for request in server.seen]
    assert ["I say 0."] in histories
    assert ["I say 0.", "1", "I say 2."] in histories
    by_uid = {tuple(map(tuple, each.turns)): each for each in samples(here / "out/m/count")}
    won = by_uid[("1", "I say 2."), ("3", "")]
    assert won.verdicts[GAME].status is Status.CORRECT
    lost = by_uid[("21", "I say 22."), ("what?", "")]
    assert (lost.verdicts[GAME].status, lost.verdicts[GAME].reason) == (Status.WRONG, "not 23")
    [result] = read_results(here / "out")
    assert result.score is not None
    assert result.score.mean == 3 / 4
    rescore(Path("out"), grader=GraderName.REASONING360)
    [result] = read_results(here / "out")
    assert result.score is not None
    assert result.score.mean == 3 / 4, "a game's own verdict stands whatever the grader"
    assert '"I say 2."' not in json.dumps(result.items), "results hold no texts"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("counting:Counting: {turns: 2}", "does not know turns"),
        ("sokobann: {}", "sokobann"),
    ],
)
def test_an_environment_that_is_not_there_is_said_before_anything_is_asked(
    here: Path, env: str, message: str
) -> None:
    text = (here / "count.yaml").read_text().replace("counting:Counting: {times: 2}", env)
    (here / "count.yaml").write_text(text)
    with serve_chat(lambda _: "1") as server:
        with pytest.raises(ReasonkitError, match=message):
            run("count.yaml", f"openai:m@{server.url}")
        assert server.seen == []
