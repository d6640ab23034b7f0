r"""Equality of polynomials with rational and square-root coefficients, exactly and without computer algebra.

`(x+2)(x+3)` and `x^2+5x+6`, `2\sqrt{3}` and `\sqrt{12}`, `\frac{1}{\sqrt2}` and `\frac{\sqrt{2}}{2}`: most answers
that are no plain numbers are of this kind, and Math-Verify takes a hundred times as long for them, longest where
they differ. An expression is expanded to a sum of rational multiples of √s times letters, s without square factors.
The products of letters and such roots are linearly independent over the rationals, so equal sums are the same sum.

Everything else is left undecided (None): decimals, units, equations, functions, `i`, roots of letters, division by
sums, and whatever could be read in two ways, such as `1/2x` or `1\frac{1}{2}`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

MAX_TERMS = 400
MAX_POWER = 24
MAX_CHARACTERS = 400
MAX_UNDER_ROOT = 10**8
MAX_DIGITS = 60
_TOKEN = re.compile(
    r"\d+|\\(?:frac|dfrac|tfrac|sqrt|cdot|times|pi|left|right)(?![A-Za-z])|[A-Za-z]|[-+*/^(){}]"
)
_FUNCTIONS = frozenset("fghpPQ")
"""Letters that apply to what stands in brackets after them."""

Term = tuple[tuple[tuple[str, int], ...], int]
"""Letters with their powers, and what stands under the root."""
Sum = dict[Term, Fraction]


class _Undecided(Exception):
    """Not of this kind, or not certainly."""


def same_exactly(one: str, other: str) -> bool | None:
    """Whether two LaTeX expressions are equal; None where one of them is not of this kind."""
    try:
        return expanded(one) == expanded(other)
    except (_Undecided, RecursionError):
        return None


def expanded(latex: str) -> Sum:
    if len(latex) > MAX_CHARACTERS:
        raise _Undecided
    reader = _Reader(_tokens(latex))
    found = reader.sum()
    if reader.next is not None:
        raise _Undecided
    return found


def _tokens(latex: str) -> list[str]:
    tokens, at, text = [], 0, latex.strip()
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = _TOKEN.match(text, at)
        if found is None or (found[0].isdigit() and (len(found[0]) > MAX_DIGITS or not found[0].isascii())):
            raise _Undecided
        at = found.end()
        if found[0] not in ("\\left", "\\right"):
            tokens.append(found[0])
    return tokens


class _Reader:
    """Recursive descent. A product may be written without a sign."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]

    @property
    def next(self) -> str | None:
        return self._tokens[-1] if self._tokens else None

    def _take(self, *wanted: str) -> str:
        if not self._tokens or (wanted and self._tokens[-1] not in wanted):
            raise _Undecided
        return self._tokens.pop()

    def sum(self) -> Sum:
        total = self._signed()
        while self.next in ("+", "-"):
            total = _added(total, self._signed())
        return total

    def _signed(self) -> Sum:
        sign = 1
        if self.next in ("+", "-"):
            sign = -1 if self._take() == "-" else 1
        return {term: sign * count for term, count in self._product().items()}

    def _product(self) -> Sum:
        whole_before = (self.next or "").isdigit()
        result = self._power()
        while self.next is not None and self.next not in "+-)}":
            if self.next in ("\\cdot", "\\times", "*"):
                self._take()
                if self.next in ("+", "-"):
                    raise _Undecided
                whole_before = (self.next or "").isdigit()
                result = _multiplied(result, self._power())
            elif self.next == "/":
                self._take()
                result = _multiplied(result, _inverse(self._power()))
                if self.next not in (None, "+", "-", ")", "}"):
                    raise _Undecided  # 1/2x
            elif self.next.isdigit() or (whole_before and self.next.endswith("frac")):
                raise _Undecided  # x2, 1 2, 1\frac{1}{2}
            else:
                whole_before = False
                result = _multiplied(result, self._power())
        return result

    def _power(self) -> Sum:
        letter = self.next
        base = self._primary()
        if letter in _FUNCTIONS and self.next == "(":
            raise _Undecided
        if self.next != "^":
            return base
        self._take()
        exponent = self._exponent()
        if self.next == "^":
            raise _Undecided
        return _power(base, exponent) if exponent >= 0 else _power(_inverse(base), -exponent)

    def _exponent(self) -> int:
        if self.next != "{":
            digits = self._take()
            if not digits.isdigit() or len(digits) > 1:
                raise _Undecided  # x^12 is x^1 times 2 to LaTeX, and not to people
            return int(digits)
        found = self._group()
        if any(term != _ONE for term in found) or any(count.denominator != 1 for count in found.values()):
            raise _Undecided
        exponent = int(found.get(_ONE, Fraction(0)))
        if abs(exponent) > MAX_POWER:
            raise _Undecided
        return exponent

    def _group(self) -> Sum:
        closing = {"{": "}", "(": ")"}[self._take("{", "(")]
        inner = self.sum()
        self._take(closing)
        return inner

    def _argument(self) -> Sum:
        """Of a command: a group, or a single digit or letter."""
        if self.next == "{":
            return self._group()
        if self.next is None or len(self.next) > 1:
            raise _Undecided
        return self._primary()

    def _primary(self) -> Sum:
        token = self.next
        if token is None:
            raise _Undecided
        if token in "({":
            return self._group()
        self._take()
        if token.isdigit():
            return _number(Fraction(int(token)))
        if token == "\\sqrt":
            return _root(self._argument())
        if token.endswith("frac"):
            above = self._argument()
            return _multiplied(above, _inverse(self._argument()))
        if token == "\\pi" or (len(token) == 1 and token.isalpha() and token != "i"):
            return {(((token, 1),), 1): Fraction(1)}
        raise _Undecided


