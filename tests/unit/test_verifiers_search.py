"""Short answers, as Search-R1 scores them."""

import pytest

from reasonkit.records import Record, Status
from reasonkit.verifiers.search import verify_search

RECORD = Record("u", "searchR1_nq", (), {"target": ["The Beatles", "Fab Four"]})


@pytest.mark.parametrize("answer", ["The Beatles", "beatles", " Beatles. ", "the  FAB four!", "a Beatles"])
def test_articles_case_and_punctuation_do_not_matter(answer: str) -> None:
    assert verify_search(RECORD, f"<think>x</think><answer>{answer}</answer>").status is Status.CORRECT


@pytest.mark.parametrize(
    "answer", ["The Beatles or the Who", "Beatle", "the", "The Beatles, Fab Four", "Rolling Stones"]
)
def test_anything_more_or_less_is_not_right(answer: str) -> None:
    assert verify_search(RECORD, f"<answer>{answer}</answer>").score == 0.0


@pytest.mark.parametrize(
    "text", ["", "Beatles", "<answer></answer>", "<think><answer>Beatles</answer></think>"]
)
def test_no_tag_is_no_answer(text: str) -> None:
    assert verify_search(RECORD, text).status is Status.NO_ANSWER


@pytest.mark.parametrize("gold", ["Beatles", ["x", "Beatles"], {"target": "Beatles"}])
def test_gold_comes_in_three_shapes(gold: object) -> None:
    assert verify_search(Record("u", "s", (), gold), "<answer>The Beatles</answer>").score == 1.0
    assert verify_search(Record("u", "s", (), ["", "the"]), "<answer>a</answer>").score == 0.0
