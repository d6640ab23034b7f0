"""Countdown: an expression that uses each given number exactly once and equals the target.

The expression is parsed, checked to hold nothing but whole numbers, + - * / and brackets, and worked out
in exact fractions, so that 8 / (3 - 8 / 3) is 24 and 0.1 + 0.2 tricks have no place. There is no `**`:
what cannot be asked for cannot be a denial of service either.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged

MAX_CHARACTERS = 300
ALLOWED = re.compile(r"[0-9+\-*/() ]+")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def verify_countdown(record: Record, text: str) -> Verdict:
    """`record.answer` holds `numbers` and `target`; `expression = target` counts as the expression."""
    numbers, target = record.answer["numbers"], record.answer["target"]
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    left, equals, right = answer.strip().translate(str.maketrans("×÷−–[]", "*/--()")).partition("=")
    if equals and right.strip() != str(target):
        return Verdict.wrong(
            answer.strip(), f"the answer claims to make '{right.strip()[:50]}', not {target}"
        )
    expression = left.strip()
    if len(expression) > MAX_CHARACTERS or not ALLOWED.fullmatch(expression):
        return Verdict.no_answer("the answer is no expression of whole numbers with + - * / and brackets")
    used: list[int] = []
    try:
        value = _value(ast.parse(expression, mode="eval").body, used)
    except ZeroDivisionError:
        return Verdict.wrong(expression, "the expression divides by zero")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Verdict.no_answer(f"the expression cannot be read: {error}")
    if Counter(used) != Counter(numbers):
        return Verdict.wrong(expression, f"it uses {sorted(used)}, not each of {sorted(numbers)} once")
    if value != target:
        return Verdict.wrong(expression, f"it makes {value}, not {target}")
    return Verdict.correct(expression)


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """The value of an expression; the numbers in it are added to `used`."""
    match node:
        case ast.Constant(value=int() as number):
            used.append(number)
            return Fraction(number)
        case ast.BinOp(left=left, op=operation, right=right):
            if type(operation) not in OPERATORS:
                raise ValueError(f"{type(operation).__name__} is not allowed")
            return OPERATORS[type(operation)](_value(left, used), _value(right, used))
    raise ValueError(f"{type(node).__name__} is not allowed")
