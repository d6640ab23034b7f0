"""Multiple choice: one letter, said clearly."""

import pytest

from reasonkit.records import Record, Status
from reasonkit.verifiers.choice import verify_choice, verify_choice_reasoning360

RECORD = Record("u", "stem__gpqa", (), "B", metadata={"choices": ["Base", "Acid", "Salt"]})


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{B}",
        r"\boxed{\text{B}}",
        r"\boxed{(B)}",
        r"\boxed{b}",
        r"\boxed{B. Acid}",
        r"\boxed{B) Acid}",
        r"\boxed{Acid}",
        "<answer>B</answer>",
        "Answer: B",
        "**Answer: B**",
        "The answer is (B).",
        "Answer: A\nOn reflection,\nAnswer: B",
        "thinking\nB",
        r"<think>\boxed{A}</think>\boxed{B}",
    ],
)
def test_the_letter_or_its_text_is_right(text: str) -> None:
    assert verify_choice(RECORD, text).status is Status.CORRECT


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{A}",
        r"\boxed{ABCD}",
        r"\boxed{A, B}",
        r"\boxed{A or B}",
        r"\boxed{B) C)}",
        r"\boxed{Base, Acid, Salt}",
        r"\boxed{Boron}",
        "Answer: A, B, C, D",
        "B is tempting, but the answer is A",
        r"\boxed{B}, no: \boxed{A}",
    ],
)
def test_another_letter_or_several_are_wrong(text: str) -> None:
    assert verify_choice(RECORD, text).status is Status.WRONG


@pytest.mark.parametrize(
    "text", ["", "Both have merit.", "A BASE IS NOT AN ACID", r"<think>\boxed{B}</think>", "?"]
)
def test_no_letter_is_no_answer_and_never_a_guess(text: str) -> None:
    assert verify_choice(RECORD, text).status is Status.NO_ANSWER


def test_reasoning360_mode_takes_the_first_letter_in_the_box() -> None:
    assert verify_choice_reasoning360(RECORD, r"\boxed{B. Acid}").score == 1.0
    assert verify_choice_reasoning360(RECORD, r"\boxed{Acid}").answer == "A"
    assert verify_choice_reasoning360(RECORD, r"\boxed{Not B. It is C}").score == 1.0


def test_reasoning360_mode_scores_no_answer_as_zero_instead_of_a_random_letter() -> None:
    verdicts = {verify_choice_reasoning360(RECORD, "no letter").status for _ in range(50)}
    assert verdicts == {Status.NO_ANSWER}


def test_reasoning360_mode_reads_answer_lines_where_the_source_asks_for_them() -> None:
    record = Record("u", "stem__gpqa", (), "C", metadata={"no_box": True})
    assert verify_choice_reasoning360(record, "Answer: C\nAnswer: D").score == 1.0


def test_a_gold_answer_that_is_no_letter_is_an_error_of_the_record() -> None:
    with pytest.raises(ValueError, match="not a letter"):
        verify_choice(Record("u", "s", (), "BC"), "Answer: B")
