"""Countdown: combine given numbers, each used once, into a target.

Built backwards: numbers are drawn and combined at random, and what comes out is the target, so that
every problem has a solution and no search is needed. Searching forwards is what makes other
generators a few hundred times slower.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field

from reasonkit.data.sources import Choices, Draw, Problem, QuestionSettings, Source, Split, distinct
from reasonkit.records import Record

NAME = "countdown"

Term = tuple[int, str, int]
"""Value, text, and how tightly its outermost operator binds (3 for a bare number)."""


def _counts(values: tuple[int, ...]) -> tuple[int, ...]:
    outside = [value for value in values if not 2 <= value <= 8]
    if outside:
        raise ValueError(f"numbers must be 2 to 8, not {outside[0]}")
    return values


class CountdownSettings(QuestionSettings):
    numbers: Annotated[Choices, AfterValidator(_counts)] = Field(
        (3, 4, 5, 6), description="How many numbers; a list gives every count the same share."
    )
    largest: int = Field(99, ge=10, le=9999, description="The largest given number.")
    largest_target: int = Field(999, ge=10, le=99_999, description="The largest target.")


def _combine(rng: random.Random, left: Term, right: Term, limit: int) -> Term | None:
    """One step of the construction, or None where it leaves the positive whole numbers up to `limit`."""
    operator = rng.choice("+-*/")
    (a, a_text, a_binds), (b, b_text, b_binds) = left, right
    if operator == "/" and (b < 2 or a % b):
        return None
    if operator == "*" and (a == 1 or b == 1):
        return None  # multiplying by one is no step worth finding
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
    if not 0 < value <= limit:
        return None
    binds = 1 if operator in "+-" else 2
    left_text = f"({a_text})" if a_binds < binds else a_text
    bracketed = b_binds < binds or (b_binds == binds and operator in "-/")
    return value, f"{left_text} {operator} {f'({b_text})' if bracketed else b_text}", binds


def _construct(rng: random.Random, count: int, largest: int, limit: int) -> tuple[list[int], int, str] | None:
    """Numbers, the target that they make, and how."""
    # Half of the numbers are small, as in the game; otherwise products would leave the range at once.
    numbers = [rng.randint(1, 10 if rng.random() < 0.5 else largest) for _ in range(count)]
    terms: list[Term] = [(number, str(number), 3) for number in numbers]
    for _ in range(8 * count):
        i, j = rng.sample(range(len(terms)), 2)
        combined = _combine(rng, terms[i], terms[j], 10 * limit)
        if combined is None:
            continue
        terms = [term for k, term in enumerate(terms) if k not in (i, j)] + [combined]
        if len(terms) == 1:
            target, text, _ = combined
            return (numbers, target, text) if target <= limit and target not in numbers else None
    return None


def build(split: Split, size: int, seed: int, settings: CountdownSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem | None:
        count = settings.numbers[attempt.position % len(settings.numbers)]
        made = _construct(attempt.rng, count, settings.largest, settings.largest_target)
        if made is None:
            return None
        numbers, target, solution = made
        attempt.rng.shuffle(numbers)
        question = (
            f"Using the numbers {numbers}, make an expression that equals {target}. Use every number exactly "
            "once, with the operations +, -, *, / and brackets. Give the expression alone, without an equals sign."
        )
        return Problem(
            f"{sorted(numbers)} -> {target}",
            settings.prompt(question),
            {"numbers": numbers, "target": target, "solution": solution},
            {"ability": "arithmetic", "numbers": count, "difficulty": count},
        )

    task = f"{settings.numbers}/{settings.largest}/{settings.largest_target}"
    return distinct(NAME, task, split, size, seed, draw)


SOURCE = Source(
    NAME, "Countdown: reach a target with given numbers, each used once", CountdownSettings, build
)
