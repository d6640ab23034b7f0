"""Knights & Knaves: the prompt as worded has exactly one solution, found here by reading the English."""

from __future__ import annotations

import itertools
import re

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources.knights import SAYINGS
from reasonkit.errors import UsageError
from reasonkit.records import Record

ATOM = re.compile(r"^(\w+) is (not )?a (knight|knave)$")


def claim_holds(claim: str, knights: dict[str, bool]) -> bool:
    if match := ATOM.match(claim):
        person, negated, role = match.groups()
        return (knights[person] == (role == "knight")) != bool(negated)
    if match := re.match(r"^If (.+) then (.+)$", claim):
        return not claim_holds(match[1], knights) or claim_holds(match[2], knights)
    if " if and only if " in claim:
        left, right = claim.split(" if and only if ")
        return claim_holds(left, knights) == claim_holds(right, knights)
    if " and " in claim:
        return all(claim_holds(part, knights) for part in claim.split(" and "))
    return any(claim_holds(part, knights) for part in claim.split(" or "))


def read_quiz(quiz: str) -> tuple[list[str], dict[str, str]]:
    """Who is there, and what each of them claims."""
    names = re.search(r"inhabitants: (.+?)\. ", quiz)[1].replace(", and ", ", ").split(", ")  # type: ignore[index]
    body = quiz.split(". ", 3)[3].removesuffix(" So who is a knight and who is a knave?")
    claims: dict[str, str] = {}
    any_name, any_claim = "|".join(names), r"[A-Za-z ]+?"
    while body:
        for saying in SAYINGS:
            pattern = re.escape(saying).replace(r"\{name\}", f"(?P<name>{any_name})")
            pattern = pattern.replace(r"\{claim\}", f"(?P<claim>{any_claim})")
            if match := re.match(pattern + r"(?: |$)", body):
                claims[match["name"]] = match["claim"]
                body = body[match.end() :]
                break
        else:
            raise AssertionError(f"no saying fits: {body}")
    return names, claims


def solve(record: Record) -> list[str]:
    names, claims = read_quiz(record.prompt[-1]["content"])
    assert sorted(claims) == sorted(names)
    found = []
    for roles in itertools.product([True, False], repeat=len(names)):
        knights = dict(zip(names, roles, strict=True))
        if all(knights[name] == claim_holds(claims[name], knights) for name in names):
            found.append(
                "\n".join(
                    f"({i + 1}) {name} is a {'knight' if knights[name] else 'knave'}"
                    for i, name in enumerate(names)
                )
            )
    return found


@pytest.mark.parametrize("people", [2, 3, 4, 5, 6, 7, 8])
def test_the_puzzle_as_worded_has_exactly_the_gold_solution(people: int) -> None:
    for record in build("knights", "train", 20, 3, {"people": people}):
        assert solve(record) == [record.answer["solution_text_format"]]
        assert len(record.answer["solution_text_format"].splitlines()) == people


def test_levels_take_turns() -> None:
    records = list(build("knights", "train", 9, 0, {"people": [3, 5, 7]}))
    assert [record.metadata["people"] for record in records] == [3, 5, 7] * 3


def test_raw_prompts_have_chatml_baked_in_and_say_so() -> None:
    (record,) = build("knights", "train", 1, 0, {"prompt_format": "raw"})
    assert record.is_raw
    assert len(record.prompt) == 1
    assert record.prompt[0]["content"].startswith("<|im_start|>system\n")
    assert record.prompt[0]["content"].endswith("<|im_start|>assistant\n<think>")


@pytest.mark.parametrize("people", [1, 9, [3, 9], []])
def test_impossible_numbers_of_people_are_refused(people: object) -> None:
    with pytest.raises(UsageError, match="people"):
        build("knights", "train", 1, 0, {"people": people})
