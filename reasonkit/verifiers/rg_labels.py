"""reasoning-gym's labels, where they are known to be wrong: put right, or called unusable.

Found by working every label out anew from its question (the audit in tests/integration/test_verify_labels.py):

- mahjong_puzzle: the library draws the result before the card, so about one label in six names a result that the
  stated rules do not give. The rules are applied here.
- basic_arithmetic: nested divisions are evaluated by floor division. Where the exact value is no whole number, no
  answer that the question allows is the label: unusable.
- time_intervals: times with a weekday in brackets and an offset from UTC lose their time of day: unusable. Of
  differences in milliseconds the last digit is cut off a binary float: worked out here.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from reasonkit.verifiers.countdown import OPERATORS

_CARDS = re.compile(r"initial cards ([A-Z]+)")
_ROUND = re.compile(r"Add an? ([A-Z]) card and remove an? ([A-Z]) card")
_EXPRESSION = re.compile(r"[-+*/() \d]*\d[-+*/() \d]*")
_LOST_TIME = re.compile(r"\(\w+day\) \d\d:\d\d:\d\d [+-]\d{4}")
_MILLISECONDS = re.compile(r"(\d\d):(\d\d):(\d\d\.\d{3})")


def right_label(task: str, question: str, label: str) -> str | None:
    """The label to judge by; None where the question has none that can be trusted."""
    return LABELS[task](question, label) if task in LABELS else label


def _mahjong(question: str, label: str) -> str:
    started = _CARDS.search(question)
    if started is None:
        return label
    hand = Counter(started[1])
    for card, gone in _ROUND.findall(question):
        label = "Peng" if hand[card] >= 2 else "Chi" if _in_sequence(hand, ord(card)) else "Pass"
        hand[card] += 1
        hand[gone] -= 1
    return label


def _in_sequence(hand: Counter[str], card: int) -> bool:
    others = ((card - 2, card - 1), (card - 1, card + 1), (card + 1, card + 2))
    return any(hand[chr(one)] > 0 and hand[chr(other)] > 0 for one, other in others)


def _arithmetic(question: str, label: str) -> str | None:
    expression = max(_EXPRESSION.findall(question), key=len, default="").strip()
    try:
        value = _exact(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
    return label if value == Fraction(label) else None


def _exact(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_exact(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _exact(inner)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATORS:
            return OPERATORS[type(operation)](_exact(left), _exact(right))
    raise ValueError(f"{ast.unparse(node)[:50]} is not arithmetic")


def _interval(question: str, label: str) -> str | None:
    if _LOST_TIME.search(question):
        return None
    moments = _MILLISECONDS.findall(question)
    if len(moments) != 2 or "." not in label:
        return label
    start, end = (int(hours) * 3600 + int(minutes) * 60 + Decimal(rest) for hours, minutes, rest in moments)
    seconds = (end - start) % 86400
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{seconds % 60:06.3f}"


LABELS: dict[str, Callable[[str, str], str | None]] = {
    "basic_arithmetic": _arithmetic,
    "mahjong_puzzle": _mahjong,
    "time_intervals": _interval,
}
"""Tasks whose labels are looked at, by the question and the library's label."""
