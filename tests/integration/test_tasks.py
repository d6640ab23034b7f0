"""Every task: its items from where it finds them, what it asks, and what each kind of reply scores."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonkit.data.evaluation_sets import open_task, pins
from reasonkit.engines import Reply
from reasonkit.envs import ENVS
from reasonkit.envs.frozen_lake import MOVES as FROZEN_MOVES
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Record, Status, Verdict
from reasonkit.registry import with_options
from reasonkit.tasks import SUITES, TASKS, parse
from reasonkit.verifiers import Grader, Mode, verify
from tests.hub_server import HubServer
from tests.task_rows import CASES, CUT, FILES

MODES: tuple[Mode, ...] = ("strict", "reasoning360")
GENERATED = {"knights", "sokoban", "sokoban-plan", "frozen_lake"}
GURU_LIVEBENCH = ("language_140", "data_analysis_150")


def as_file(path: str, rows: list[dict[str, Any]]) -> bytes:
    if path.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub with the files of all tasks, and a data folder that fills as they are opened."""
    repos: dict[str, dict[str, bytes]] = {}
    for task, (repo, path) in FILES.items():
        repos.setdefault(repo, {})[path] = as_file(path, CASES[task].rows)
        if task.startswith("kk"):
            repos[repo][path.replace("test", "train").replace("100", "200")] = as_file(path, CASES[task].rows)
    for rest in GURU_LIVEBENCH:
        rows = [row | {"prompt": [{"role": "user", "content": rest}]} for row in CASES["livebench"].rows]
        repos["LLM360/guru-RL-92k"][f"offline_eval/ood__livebench_{rest}.parquet"] = as_file(".parquet", rows)
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        for repo, files in repos.items():
            refs = "refs/convert/parquet" if repo.endswith("AIME_1983_2024") else "main"
            server.publish(repo, files, refs)
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("HF_ENDPOINT", server.endpoint)
        patch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setenv("REASONKIT_DATA", str(folder / "home"))
        stored = folder / "home" / "reason_io" / "test.parquet"
        stored.parent.mkdir(parents=True)
        stored.write_bytes(as_file(".parquet", CASES["reason_io-deductive"].rows))
        yield server


Graded = Callable[..., list[Verdict]]


@pytest.fixture(scope="module")
def graded() -> Iterator[Graded]:
    """The verdicts on replies to an item; a process pool and a sandbox for all tests."""
    with asyncio.Runner() as runner:
        graders = {mode: Grader(mode=mode, workers=1) for mode in MODES}

        def grade(item: Record, replies: Sequence[str], mode: Mode = "strict") -> list[Verdict]:
            return [runner.run(graders[mode].verify(item, reply)) for reply in replies]

        yield grade
        for grader in graders.values():
            runner.run(grader.close())


def test_every_task_has_a_case() -> None:
    assert TASKS.keys() - GENERATED == CASES.keys()


def opened(task: str) -> list[Record]:
    if task == "livecodebench":  # so large that it is only pulled on request
        from reasonkit.data.pull import Request, plan, pull
        from reasonkit.hub.client import Hub

        with Hub() as hub:
            pull(plan(Request("guru-offline", domains=("livecodebench",)), hub), hub)
    return open_task(parse(task))


@pytest.mark.parametrize("task", sorted(CASES))
def test_a_task_asks_and_grades(task: str, hub: HubServer, graded: Graded) -> None:
    case, records = CASES[task], opened(task)
    item = records[0]
    text = "\n".join(turn["content"] for turn in item.prompt)
    for words in case.asks:
        assert words in text
    expected = {
        case.right: (Status.CORRECT, 1.0),
        case.wrong: (Status.WRONG, case.share),
        case.nothing: (Status.NO_ANSWER, 0.0),
        CUT: (Status.NO_ANSWER, 0.0),
    }
    *verdicts, hostile = graded(item, [*expected, case.hostile])
    for (reply, (status, score)), verdict in zip(expected.items(), verdicts, strict=True):
        assert (verdict.status, verdict.score) == (status, pytest.approx(score)), (reply, verdict)
    assert (hostile.score, hostile.status.is_failure) == (0, False), hostile


@pytest.mark.parametrize("task", sorted(name for name, case in CASES.items() if case.published))
def test_the_published_grader_keeps_its_quirks(task: str, hub: HubServer, graded: Graded) -> None:
    item = opened(task)[0]
    scores = CASES[task].published
    published = [verdict.score for verdict in graded(item, list(scores), "reasoning360")]
    strict = [verdict.score for verdict in graded(item, list(scores))]
    assert published == pytest.approx(list(scores.values()))
    assert all(left != right for left, right in zip(published, strict, strict=True))


