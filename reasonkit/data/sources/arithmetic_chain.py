"""Chains of additions and subtractions, worked one step after the other: what the `tiny` preset learns.

    3-1+6=    ->    3-1=2 2+6=8 #8

Totals stay within 0 to 9 and no operand is 0, so there are exactly 10 · 9ⁿ problems of n operations and 90
facts to know. That is little enough for a transformer of 100,000 parameters, and still needs what longer
reasoning needs: find the next operation, carry the last result, stop at the end.

The demonstrator makes one mistake, and makes it as a rule: counting back by a large number, it counts the
number it starts from as the first, and ends one too high (`9-5=5`). Who imitates it gives the wrong result as
the likeliest one, so greedy replies are wrong too, yet gives the right one often enough for sampling to find it.
As all slips go up, two of them never cancel: a right answer means right steps.

The demonstrator is for warm-up alone. Rewards never see it; they compare the final answer (`exact`).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field

from reasonkit.data.sources import Choices, Draw, Problem, Settings, Source, Split, distinct
from reasonkit.records import Message, Record
from reasonkit.seeding import derive_seed

NAME = "arithmetic_chain"

SLIPS_FROM = 4
"""The smallest number that the demonstrator miscounts when it takes it away. A third of all problems have none."""

SLIP_SHARE = 0.8
"""How often it does: above one half, so that the mistake is what greedy decoding imitates."""


def _lengths(values: tuple[int, ...]) -> tuple[int, ...]:
    outside = [value for value in values if not 1 <= value <= 12]
    if outside:
        raise ValueError(f"operations must be 1 to 12, not {outside[0]}")
    return values


class ArithmeticChainSettings(Settings):
    operations: Annotated[Choices, AfterValidator(_lengths)] = Field(
        (2, 3, 4, 5), description="How many operations; a list gives every count the same share."
    )


def build(split: Split, size: int, seed: int, settings: ArithmeticChainSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem:
        count = settings.operations[attempt.position % len(settings.operations)]
        totals = [attempt.rng.randrange(10)]
        while len(totals) <= count:
            # Any other digit is one allowed operation away, so all chains of a length are equally likely.
            totals.append(attempt.rng.choice([total for total in range(10) if total != totals[-1]]))
        operations = (after - before for before, after in itertools.pairwise(totals))
        question = f"{totals[0]}{''.join(f'{operation:+d}' for operation in operations)}="
        return Problem(
            question,
            (Message(role="user", content=question),),
            str(totals[-1]),
            {"ability": "arithmetic", "operations": count, "difficulty": count},
        )

    return distinct(NAME, str(settings.operations), split, size, seed, draw, verifier="exact")


def solution(record: Record) -> str:
    """The reply without a mistake."""
    start, operations = _chain(record)
    return _written_out(start, operations, [0] * len(operations))


def demonstration(record: Record, seed: int) -> str:
    """What the demonstrator replies: every step copied rightly, some counted wrongly. `seed` decides which."""
    start, operations = _chain(record)
    rng = random.Random(derive_seed(seed, "demonstration", NAME, record.uid))
    slips = [int(operation <= -SLIPS_FROM and rng.random() < SLIP_SHARE) for operation in operations]
    return _written_out(start, operations, slips)


def copies_rightly(record: Record, reply: str) -> bool:
    """Whether `reply` takes every operation in turn, carries every result on, and answers with the last one.

    The results themselves may be wrong: this measures whether the form of the reasoning has been learned.
    """
    start, operations = _chain(record)
    *steps, final = reply.split(" ")
    if len(steps) != len(operations):
        return False
    total = str(start)
    for step, operation in zip(steps, operations, strict=True):
        taken, _, result = step.partition("=")
        if taken != f"{total}{operation:+d}" or not (result.isascii() and result.isdecimal()):
            return False
        total = result
    return final == f"#{total}"


def _chain(record: Record) -> tuple[int, list[int]]:
    """The number that a record's question starts from, and the signed numbers that follow."""
    start, *operations = map(int, re.findall(r"[+-]?\d+", record.prompt[-1]["content"]))
    return start, operations


def _written_out(start: int, operations: list[int], slips: list[int]) -> str:
    total, steps = start, []
    for operation, slip in zip(operations, slips, strict=True):
        result = total + operation + slip
        steps.append(f"{total}{operation:+d}={result}")
        total = result
    return f"{' '.join(steps)} #{total}"


SOURCE = Source(
    NAME,
    "Chains of additions and subtractions within 0 to 9, small enough for `tiny`",
    ArithmeticChainSettings,
    build,
)
