r"""Mathematical verdicts: what is right in another form, and what only looks right."""

import pytest

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers.math import verify_math
from reasonkit.verifiers.math_bounds import why_too_large
from reasonkit.verifiers.math_reasoning360 import verify_math_reasoning360


def judge(gold: str, answer: str, question: str = "") -> Verdict:
    record = Record("u", "math", ({"role": "user", "content": question},), gold)
    return verify_math(record, f"<think>hm</think>So \\boxed{{{answer}}}.")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac12", "0.5"),
        (r"\frac{1}{2}", r"\dfrac{1}{2}"),
        ("1,000", "1000"),
        ("10000", "10 000"),
        ("12", r"12\text{ cm}"),
        (r"3\sqrt{2}", r"\sqrt{18}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("2x+3", "y=2x+3"),
        ("7", "x=7"),
        ("152", r"\frac{304}{2}=152"),
        (r"9\pi", r"A=\pi r^2=9\pi"),
        (r"\{3,4\}", r"3 \text{ or } 4"),
        (r"\text{Friday}", "friday"),
        (r"\ln 2", r"\log 2"),
        ("i", r"\sqrt{-1}"),
        ("-1", r"e^{i\pi}"),
        ("1011_2", r"1011_{2}"),
        ("1011_2", "1011"),
        ("11", "1011_2"),
        ("0.1", r"10\%"),
        (r"10\%", "10"),
        ("1/3", "0.3333333"),
        (r"2^{1000}", r"2^{1000}"),
    ],
)
def test_the_same_answer_in_another_form_is_right(gold: str, answer: str) -> None:
    assert judge(gold, answer).status is Status.CORRECT


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("152", "151=152"),
        ("152", "a=b=c=152"),
        ("152", r"151 \text{ or } 152"),
        ("152", "151, 152"),
        ("152", r"152\%"),
        ("17", "9 8"),
        ("12", "1 2"),
        ("101", "101_2"),
        ("A", "a"),
        ("Friday", "dirfay"),
        ("x=7", "y=7"),
        ("(1,2)", "2,1"),
        ("[1,2)", "[1,2]"),
        ("12", r"\text{NaN}"),
        ("12", r"\infty"),
        ("12", "１２"),
        ("12", "12\u202e"),
        ("12", "1\u200b2"),
        ("12", "12\x00"),
        ("3", "2.99"),
    ],
)
def test_what_only_looks_right_is_wrong(gold: str, answer: str) -> None:
    verdict = judge(gold, answer)
    assert verdict.score == 0.0
    assert verdict.status is Status.WRONG
    assert verdict.reason


def test_a_percentage_is_right_where_the_question_asks_for_one() -> None:
    assert judge("12", r"12\%", "What percentage of the marbles is red?").score == 1.0


def test_digits_are_taken_in_the_base_that_the_question_names() -> None:
    assert judge("101", "101_2", "Write 5 in base 2.").score == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "the answer is 12",
        "12",
        "1 2 3 4 5 6 7 8 9 10 11 12 13",
        r"<think>\boxed{12}</think>",
        r"<think>\boxed{12}",
        r"\boxed{}",
        r"\boxed{  }",
        "",
    ],
)
def test_a_number_outside_a_box_is_no_answer(text: str) -> None:
    assert verify_math(Record("u", "math", (), "12"), text).status is Status.NO_ANSWER


def test_the_last_box_counts() -> None:
    record = Record("u", "math", (), "12")
    assert verify_math(record, r"\boxed{13}, no wait, \boxed{12}").score == 1.0
    assert verify_math(record, r"\boxed{12}, no wait, \boxed{13}").score == 0.0
    assert verify_math(record, "Answer: 12").score == 1.0
    assert verify_math(record, "<answer>12</answer>").score == 1.0


@pytest.mark.parametrize(
    "expression",
    [
        "9^{9^9}",
        "9**9**9",
        "(10^9)!",
        "10^{9}!",
        "99999!",
        "2^{2^{2^{2^2}}}",
        "x^{99999}",
        "1" * 301,
        "1+" * 1001,
        "(" * 31 + "1" + ")" * 31,
        r"\frac{1}{" * 3000 + "2" + "}" * 3000,
    ],
)
def test_absurd_expressions_are_refused_before_any_parser(expression: str) -> None:
    assert why_too_large(expression)
    assert judge("12", expression).score == 0.0


@pytest.mark.parametrize(
    "expression",
    [
        "2^{10}",
        "2^{2^{10}}",
        "x^{n^2}",
        "e^{x^2}",
        "10!",
        "n!",
        r"\frac{(2n)!}{n!}",
        r"\sqrt[3]{5}",
        "2^{1000}",
        "-5",
    ],
)
def test_honest_expressions_pass_the_bounds(expression: str) -> None:
    assert why_too_large(expression) == ""


def test_python_in_a_box_is_only_text(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for verify in (verify_math, verify_math_reasoning360):
        verdict = verify(Record("u", "math", (), "12"), r"\boxed{__import__('os').mkdir('made')}")
        assert verdict.score == 0.0
    assert not (tmp_path / "made").exists()


def test_a_record_without_a_gold_answer_is_an_error_of_the_record() -> None:
    with pytest.raises(ValueError, match="empty gold"):
        verify_math(Record("u", "math", (), " "), r"\boxed{1}")


@pytest.mark.parametrize(
    ("gold", "text", "score"),
    [
        ("0.5", r"\boxed{50}", 1.0),
        ("50", r"\boxed{0.5}", 1.0),
        (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", 0.0),
        (r"2\pi", r"\boxed{6.28}", 0.0),
        ("(1,2)", r"\boxed{(2,1)}", 0.0),
        ("12", "12", 1.0),
        ("12", "", 0.0),
    ],
)
def test_reasoning360_mode_keeps_the_published_quirks(gold: str, text: str, score: float) -> None:
    assert verify_math_reasoning360(Record("u", "math", (), gold), text).score == score
