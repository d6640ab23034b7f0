r"""Exact equality of polynomials with roots: against evaluation, and against Math-Verify."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonkit.records import Record
from reasonkit.verifiers.math import equivalent, verify_math
from reasonkit.verifiers.math_exact import Sum, expanded, same_exactly

LETTERS = {"x": Fraction(7, 3), "y": Fraction(-11, 5), "\\pi": Fraction(22, 7)}
SMALL = st.integers(0, 12).map(str)
EXPRESSIONS = st.recursive(
    SMALL | st.sampled_from(["x", "y", r"\pi", r"\sqrt{2}", r"\sqrt{12}", r"\frac{2}{3}"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}+{two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}-({two[1]}))"),
        st.tuples(inner, inner).map(lambda two: rf"({two[0]}) \cdot ({two[1]})"),
        st.tuples(inner, st.integers(0, 3)).map(lambda two: f"({two[0]})^{two[1]}"),
        inner.map(lambda one: rf"\frac{{{one}}}{{7}}"),
    ),
    max_leaves=6,
)


def value(found: Sum) -> float:
    total = 0.0
    for (letters, root), count in found.items():
        known = math.prod(float(LETTERS[name]) ** power for name, power in letters)
        total += float(count) * known * math.sqrt(root)
    return total


def by_python(latex: str) -> float:
    text = latex.replace(r"\cdot", "*").replace("^", "**").replace(r"\pi", "(22/7)")
    text = text.replace(r"\sqrt{2}", "(2**0.5)").replace(r"\sqrt{12}", "(12**0.5)")
    while r"\frac{" in text:
        start = text.rindex(r"\frac{")
        depth, parts, at = 0, [], start + 5
        for _ in range(2):
            begin = at
            while True:
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
                if depth == 0:
                    break
            parts.append(text[begin + 1 : at - 1])
        text = f"{text[:start]}(({parts[0]})/({parts[1]})){text[at:]}"
    return float(eval(text, {"x": 7 / 3, "y": -11 / 5}))


@settings(max_examples=300)
@given(EXPRESSIONS)
def test_an_expansion_has_the_value_of_the_expression(latex: str) -> None:
    same_exactly(latex, latex)
    try:
        wanted = by_python(latex)
    except (ZeroDivisionError, OverflowError):
        return
    if same_exactly(latex, latex) is not None:
        assert math.isclose(value(expanded(latex)), wanted, rel_tol=1e-6, abs_tol=1e-6)


@settings(max_examples=200)
@given(EXPRESSIONS, EXPRESSIONS)
def test_equal_expansions_have_equal_values_and_others_do_not(one: str, other: str) -> None:
    same = same_exactly(one, other)
    if same:
        assert math.isclose(by_python(one), by_python(other), rel_tol=1e-6, abs_tol=1e-6)


@given(st.lists(st.sampled_from([*"\\{}()^+-*/ 0123xyi.=,_", r"\frac", r"\sqrt"]), max_size=60))
def test_any_text_is_decided_or_left_undecided(parts: list[str]) -> None:
    text = "".join(parts)
    assert same_exactly(text, text) in (True, None)


CASES = [
    ("(x+2)(x+3)", "x^2+5x+6", True),
    ("(x+2)(x+3)", "x^2+6x+5", False),
    (r"2\sqrt{3}", r"\sqrt{12}", True),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
    (r"\sqrt{\frac{1}{8}}", r"\frac{\sqrt2}{4}", True),
    (r"(1+\sqrt2)^2", r"3+2\sqrt2", True),
    (r"\frac{x+1}{2}", r"\frac{x}{2}+\frac{1}{2}", True),
    ("ab", "ba", True),
    ("-x^2", "(-x)^2", False),
    (r"12 \cdot 13", "156", True),
    (r"\left(x-1\right)^{2}", "x^{2}-2x+1", True),
    ("X", "x", False),
]
UNDECIDED = [
    *("1/2x", r"1\frac{1}{2}", "x^12", "x2", "2 3", "x_1", "f(2)", "i^2", "0.5x", "x=2", r"\sin x", r"\sqrt{x}"),
    *(r"\frac{1}{x+1}", "x^{-1}", "x^y", "(x", "x)", "", "()", "x^{1000}", "(a+b+c+d+e+k)^{24}", "١٢", "9" * 100),
    *(r"10^{24}" * 30, r"x^{24}^{24}", r"1/0", r"\frac{1}{0}", "0^0", r"5\%", r"30^\circ", r"\sqrt{-4}"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "same"), CASES)
def test_what_is_decided_agrees_with_math_verify(one: str, other: str, same: bool) -> None:
    assert same_exactly(one, other) is same
    if one.lower() != other.lower():  # it takes X for x
        assert equivalent(one, other) is same


@pytest.mark.parametrize("latex", UNDECIDED)
def test_what_is_not_certain_is_left_to_others(latex: str) -> None:
    assert same_exactly(latex, "7") is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "answer", [r"(x+y+z+w)^{24}" * 20, r"\sqrt{99999999}" * 26, "(" * 199 + "x" + ")" * 199, r"7^{24}" * 60]
)
def test_hostile_expressions_are_given_up_quickly(answer: str) -> None:
    for _ in range(20):
        same_exactly(answer, "x")


def test_the_verifier_uses_it() -> None:
    record = Record("u", "math", (), "x^2+5x+6", "math")
    assert verify_math(record, r"\boxed{(x+3)(x+2)}").score == 1.0
    assert verify_math(record, r"\boxed{(x+3)(x+1)}").score == 0.0