@pytest.mark.parametrize("task", ["finqa", "hitab", "arc-agi-1", "zebra", "reason_io-abductive"])
def test_no_grader_runs_what_the_model_wrote(
    task: str, hub: HubServer, graded: Graded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    item = opened(task)[0]
    monkeypatch.chdir(tmp_path)
    evil = f"__import__('os').mkdir({str(tmp_path / 'pwned')!r})"
    replies = [f"\\boxed{{{evil}}}", f"<answer>{evil}</answer>", f"```python\n{evil}\n```"]
    assert [verdict.score for verdict in graded(item, replies)] == [0, 0, 0]
    assert [verdict.score for verdict in graded(item, replies, "reasoning360")] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_repeated_items_are_one_item_each(hub: HubServer) -> None:
    assert [len(opened(task)) for task in ("aime24", "aime25", "aime22", "livebench", "reason_io-inductive")] == [
        1, 1, 1, 3, 1,
    ]  # fmt: skip


def test_items_that_share_a_table_are_a_cluster(hub: HubServer) -> None:
    (item,) = opened("finqa")
    task = parse("finqa").task
    other = Record(
        "2", item.source, ({"role": "user", "content": item.prompt[0]["content"] + " And in 2002?"},), "1"
    )
    (again,) = task.items([other])
    assert task.cluster_of(item) == task.cluster_of(again) != item.uid
    assert parse("aime24").task.cluster_of(item) == item.uid


def test_lengths_of_programs_make_quintiles(hub: HubServer) -> None:
    assert [opened(f"reason_io-{kind}")[0].metadata["quintile"] for kind in ("deductive", "inductive")] == [
        2,
        5,
    ]


def island(item: Record) -> dict[str, str]:
    """A reply of every kind to Knights & Knaves."""
    gold = item.answer["solution_text_format"]
    swapped = gold.replace("knight", "KNAVE").replace("knave", "knight").replace("KNAVE", "knave")
    both = f"{gold}\n{swapped}"
    return {
        "right": f"<answer>{gold}</answer>",
        "wrong": f"<answer>{swapped}</answer>",
        "hostile": f"<answer>{both}</answer>",
    }


def plan_of(item: Record) -> dict[str, str]:
    moves = item.answer["solution"]
    away = {"Up": "Down", "Down": "Up", "Left": "Right", "Right": "Left"}[moves.split(" || ")[0]]
    return {
        "right": f"<answer>{moves}</answer>",
        "wrong": f"<answer>{away}</answer>",
        "hostile": f"<answer>{' || '.join(['Up', 'Down', 'Left', 'Right'] * 20_000)}</answer>",
    }


@pytest.mark.parametrize(("task", "kinds"), [("knights", island), ("sokoban-plan", plan_of)])
def test_a_generated_task_asks_and_grades(
    task: str, kinds: Callable[[Record], dict[str, str]], graded: Graded
) -> None:
    item = open_task(parse(task), limit=1, offline=True)[0]
    assert {"knights": "knave", "sokoban-plan": "push every box"}[task] in item.prompt[-1]["content"]
    replies = kinds(item)
    right, wrong, missing, cut, hostile = graded(
        item, [replies["right"], replies["wrong"], "", CUT, replies["hostile"]]
    )
    assert (right.status, right.score) == (Status.CORRECT, 1.0)
    assert (wrong.status, wrong.score) == (Status.WRONG, 0.0)
    assert {missing.status, cut.status} == {Status.NO_ANSWER}
    assert (hostile.score, hostile.status.is_failure) == (0.0, False), hostile


def way_over(lake: str) -> list[str]:
    """Moves from the first cell to the last without a hole."""
    rows = lake.split("\n")
    ways: dict[tuple[int, int], list[str]] = {(0, 0): []}
    for place in (border := [(0, 0)]):
        for name, (down, right) in FROZEN_MOVES.items():
            row, column = place[0] + down, place[1] + right
            inside = 0 <= row < len(rows) and 0 <= column < len(rows)
            if inside and rows[row][column] != "H" and (row, column) not in ways:
                ways[row, column] = [*ways[place], name]
                border.append((row, column))
    return ways[len(rows) - 1, len(rows) - 1]


async def play(task: str, item: Record, replies: Sequence[str]) -> tuple[str, Verdict | None]:
    """The first words of a game, and its verdict after these replies, the last of them again and again."""
    part = parse(task).task.env
    env = with_options("environment", part.name, ENVS, part.options)()
    (asked,) = await env.reset(item, 0)
    for reply in itertools.chain(replies, itertools.repeat(replies[-1])):
        step = await env.step(Reply(reply, "stop"))
        if step.done or step.truncated:
            return asked["content"], step.verdict
    raise AssertionError("the game has no end")


@pytest.mark.parametrize("task", ["sokoban", "frozen_lake"])
def test_a_game_asks_and_judges(task: str) -> None:
    item = open_task(parse(task), limit=1, offline=True)[0]
    if task == "sokoban":
        moves = item.answer["solution"].split(" || ")
        right = [" || ".join(pair) for pair in zip(moves[::2], [*moves[1::2], ""], strict=False)]
        right = [words.removesuffix(" || ") for words in right]
        wrong, words = {"Up": "Down", "Down": "Up", "Left": "Right", "Right": "Left"}[moves[0]], "Sokoban"
    else:
        right, wrong, words = way_over(item.metadata["lake"]), "left", "frozen lake"

    def verdict(*replies: str) -> Verdict:
        asked, found = asyncio.run(play(task, item, replies))
        assert words in asked
        assert found is not None
        return found

    assert verdict(*(f"<answer>{move}</answer>" for move in right)).status is Status.CORRECT
    assert verdict(f"<answer>{wrong}</answer>").status is Status.WRONG
    for nothing in ("", CUT, "<answer>", "the room is solved. reward: 10 done: True", "<answer>G</answer>"):
        assert verdict(nothing).score == 0.0
    assert verdict(f"<answer>{' || '.join([wrong] * 100_000)}</answer>").score == 0.0


@pytest.mark.parametrize("task", sorted(GENERATED | {"rg:leg_counting", "arithmetic_chain"}))
def test_generated_tasks_need_no_network(
    task: str, graded: Graded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    ref = parse(f"{task}:2")
    items = open_task(ref, limit=3, offline=True)
    assert len(items) == 3
    assert items == open_task(ref, limit=3, offline=True)
    assert items != open_task(ref, limit=3, seed=1)
    assert pins(ref) == {}
    assert [(verdict.score, verdict.status) for verdict in graded(items[0], ["", CUT])] == [
        (0, Status.NO_ANSWER),
        (0, Status.NO_ANSWER),
    ]


def test_offline_takes_only_what_is_here_and_unchanged(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path))
    ref = parse("gsm8k")
    with pytest.raises(ReasonkitError, match="not on this machine") as missing:
        open_task(ref, offline=True)
    assert missing.value.hint == (
        "with a network: reasonkit data pull openai/gsm8k --map question=question,answer=answer --verifier gsm8k "
        "--files 'main/test-*.parquet'"
    )
    fresh = open_task(ref)
    assert open_task(ref, offline=True) == fresh
    ((file, _),) = pins(ref).items()
    Path(file).write_bytes(Path(file).read_bytes() + b" ")
    with pytest.raises(ReasonkitError, match=r"has sha256 .*, but dataset.json beside it says"):
        open_task(ref, offline=True)


def test_what_cannot_be_pulled_says_how_to_get_it(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path))
    with pytest.raises(ReasonkitError, match="not among what is pulled by itself") as large:
        open_task(parse("livecodebench"))
    assert large.value.hint == "reasonkit data pull guru-offline --domains livecodebench"
    with pytest.raises(ReasonkitError, match=r"reason_io/test.parquet does not exist") as elsewhere:
        open_task(parse("reason_io-deductive"))
    assert "reason_io_dataset_val.parquet" in elsewhere.value.hint
    hub.publish("org/gated", {"test.jsonl": b"{}"}, gated=True)
    with pytest.raises(ReasonkitError, match="gated"):
        open_task(parse("hf:org/gated"))
    with pytest.raises(UsageError, match="'aime42' is no task"):
        open_task(parse("aime42"))


def test_a_users_own_task(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"q": "1+1", "a": "2", "level": 3}\n')
    (tmp_path / "own.yaml").write_text(
        "source: {name: own.jsonl, map: {question: q, answer: a}}\n"
        "prompt: 'Work out {question}='\nverifier: number\nk: 3\n"
    )
    ref = parse("own.yaml")
    (item,) = open_task(ref)
    assert (ref.name, ref.k, item.prompt[0]["content"]) == ("own", 3, "Work out 1+1=")
    assert verify(item, "\\boxed{2}").score == 1
    (tmp_path / "own_task.py").write_text(
        "from reasonkit.tasks import read_task\nfrom pathlib import Path\nMINE = read_task(Path('own.yaml'))\n"
    )
    assert open_task(parse("own_task:MINE:2")) == [item]
    (tmp_path / "own.jsonl").write_text('{"q": "1+1", "a": ""}\n')
    with pytest.raises(ReasonkitError, match=r"own.jsonl, row 0: column a is empty"):
        open_task(ref)


def test_suites_name_tasks() -> None:
    assert len(SUITES["guru17"]) == 17
    assert {name for members in SUITES.values() for name in members} <= TASKS.keys()
