"""Whether what a program gave is what was expected. Runs outside the sandbox, on plain data and text alone.

Values: exact types. `True` is not 1, text is not a number, a set is not a list; a tuple is a list, and the keys
of a dictionary are text, because that is what plain JSON keeps. An int equals a float of the same value. Where
the expected number is a float, a relative difference of 1e-6 is let pass.

Printed text: as LiveCodeBench's grader does, lines are stripped, their number must agree, and a line that
differs as text is compared word by word as decimal numbers. Beyond it, a word that is expected with a fraction
or an exponent may be off by 1e-6, absolutely or relatively, which is what contest checkers allow."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Any

TOLERANCE = 1e-6
LONGEST_NUMBER = 400


def same_value(got: Any, expected: Any, relative: float = TOLERANCE, absolute: float = 0.0) -> bool:
    """Both are plain JSON, as `sandbox.plain` makes it."""
    if isinstance(expected, bool) or isinstance(got, bool) or expected is None or isinstance(expected, str):
        return type(got) is type(expected) and bool(got == expected)
    if isinstance(expected, int):
        return isinstance(got, int | float) and got == expected
    if isinstance(expected, float):
        return isinstance(got, int | float) and close_to(got, expected, relative, absolute)
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(map(lambda one, other: same_value(one, other, relative, absolute), got, expected))
        )
    return (
        isinstance(got, dict)
        and got.keys() == expected.keys()
        and all(same_value(got[key], value, relative, absolute) for key, value in expected.items())
    )


def close_to(got: int | float, expected: float, relative: float, absolute: float) -> bool:
    try:
        return math.isclose(got, expected, rel_tol=relative, abs_tol=absolute)
    except OverflowError:  # an int beyond every float
        return False


def truth(value: Any) -> bool:
    """What `bool()` said of the value before it became plain."""
    if isinstance(value, dict) and len(value) == 1:
        ((tag, held),) = value.items()
        if tag in ("$set", "$bytes", "$dict"):
            return bool(held)
        if tag == "$complex":
            return any(part not in (0, 0.0) for part in held)
    return bool(value)


def same_output(printed: str, expected: str) -> bool:
    """Whether a program printed what it should have."""
    got_lines, wanted_lines = _lines(printed), _lines(expected)
    return len(got_lines) == len(wanted_lines) and all(map(_same_line, got_lines, wanted_lines))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(got: str, expected: str) -> bool:
    if got == expected:
        return True
    words, wanted = got.split(), expected.split()
    return len(words) == len(wanted) and all(map(_same_word, words, wanted))


def _same_word(got: str, expected: str) -> bool:
    if got == expected:
        return True
    if max(len(got), len(expected)) > LONGEST_NUMBER:
        return False
    try:
        value, wanted = Decimal(got), Decimal(expected)
    except InvalidOperation:
        return False
    if not value.is_finite() or not wanted.is_finite():
        return False
    if value == wanted:
        return True
    if not any(mark in expected for mark in ".eE"):
        return False
    return close_to(float(value), float(wanted), TOLERANCE, TOLERANCE)


def same_output_reasoning360(printed: str, expected: str) -> bool:
    """As the published grader: numbers within 1e-6, integers too, and yes or no in any case."""
    got, wanted = (text.strip().replace("\r\n", "\n") for text in (printed, expected))
    if got == wanted:
        return True
    got_lines, wanted_lines = got.split("\n"), wanted.split("\n")
    return len(got_lines) == len(wanted_lines) and all(map(_fuzzy_line, got_lines, wanted_lines))


def _fuzzy_line(got: str, expected: str) -> bool:
    words, wanted = got.split(), expected.split()
    return got == expected or (len(words) == len(wanted) and all(map(_fuzzy_word, words, wanted)))


def _fuzzy_word(got: str, expected: str) -> bool:
    if got == expected or (got.lower() == expected.lower() and expected.lower() in ("yes", "no")):
        return True
    try:
        return abs(float(got) - float(expected)) <= TOLERANCE
    except ValueError:
        return False
