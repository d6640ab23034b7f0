"""The guards around reasoning-gym's scorers: what the library pays in full and this verifier does not."""

import pytest

from reasonkit.records import Record, Status
from reasonkit.verifiers.reasoning_gym import verify_reasoning_gym


def record(task: str, answer: object, /, **metadata: object) -> Record:
    entry = {"question": "q", "answer": answer, "metadata": metadata}
    return Record("u", f"rg:{task}", (), answer, metadata={"task": task, "entry": entry})


def score(problem: Record, answer: str) -> float:
    return verify_reasoning_gym(problem, f"<think>hm</think><answer>{answer}</answer>").score


PUZZLE24 = record("puzzle24", "4*(1+2+3)", numbers=[1, 2, 3, 4])
COUNTDOWN = record("countdown", "2*3+4", numbers=[2, 3, 4], target=10)
INTEGRAL = record("simple_integration", "x**2 + C", variable="x", integrand="2*x")
PREMISES = record("propositional_logic", None, premises=["P", "(P → Q)"], variables=["P", "Q"])


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (PUZZLE24, "4*(1+2+3)"),
        (PUZZLE24, "(1+3)*(2+4)"),
        (COUNTDOWN, "4 + 3*2"),
        (INTEGRAL, "x**2 + C"),
        (INTEGRAL, "x**2"),
        (PREMISES, "(P ∧ Q)"),
        (record("coin_flip", "0.25"), "1/4"),
        (record("game_of_life_halting", "False"), "false"),
        (record("game_of_life", "[[0,1],[1,0]]"), "[[0, 1], [1, 0]]"),
        (record("word_sorting", "a, b", sorted_words=["a", "b"]), "a, b"),
        (record("leg_counting", "12"), " 12 "),
    ],
)
def test_a_right_answer_is_right(problem: Record, answer: str) -> None:
    assert score(problem, answer) == 1.0


@pytest.mark.parametrize(
    ("problem", "answer"),
    [
        (PUZZLE24, "6*4*1*1"),
        (PUZZLE24, "24"),
        (PUZZLE24, "4*(1+2+3)+0.9"),
        (COUNTDOWN, "10"),
        (COUNTDOWN, "2*3+4+0*7"),
        (COUNTDOWN, "9**9**9"),
        (INTEGRAL, "Integral(2*x, x)"),
        (INTEGRAL, "integrate(2*x, x)"),
        (INTEGRAL, "x.__class__"),
        (PREMISES, "P"),
        (PREMISES, "(P → Q)"),
        (record("coin_flip", "0.25"), "0"),
        (record("game_of_life_halting", "False"), "banana"),
        (record("game_of_life_halting", "True"), "banana"),
        (record("game_of_life", "[[0,1],[1,0]]"), "[[0,1],[1,0],[1,1]]"),
        (record("word_sorting", "a, b", sorted_words=["a", "b"]), "a, b, c"),
        (record("letter_jumble", "one two"), "one two three"),
        (record("figlet_font", "CELEBRATION"), "CELEBRATIONS"),
        (record("spell_backward", "olleh"), "olleh!"),
        (record("number_sorting", "['1', '2']", direction="ascending"), '["1", "3"]'),
        (record("calendar_arithmetic", "-1", task="recurring_event_day"), "100"),
        (record("gsm_symbolic", "5"), "5 or 6"),
        (record("polynomial_equations", ""), "banana"),
        (record("leg_counting", "12"), "the answer is 12"),
        (record("prime_factorization", "2 × 3"), "two times three"),
        (record("leg_counting", "12"), ""),
    ],
)
def test_what_the_library_would_pay_for_is_wrong(problem: Record, answer: str) -> None:
    assert score(problem, answer) == 0.0


@pytest.mark.parametrize("task", ["binary_matrix", "spiral_matrix", "string_insertion", "n_queens"])
def test_scorers_that_evaluate_the_reply_evaluate_nothing(
    task: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert score(record(task, "1 2", valid_answers=["1 2"]), "__import__('os').mkdir('made')") == 0.0
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["", "12", "<think><answer>12</answer></think>", "<answer> </answer>"])
def test_no_tag_after_the_thinking_is_no_answer(text: str) -> None:
    assert verify_reasoning_gym(record("leg_counting", "12"), text).status is Status.NO_ANSWER