_ONE: Term = ((), 1)


def _number(value: Fraction) -> Sum:
    return {_ONE: value} if value else {}


def _added(one: Sum, other: Sum) -> Sum:
    total = dict(one)
    for term, count in other.items():
        total[term] = total.get(term, Fraction(0)) + count
    return {term: count for term, count in total.items() if count}


def _multiplied(one: Sum, other: Sum) -> Sum:
    if len(one) * len(other) > MAX_TERMS:
        raise _Undecided
    total: Sum = {}
    for (letters, root), count in one.items():
        for (more, further), factor in other.items():
            shared = gcd(root, further)
            term = (_letters(letters, more), root // shared * (further // shared))
            if term[1] > MAX_UNDER_ROOT:
                raise _Undecided
            total[term] = total.get(term, Fraction(0)) + count * factor * shared
    return {term: count for term, count in total.items() if count}


def _letters(
    one: tuple[tuple[str, int], ...], other: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, int], ...]:
    powers = dict(one)
    for letter, power in other:
        powers[letter] = powers.get(letter, 0) + power
    return tuple(sorted(powers.items()))


def _power(base: Sum, exponent: int) -> Sum:
    if exponent == 0 and not base:
        raise _Undecided
    result = _number(Fraction(1))
    for _ in range(exponent):
        result = _multiplied(result, base)
        if any(max(abs(count.numerator), count.denominator) >= 10**600 for count in result.values()):
            raise _Undecided
    return result


def _inverse(value: Sum) -> Sum:
    """Of a number that is one term: 1/(q√s) is √s/(qs)."""
    if len(value) != 1:
        raise _Undecided
    (((letters, root), count),) = value.items()
    if letters:
        raise _Undecided
    return {((), root): 1 / (count * root)}


def _root(value: Sum) -> Sum:
    """Of a rational number that is not negative: √(a/b) is √(ab)/b."""
    number = value.get(_ONE, Fraction(0))
    if value.keys() - {_ONE} or number < 0:
        raise _Undecided
    under = number.numerator * number.denominator
    if under > MAX_UNDER_ROOT:
        raise _Undecided
    outside, inside = _square_free(under)
    return {((), inside): Fraction(outside, number.denominator)} if under else {}


def _square_free(number: int) -> tuple[int, int]:
    """(a, s) with number = a²·s, s without square factors."""
    outside, factor = 1, 2
    rest = number
    inside = 1
    while factor * factor <= rest:
        times = 0
        while rest % factor == 0:
            rest //= factor
            times += 1
        outside *= factor ** (times // 2)
        inside *= factor ** (times % 2)
        factor += 1
    return outside, inside * rest
