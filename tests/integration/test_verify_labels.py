"""reasoning-gym's labels against solvers of our own. Our own sources are checked so by the tests of each source."""

from __future__ import annotations

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources.reasoning_gym import entry
from reasonkit.records import Record, Status
from reasonkit.verifiers.reasoning_gym import verify_reasoning_gym
from reasonkit.verifiers.rg_labels import LABELS, right_label
from tests.reasoning_gym_solvers import SOLVERS, agrees

pytestmark = pytest.mark.filterwarnings("ignore")
SLOW = {
    "sudoku",
    "count_primes",
    "n_queens",
    "game_of_life_halting",
    "group_anagrams",
    "palindrome_partitioning",
}


def wrong(task: str, first: int, count: int) -> list[dict[str, object]]:
    """Items whose label, once it is put right, is not what the solver finds."""
    found = []
    for seed in range(first, first + count):
        item = entry(task, seed, {})
        label = right_label(task, item["question"], str(item["answer"]))
        if label is not None and not agrees(task, item["question"], label):
            found.append(item)
    return found


@pytest.mark.parametrize("task", sorted(SOLVERS))
def test_labels_are_what_the_questions_ask_for(task: str) -> None:
    assert wrong(task, 9000, 2 if task in SLOW else 12) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(SOLVERS))
def test_labels_are_what_the_questions_ask_for_in_depth(task: str) -> None:
    assert wrong(task, 20_000, 300) == []


@pytest.mark.parametrize(
    ("task", "at_least"), [("mahjong_puzzle", 8), ("time_intervals", 1), ("basic_arithmetic", 1)]
)
def test_the_librarys_own_labels_are_wrong_where_they_are_put_right(task: str, at_least: int) -> None:
    """Or else the correction could go."""
    items = [entry(task, seed, {}) for seed in range(1000, 1080)]
    differing = [
        item for item in items if right_label(task, item["question"], item["answer"]) != item["answer"]
    ]
    assert differing
    assert not any(agrees(task, item["question"], item["answer"]) for item in differing)


@pytest.mark.parametrize("task", sorted(LABELS))
def test_what_is_built_is_labelled_rightly_and_its_verifier_agrees(task: str) -> None:
    for record in build(f"rg:{task}", "train", 30, 5):
        question = record.metadata["entry"]["question"]
        assert agrees(task, question, record.answer)
        assert verify_reasoning_gym(record, f"<answer>{record.answer}</answer>").status is Status.CORRECT


def published(task: str, seed: int) -> Record:
    """A record of a file that was made with the library's labels."""
    item = entry(task, seed, {})
    return Record("u", f"rg:{task}", (), item["answer"], None, {"task": task, "entry": item})


def test_files_with_the_librarys_labels_are_judged_by_the_right_ones() -> None:
    records = [published("mahjong_puzzle", seed) for seed in range(1000, 1020)]
    for record in records:
        right = SOLVERS["mahjong_puzzle"](record.metadata["entry"]["question"])
        for answer in ("Peng", "Chi", "Pass"):
            verdict = verify_reasoning_gym(record, f"<answer>{answer}</answer>")
            assert verdict.score == float(answer == right), verdict
    arithmetic = [published("basic_arithmetic", seed) for seed in range(1000, 1080)]
    verdicts = [verify_reasoning_gym(record, f"<answer>{record.answer}</answer>") for record in arithmetic]
    unusable = [verdict for verdict in verdicts if verdict.status is Status.ERROR]
    assert 0 < len(unusable) < 20
    assert all(verdict.details["unusable"] for verdict in unusable)
