"""The verifier audit, over every verifier and every reasoning-gym task: gold scores 1, what answers nothing 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from reasonkit.data.sources.reasoning_gym import entry, task_names
from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers import verify
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.rg_labels import right_label
from reasonkit.verifiers.routing import VERIFIERS
from tests.verifier_samples import QUESTION, SAMPLES

SANDBOXED = frozenset({"code", "codeio", "cruxeval", "swe_tests"})
"""Their verdicts need the sandbox; tests/integration has an audit of their own for them."""
SLOW_TASKS = frozenset(
    {
        "arc_agi",
        "codeio",
        "figlet_font",
        "futoshiki",
        "group_anagrams",
        "intermediate_integration",
        "knight_swap",
    }
    | {
        "puzzle24",
        "rearc",
        "sokoban",
        "word_ladder",
        "zebra_puzzles",
        "sudoku",
        "countdown",
        "polynomial_equations",
    }
)
"""Tasks that take tens of milliseconds an item to draw or to load."""
TWO_VALUED = {"True", "False", "Yes", "No", "yes", "no", "0", "1"}


BY_ENVIRONMENTS = frozenset({"by_env"})
"""A game's own steps are the verdict; no text is judged."""


def test_every_verifier_has_a_sample() -> None:
    assert VERIFIERS.keys() - SANDBOXED - BY_ENVIRONMENTS == SAMPLES.keys()


@pytest.mark.parametrize("verifier", sorted(SAMPLES))
def test_gold_scores_1(verifier: str) -> None:
    verdict = verify(SAMPLES[verifier].record, SAMPLES[verifier].gold)
    assert (verdict.status, verdict.score) == (Status.CORRECT, 1.0), verdict


REPLIES = {
    "empty": "",
    "the question": QUESTION[0]["content"],
    "the question, tagged": f"<answer>{QUESTION[0]['content']}</answer>",
    "a constant": "<answer>0</answer>",
    "a boxed constant": r"\boxed{0}",
    "a phrase": "Let's solve this problem step by step.",
    "a marker": "####",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@pytest.mark.parametrize("verifier", sorted(SAMPLES.keys() - {"judge"}))
def test_what_answers_nothing_scores_0(verifier: str, reply: str) -> None:
    if (verifier, reply) == ("format", r"\boxed{0}"):
        pytest.skip("a box is all that this record asks for")
    verdict = verify(SAMPLES[verifier].record, reply)
    assert verdict.score == 0.0
    assert verdict.status in (Status.WRONG, Status.NO_ANSWER), verdict


@pytest.mark.parametrize("verifier", sorted(SAMPLES))
def test_the_answer_to_another_record_scores_about_0(verifier: str) -> None:
    verdict = verify(SAMPLES[verifier].record, SAMPLES[verifier].other)
    assert verdict.score < 0.2
    assert verdict.status in (Status.WRONG, Status.NO_ANSWER), verdict


# reasoning-gym


def draw(task: str, count: int) -> list[Record]:
    """Records as `reasonkit data build rg:TASK` makes them."""
    items = [entry(task, 700 + index, {}) for index in range(count)]
    return [
        Record(
            str(index),
            f"rg:{task}",
            ({"role": "user", "content": item["question"]},),
            right_label(task, item["question"], item["answer"]),
            "reasoning_gym",
            {"task": task, "entry": item},
        )
        for index, item in enumerate(items)
    ]


Judge = Callable[[Record, object], Verdict]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Judges in the pool: what takes too long there is a timeout, and what raises an error."""
    with VerifierPool(1) as pool:

        def submit(record: Record, answer: object) -> Verdict:
            text = f"<think>hm</think>\n<answer>{answer}</answer>"
            return pool.submit(VERIFIERS["reasoning_gym"], record, text).result(120)

        yield submit


def audit(judge: Judge, task: str, count: int) -> None:
    records = draw(task, count)
    golds = [record.answer for record in records]
    for index, record in enumerate(records):
        if record.answer is not None:
            verdict = judge(record, record.answer)
            assert verdict.score == 1.0, verdict
            for other in golds:
                if str(other).split() != str(record.answer).split() and record.answer not in TWO_VALUED:
                    verdict = judge(record, other)
                    assert verdict.score == 0.0 or is_another_solution(task), (index, other, verdict)
        for reply in ("", " ", "banana", "None", "null", "[]", "{}", "[[]]", record.prompt[0]["content"]):
            if record.answer is not None and reply.strip() == record.answer.strip():
                continue  # an A::B program may leave nothing, and an empty tag says so
            verdict = judge(record, reply)
            assert verdict.score == 0.0, (reply[:50], verdict)
            assert verdict.status in (Status.WRONG, Status.NO_ANSWER), (reply[:50], verdict)


def is_another_solution(task: str) -> bool:
    """Tasks with many right answers to an item: that of another item may be among them."""
    return task in {
        "jugs",
        "n_queens",
        "palindrome_generation",
        "puzzle24",
        "quantum_lock",
        "sokoban",
        "tower_of_hanoi",
    }


@pytest.fixture(scope="module", autouse=True)
def quiet_libraries() -> Iterator[None]:
    """Some tasks warn when they are loaded, which is the library's business."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", sorted(set(task_names()) - SLOW_TASKS))
def test_reasoning_gym_task(judge: Judge, task: str) -> None:
    audit(judge, task, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", sorted(SLOW_TASKS & set(task_names())))
def test_slow_reasoning_gym_task(judge: Judge, task: str) -> None:
    audit(judge, task, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", sorted(task_names()))
def test_reasoning_gym_task_in_depth(judge: Judge, task: str) -> None:
    audit(judge, task, 25)
