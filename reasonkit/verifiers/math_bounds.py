r"""Says when an expression is too large to hand to a computer algebra system.

A power tower, a factorial of a billion or three thousand nested fractions are a few bytes long and take for ever
to evaluate. The pool would kill the worker; refusing them here costs microseconds instead of the CPU limit. What
passes is not promised to be cheap, only not absurd.
"""

from __future__ import annotations

import math
import re

MAX_CHARACTERS = 2000
MAX_DEPTH = 30
MAX_DIGITS = 300
MAX_EXPONENT = 20_000
MAX_FACTORIAL = 2000

_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")
_POWER = re.compile(r"\^|\*\*")
_FACTORIAL = re.compile(r"(?<![A-Za-z])(?P<argument>\d+|[)}\]])\s*!")
_SMALL_POWER = re.compile(r"(\d{1,4})(?:\^|\*\*)\{?(\d{1,2})\}?")
_NUMBER_GROWS = re.compile(r"\d[\s)}]*(?:\^|\*\*|!)")
_OPENING, _CLOSING = "([{", ")]}"


def why_too_large(expression: str) -> str:
    """The reason in words, or an empty text where the expression may be parsed."""
    if len(expression) > MAX_CHARACTERS:
        return f"it has {len(expression)} characters, more than {MAX_CHARACTERS}"
    if _DIGITS.search(expression):
        return f"a number has more than {MAX_DIGITS} digits"
    depth = _depth(expression)
    if depth > MAX_DEPTH:
        return f"it is nested {depth} deep, more than {MAX_DEPTH}"
    for match in _FACTORIAL.finditer(expression):
        argument = match["argument"]
        if not argument.isdigit() and _POWER.search(expression[: match.start()]):
            return "a factorial of a power"
        if argument.isdigit() and int(argument) > MAX_FACTORIAL:
            return f"the factorial of {argument}"
    for match in _POWER.finditer(expression):
        exponent, rest = _group(expression[match.end() :].lstrip())
        if _is_absurd(exponent) or (_POWER.match(rest.lstrip()) and not exponent.isalpha()):
            return f"the exponent {exponent[:40]}"
    return ""


def _depth(expression: str) -> int:
    depth = deepest = 0
    for character in expression:
        if character in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif character in _CLOSING:
            depth -= 1
    return deepest


def _group(text: str) -> tuple[str, str]:
    """(content, rest): the bracketed group, run of digits or single character that `text` starts with."""
    if text[:1] not in ("{", "("):
        end = re.match(r"\d*", text).end() or 1  # type: ignore[union-attr]  # an empty run always matches
        return text[:end], text[end:]
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return text[1:position], text[position + 1 :]
    return text[1:], ""


def _is_absurd(exponent: str) -> bool:
    if exponent.strip().isdigit():
        return int(exponent) > MAX_EXPONENT
    small = _SMALL_POWER.fullmatch(exponent.replace(" ", ""))
    if small:
        base, power = int(small[1]), int(small[2])
        return base > 1 and power * math.log2(base) > math.log2(MAX_EXPONENT)
    return len(_POWER.findall(exponent)) > 1 or _NUMBER_GROWS.search(exponent) is not None
