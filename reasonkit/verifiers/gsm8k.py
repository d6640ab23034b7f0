"""GSM8K: the number after `####`.

A box or an answer tag is taken too, because chat models write those. A bare last number is not: a reply that
spells out many numbers would be right by luck.
"""

from __future__ import annotations

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_marker, after_thinking, last_box, last_tagged
from reasonkit.verifiers.numbers import parse_number

TAIL_CHARACTERS = 300


def verify_gsm8k(record: Record, text: str) -> Verdict:
    """The number after the last `####`, or in the last box or answer tag, equals the gold number."""
    reply = after_thinking(text)
    for found in (after_marker(reply), last_box(reply), last_tagged(reply)):
        if found is not None:
            return _compare(record, found.strip())
    return Verdict.no_answer("the reply has no '#### number', box or answer tag")


def verify_gsm8k_reasoning360(record: Record, text: str) -> Verdict:
    """Only `#### number` counts, and only within the last 300 characters."""
    found = after_marker(text[-TAIL_CHARACTERS:])
    if not found:
        return Verdict.no_answer("the last 300 characters have no '#### number'")
    return _compare(record, found.split()[0])


def _compare(record: Record, answer: str) -> Verdict:
    solution = str(record.answer)
    gold = parse_number(after_marker(solution) or solution.strip())
    if gold is None:
        raise ValueError(f"the gold answer '{solution[-100:]}' does not end in a number")
    number = parse_number(answer)
    if number is None:
        return Verdict.wrong(answer, f"'{answer[:200]}' is not one number")
    if number.value == gold.value:
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"{answer[:200]} is not {gold.value}")
