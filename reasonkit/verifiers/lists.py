"""Answers that are several items: `list` where their order counts, `set` where it does not.

The reply's final answer is a JSON array, or items separated by `|`, `;`, line breaks or commas. Numbers are
compared as numbers, words after normalising. Duplicates count in both, so that naming an item twice is not
naming another one. There is no partial credit.
"""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.exact import normalise
from reasonkit.verifiers.extract import final_answer
from reasonkit.verifiers.numbers import parse_number

MAX_CHARACTERS = 100_000
SEPARATORS = ("|", ";", "\n", ",")
BRACKETS = {"[": "]", "(": ")", "{": "}"}


def verify_list(record: Record, text: str) -> Verdict:
    """The items of the final answer are the gold items, in their order."""
    return _judge(record, text, ordered=True)


def verify_set(record: Record, text: str) -> Verdict:
    """The items of the final answer are the gold items, in any order."""
    return _judge(record, text, ordered=False)


def _judge(record: Record, text: str, *, ordered: bool) -> Verdict:
    gold = _items(record.answer)
    answer = final_answer(text)
    if answer is None:
        return Verdict.no_answer("the reply is empty")
    if len(answer) > MAX_CHARACTERS:
        return Verdict.wrong(answer[:200], f"the answer has {len(answer)} characters")
    found = _items(answer)
    if found == gold or (not ordered and Counter(found) == Counter(gold)):
        return Verdict.correct(answer)
    return Verdict.wrong(answer, _difference(found, gold))


def _difference(found: list[str | Fraction], gold: list[str | Fraction]) -> str:
    missing, extra = Counter(gold) - Counter(found), Counter(found) - Counter(gold)
    if not missing and not extra:
        return "the items are right and their order is wrong"
    return f"{missing.total()} of {len(gold)} items are missing, {extra.total()} do not belong"


def _items(value: Any) -> list[str | Fraction]:
    if isinstance(value, list):
        return [_item(str(item)) for item in value]
    shown = str(value).strip()
    if shown.startswith("["):
        try:
            parsed = json.loads(shown)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, list):
            return [_item(str(item)) for item in parsed]
    shown = shown.replace("\\{", "{").replace("\\}", "}")
    if shown[:1] in BRACKETS and shown.endswith(BRACKETS[shown[0]]):
        shown = shown[1:-1]
    separator = next((mark for mark in SEPARATORS if mark in shown), ",")
    return [_item(part) for part in shown.split(separator) if part.strip()]


def _item(text: str) -> str | Fraction:
    number = parse_number(text.strip().strip("\"'"))
    return normalise(text) if number is None or number.percent else number.value
