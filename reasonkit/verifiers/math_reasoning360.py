r"""Mathematical answers as Reasoning360 scores them, for comparison with published figures (mode `reasoning360`).

Its quirks are kept: without a box the whole reply is the answer; ×100 and /100 are forgiven; a fraction must be
in the gold's own lowest terms; lists match in order only; `2\pi` is never 6.28. Written anew from the description
of the rule: normalised text, then element-wise comparison, then numbers within 1e-4. The symbolic step is
Math-Verify instead of that project's chain of parsers. A hostile answer is bounded as in strict mode.
"""

from __future__ import annotations

import re
from fractions import Fraction

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import last_box
from reasonkit.verifiers.math import canonical, equivalent, gold_answer
from reasonkit.verifiers.math_bounds import why_too_large
from reasonkit.verifiers.numbers import close, parse_number

TOLERANCE = 1e-4
_FRACTION = re.compile(r"-?(?:\d+/\d+|\\frac\{-?\d+\}\{\d+\})")


def verify_math_reasoning360(record: Record, text: str) -> Verdict:
    """Mathd text, then items in order, then numbers with a factor of 100 either way."""
    reply = text.rpartition("</think>")[2]
    box = last_box(reply)
    answer = (reply if box is None else box).strip()
    if not answer:
        return Verdict.no_answer("the reply is empty after its thinking")
    gold = gold_answer(record)
    if canonical(answer).casefold() == canonical(gold).casefold():
        return Verdict.correct(answer)
    large = why_too_large(answer)
    if large:
        return Verdict.timeout(f"the answer is too large to check: {large}")
    if _same_items(answer, gold) or _same_number(answer, gold):
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"'{answer[:200]}' is not '{gold[:200]}'")


def _same_items(answer: str, gold: str) -> bool:
    answers, golds = _items(answer), _items(gold)
    if len(answers) != len(golds) or (len(golds) > 1 and (answer[0], answer[-1]) != (gold[0], gold[-1])):
        return False
    return all(_same_item(*pair) for pair in zip(answers, golds, strict=True))


def _items(expression: str) -> list[str]:
    bare = expression[1:-1] if expression[:1] in ("(", "[") and expression[-1:] in (")", "]") else expression
    return [item.strip() for item in bare.split(",")]


def _same_item(answer: str, gold: str) -> bool:
    if _FRACTION.fullmatch(canonical(answer)) and _FRACTION.fullmatch(canonical(gold)):
        return canonical(answer) == canonical(gold)
    return bool(answer) and equivalent(gold, answer)


def _same_number(answer: str, gold: str) -> bool:
    number, gold_number = parse_number(answer), parse_number(gold)
    if number is None or gold_number is None or _FRACTION.fullmatch(canonical(answer)):
        return False
    references = [gold_number.value * factor for factor in (1, 100, Fraction(1, 100))]
    return any(close(number.value, reference, relative=TOLERANCE) for reference in references)
