"""Evaluation items are found wherever they stand; what only shares instructions with them stays."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from reasonkit.data.decontaminate import Evaluations, decontaminate
from reasonkit.data.split import leaks, mix, split
from reasonkit.errors import UsageError
from reasonkit.records import Message, Record

WORDS = [
    f"{a}{b}"
    for a in ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu"]
    for b in ["ren", "lo", "ti", "mus", "ke", "va", "ros", "dan"]
]
LEAD = "Solve the following competition problem, show all of your reasoning, and put the answer in a box:"


def question(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(WORDS, k=length))


def record(uid: object, text: str, **metadata: object) -> Record:
    return Record(str(uid), "toy", (Message(role="user", content=text),), "1", metadata=metadata)


def records(texts: Sequence[str]) -> list[Record]:
    return [record(number, text) for number, text in enumerate(texts)]


def flagged(training: Sequence[str], evaluation: Sequence[str]) -> dict[str, str]:
    judged = decontaminate(records(training), Evaluations({"aime24": records(evaluation)}))
    return {one.uid: rejection.detail for one, rejection in judged if rejection is not None}


def test_an_item_inside_a_longer_text_is_found_with_the_words_that_match() -> None:
    rng = random.Random(0)
    items = [question(rng, 30) for _ in range(20)]
    training = [
        question(rng, 50),
        f"{question(rng, 20)} {items[7].upper()}!! {question(rng, 20)}",
        question(rng, 50),
    ]
    found = flagged(training, items)
    assert list(found) == ["1"]
    uid, span = found["1"].split(": ")
    assert uid == "7"
    assert span in items[7]
    assert len(span.split()) == 13


def test_twelve_shared_words_are_not_enough() -> None:
    rng = random.Random(1)
    item = question(rng, 30)
    twelve = " ".join(item.split()[5:17])
    assert flagged([f"{question(rng, 9)} {twelve} {question(rng, 9)}"], [item]) == {}


def test_shared_instructions_are_masked_and_items_are_found_behind_them() -> None:
    rng = random.Random(2)
    items = [f"{LEAD} {question(rng, 25)}" for _ in range(200)]
    training = [f"{LEAD} {question(rng, 25)}" for _ in range(50)] + [items[3]]
    assert list(flagged(training, items)) == ["50"]
    assert Evaluations({"set": records(items)}).masked["set"] >= 3


def test_repeated_items_are_not_taken_for_instructions() -> None:
    rng = random.Random(3)
    items = [question(rng, 30) for _ in range(30)]
    assert list(flagged([items[4]], items * 8)) == ["0"]


@pytest.mark.parametrize("length", [5, 8, 12])
def test_short_items_are_looked_for_as_a_whole(length: int) -> None:
    rng = random.Random(4)
    item = question(rng, length)
    almost = " ".join(item.split()[:-1])
    training = [
        f"{question(rng, 6)} {item} {question(rng, 6)}",
        f"{question(rng, 6)} {almost} end",
        question(rng, 30),
    ]
    assert list(flagged(training, [item, *[question(rng, 30) for _ in range(10)]])) == ["0"]


def test_very_short_items_must_be_the_whole_question() -> None:
    assert list(
        flagged(["What is 7*8?", "Tell me what is 7*8? and why", "what is 9*8?"], ["what is 7 * 8"])
    ) == ["0"]


def test_an_item_in_a_script_without_spaces_is_found() -> None:
    item = "在三角形中已知两边及其夹角求第三边的长度并说明理由"
    assert list(flagged([f"问题:{item}。请回答", "另一个完全不同的问题"], [item])) == ["0"]


def test_an_item_at_the_far_end_of_a_huge_row_is_found() -> None:
    rng = random.Random(5)
    item = question(rng, 20)
    assert list(flagged(["noise " * 500_000 + item, "short"], [item])) == ["0"]


def test_nothing_to_compare_with_is_an_error() -> None:
    with pytest.raises(UsageError, match="no evaluation item"):
        Evaluations({"empty": []})


def test_a_split_keeps_groups_together_and_hits_the_size() -> None:
    rows = [
        record(f"{room}-{step}", f"room {room} step {step}", room=room)
        for room in range(60)
        for step in range(5)
    ]
    halves = split(rows, 60, seed=0, fields=["room"])
    train_rooms = {row.metadata["room"] for row in halves.train}
    assert not train_rooms & {row.metadata["room"] for row in halves.test}
    assert abs(len(halves.test) - 60) <= 5
    assert len(halves.train) + len(halves.test) == 300
    assert leaks(halves, ["room"]).same_group == 0


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    rows = records([f"question {number}" for number in range(100)])
    first = {row.uid for row in split(rows, 20, seed=0).test}
    assert first == {row.uid for row in split(rows[::-1], 20, seed=0).test}
    assert first != {row.uid for row in split(rows, 20, seed=1).test}


def test_leaks_of_a_random_split_are_reported() -> None:
    rng = random.Random(6)
    programs = [question(rng, 80) for _ in range(10)]
    rows = [
        record(f"{p}-{k}", f"{text} variant {k}", program=p)
        for p, text in enumerate(programs)
        for k in range(8)
    ]
    found = leaks(split(rows, 20, seed=0))
    assert found.same_question == 0
    assert found.same_opening > 10
    assert found.shared_13_words > 10
    assert not found.none
    assert leaks(split(rows, 16, seed=0, fields=["program"]), ["program"]).none


@pytest.mark.parametrize(
    ("size", "fields", "message"), [(0, [], "cannot be cut"), (5, ["room"], "no metadata 'room'")]
)
def test_a_split_that_cannot_be_is_an_error(size: int, fields: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(records([f"q{number}" for number in range(10)]), size, 0, fields)


def test_one_group_cannot_be_split() -> None:
    rows = [record(number, f"q{number}", room=1) for number in range(10)]
    with pytest.raises(UsageError, match="1 groups are too few or too large"):
        split(rows, 3, 0, ["room"])


def test_a_mixture_of_files_keeps_shares_and_repeats_nothing() -> None:
    sets = {name: [record(f"{name}{number}", f"{name} {number}") for number in range(400)] for name in "ab"}
    mixed = [row.uid for row in mix({"a": (sets["a"], 3.0), "b": (sets["b"], 1.0)}, 400, seed=0)]
    assert len(set(mixed)) == 400
    assert 250 < sum(uid.startswith("a") for uid in mixed) < 350
    with pytest.raises(UsageError, match="a has 400 records, too few"):
        list(mix({"a": (sets["a"], 3.0), "b": (sets["b"], 1.0)}, 700, seed=0))
