"""Answers read off tables (HiTab, MultiHiertt, FinQA): a value, or several joined by `|`.

Gold values are rounded, so numbers match within 0.1 %. A percent sign may be added or left out as the question
suggests (6.64% for a gold of 6.64 or of 0.0664), but an unmarked 6.64 is not 0.0664. The published grader takes
all three for one another, and evaluates what the model wrote as Python; the first is kept in mode
`reasoning360`, the second nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.exact import normalise
from reasonkit.verifiers.extract import after_thinking, last_box, last_tagged
from reasonkit.verifiers.numbers import Number, close, parse_number

TOLERANCE = 1e-3
MAX_CELLS = 200


def verify_table(record: Record, text: str) -> Verdict:
    """Every gold value is given, in any order, and nothing else."""
    return _judge(record, text, _same_number)


def verify_table_reasoning360(record: Record, text: str) -> Verdict:
    """As the published grader: a factor of 100 either way does not matter."""
    return _judge(record, text, _same_number_or_hundredfold)


def _judge(record: Record, text: str, same: Callable[[Number, Number], bool]) -> Verdict:
    reply = after_thinking(text)
    answer = last_box(reply)
    if answer is None:
        answer = last_tagged(reply)
    if answer is None or not answer.strip():
        return Verdict.no_answer("the reply has no box and no answer tag")
    gold = _cells(record.answer)
    found = _cells(answer)
    if len(found) > MAX_CELLS or len(found) != len(gold):
        return Verdict.wrong(answer, f"{len(found)} values are given, {len(gold)} are asked for")
    for cell in found:
        match = next((index for index, other in enumerate(gold) if _same(cell, other, same)), None)
        if match is None:
            return Verdict.wrong(answer, f"'{cell[:100]}' is not among the values asked for")
        del gold[match]
    return Verdict.correct(answer)


def _cells(value: object) -> list[str]:
    cells = value if isinstance(value, list) else str(value).split("|")
    return [str(cell).strip() for cell in cells]


def _same(cell: str, gold: str, same: Callable[[Number, Number], bool]) -> bool:
    number, gold_number = parse_number(cell), parse_number(gold)
    if number is None or gold_number is None:
        return normalise(cell) == normalise(gold) != ""
    return same(number, gold_number)


def _near(value: Fraction, gold: Fraction) -> bool:
    return close(value, gold, relative=TOLERANCE)


def _same_number(number: Number, gold: Number) -> bool:
    if number.percent == gold.percent:
        return _near(number.value, gold.value)
    return _near(number.as_fraction, gold.as_fraction) or _near(number.value, gold.value)


def _same_number_or_hundredfold(number: Number, gold: Number) -> bool:
    return any(_near(number.value * factor, gold.value) for factor in (1, 100, Fraction(1, 100)))
