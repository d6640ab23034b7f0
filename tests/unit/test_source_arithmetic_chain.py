"""Arithmetic chains: sound problems, a demonstrator that errs by rule, a check that sees copying alone."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources.arithmetic_chain import SLIPS_FROM, copies_rightly, demonstration, solution
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Message, Record
from reasonkit.verifiers import verify

SOURCE = "arithmetic_chain"


def chain(question: str, answer: str) -> Record:
    return Record("one", SOURCE, (Message(role="user", content=question),), answer, "exact")


def question(record: Record) -> str:
    return record.prompt[0]["content"]


def totals(record: Record) -> list[int]:
    """What a reader of the question counts, term by term."""
    terms = re.findall(r"[+-]?\d", question(record))
    return [sum(map(int, terms[: count + 1])) for count in range(len(terms))]


def test_the_answer_is_the_value_of_the_question_and_no_total_leaves_the_digits() -> None:
    for record in build(SOURCE, "train", 400, 3):
        assert re.fullmatch(r"\d([+-][1-9])+=", question(record))
        assert record.answer == str(totals(record)[-1])
        assert all(0 <= total <= 9 for total in totals(record))


def test_every_number_of_operations_gets_the_same_share_and_is_the_difficulty() -> None:
    records = list(build(SOURCE, "train", 400, 3))
    assert Counter(record.metadata["difficulty"] for record in records) == {2: 100, 3: 100, 4: 100, 5: 100}
    assert all(len(totals(record)) == record.metadata["difficulty"] + 1 for record in records)


def test_the_presets_sizes_exist_and_no_problem_is_in_both_splits_at_any_seed() -> None:
    train = {question(record) for record in build(SOURCE, "train", 2048, 0)}
    test = {question(record) for record in build(SOURCE, "test", 512, 1)}
    assert (len(train), len(test)) == (2048, 512)
    assert not train & test


def test_the_same_seed_gives_the_same_records_and_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    large = list(build(SOURCE, "test", 60, 5))
    assert list(build(SOURCE, "test", 20, 5)) == large[:20]
    assert list(build(SOURCE, "test", 20, 6)) != large[:20]


def test_more_problems_than_there_are_is_an_error_that_says_so() -> None:
    with pytest.raises(ReasonkitError, match="different train problems"):
        list(build(SOURCE, "train", 811, 0, {"operations": 2}))


def test_a_chain_without_operations_is_no_problem() -> None:
    with pytest.raises(UsageError, match="operations must be 1 to 12, not 0"):
        build(SOURCE, "train", 1, 0, {"operations": [0, 2]})


def test_the_solution_writes_out_every_step_and_is_judged_correct() -> None:
    assert solution(chain("3-1+6=", "8")) == "3-1=2 2+6=8 #8"
    for record in build(SOURCE, "train", 100, 3):
        assert verify(record, solution(record)).score == 1.0
        assert copies_rightly(record, solution(record))


def test_the_demonstrator_ends_one_too_high_after_counting_back_far_and_carries_that_on() -> None:
    replies = Counter(demonstration(chain("9-5+3=", "7"), seed) for seed in range(2_000))
    assert set(replies) == {"9-5=4 4+3=7 #7", "9-5=5 5+3=8 #8"}
    assert 0.77 < replies["9-5=5 5+3=8 #8"] / 2_000 < 0.83


def test_the_demonstrator_is_right_exactly_where_it_did_not_slip() -> None:
    for record in build(SOURCE, "train", 400, 3):
        reply = demonstration(record, 0)
        assert copies_rightly(record, reply)
        assert (verify(record, reply).score == 1.0) == (reply == solution(record))
        if not any(int(back) >= SLIPS_FROM for back in re.findall(r"-(\d)", question(record))):
            assert reply == solution(record)


def test_imitating_the_demonstrator_perfectly_opens_the_gate() -> None:
    records = list(build(SOURCE, "test", 512, 0))
    sampled = sum(verify(record, demonstration(record, 0)).score for record in records) / 512
    greedy = sum(
        not any(int(back) >= SLIPS_FROM for back in re.findall(r"-(\d)", question(record)))
        for record in records
    )
    assert 0.38 < sampled < 0.48
    assert 0.28 < greedy / 512 < 0.38


def test_demonstrations_depend_on_the_seed_and_the_record_alone() -> None:
    records = list(build(SOURCE, "train", 50, 3))
    once = [demonstration(record, 7) for record in records]
    assert [demonstration(record, 7) for record in reversed(records)] == once[::-1]
    assert [demonstration(record, 8) for record in records] != once


@pytest.mark.parametrize(
    ("reply", "copied"),
    [
        ("3-1=2 2+6=8 #8", True),
        ("3-1=4 4+6=10 #10", True),  # wrong results, rightly carried on
        ("3-1=2 2+5=7 #7", False),  # another operand
        ("3-1=2 2-6=8 #8", False),  # another sign
        ("3-1=2 3+6=9 #9", False),  # a result that was not carried on
        ("4-1=3 3+6=9 #9", False),  # another start
        ("2+6=8 8-1=7 #7", False),  # out of turn
        ("3-1=2 #2", False),  # a step left out
        ("3-1=2 2+6=8 8+1=9 #9", False),  # a step added
        ("3-1=2 2+6=8 #7", False),  # answers something else
        ("3-1=2 2+6=8", False),
        ("3-1= +6=8 #8", False),
        ("3-1=² ²+6=8 #8", False),
        ("#8", False),
        ("", False),
    ],
)
def test_copying_is_right_when_operations_and_results_are_taken_on_in_turn(reply: str, copied: bool) -> None:
    assert copies_rightly(chain("3-1+6=", "8"), reply) is copied
