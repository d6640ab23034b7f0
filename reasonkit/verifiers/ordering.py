"""Ordering puzzles: the whole row in the right order, or nothing."""

from __future__ import annotations

import re
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged
from reasonkit.verifiers.literals import parse_literal, published_answer

QUOTES = " \t\r\n'\"`"


def verify_ordering(record: Record, text: str) -> Verdict:
    """`record.answer` is the list of names from left to right."""
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    names = _names(answer)
    if names is None:
        return Verdict.no_answer("the answer is no list of names")
    return _verdict(names, [_fold(name) for name in record.answer])


def verify_ordering_reasoning360(record: Record, text: str) -> Verdict:
    """Any words between square brackets. Where the published grader would `eval`, there is no answer."""
    answer = published_answer(text, one_line=True)
    listed = None if answer is None else _bracketed(answer)
    if listed is None:
        return Verdict.no_answer("the reply has no bracketed list in an <answer> on one line")
    words = (word.lower().strip() for word in re.findall(r"[\w\s]+", listed))
    return _verdict([word for word in words if word], list(record.answer))


def _bracketed(answer: str) -> str | None:
    """What follows the first `[` up to the next `]`, with something before, between and after all its commas."""
    at = 0
    while (end := answer.find("]", at)) >= 0:
        region, at = answer[at:end], end + 1
        if region.endswith(","):
            continue
        opening = region.find("[", max(region.rfind(",,"), 0))
        while 0 <= opening < len(region) - 1:
            if region[opening + 1] != ",":
                return region[opening + 1 :]
            opening = region.find("[", opening + 1)
    return None


def _verdict(names: list[str], gold: list[str]) -> Verdict:
    shown = ", ".join(names)
    if names == gold:
        return Verdict.correct(shown)
    if len(names) != len(gold):
        return Verdict.wrong(shown, f"the answer lists {len(names)} names, not {len(gold)}")
    first = next(place for place, (a, b) in enumerate(zip(names, gold, strict=True), 1) if a != b)
    return Verdict.wrong(shown, f"place {first} is wrong")


def _names(answer: str) -> list[str] | None:
    """A JSON or Python list of texts, or names between commas, with or without square brackets."""
    try:
        value: Any = parse_literal(answer)
    except ValueError:
        value = None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [_fold(name) for name in value]
    bare = answer.strip().removeprefix("[").removesuffix("]")
    if "[" in bare or "]" in bare:
        return None
    names = [_fold(part) for part in bare.split(",")]
    return names if all(names) else None


def _fold(name: str) -> str:
    return " ".join(str(name).strip(QUOTES).casefold().split())
