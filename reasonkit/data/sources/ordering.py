"""Ordering puzzles: a row of objects, clues about who is where, exactly one order that fits.

Without loss of generality the solution is the order 0, 1, 2, …, and names are dealt afterwards: the true
clues of a size are then always the same, and so are the sets of orders that each allows. Those sets are
the bits of an integer, one bit an order, so a puzzle's remaining orders are an intersection.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Annotated

from pydantic import AfterValidator, Field

from reasonkit.data.sources import Choices, Draw, Problem, QuestionSettings, Source, Split, distinct
from reasonkit.records import Record

NAME = "ordering"

THEMES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "birds",
        "on a branch",
        ("robin", "crow", "owl", "falcon", "quail", "raven", "hawk", "finch", "cardinal"),
    ),
    (
        "books",
        "on a shelf",
        ("atlas", "novel", "diary", "cookbook", "almanac", "thesaurus", "comic", "memoir"),
    ),
    ("fruits", "at a stand", ("mango", "kiwi", "plum", "pear", "apple", "cherry", "papaya", "peach", "lime")),
    (
        "vehicles",
        "at a kerb",
        ("bus", "tractor", "truck", "sedan", "minivan", "limousine", "bicycle", "tram"),
    ),
    ("cups", "on a tray", ("red", "blue", "green", "white", "black", "yellow", "orange", "purple", "grey")),
)

Clue = tuple[str, int, int, int]
"""Kind and up to three objects (or an object and a place); unused places hold -1."""


def _sizes(values: tuple[int, ...]) -> tuple[int, ...]:
    outside = [value for value in values if not 3 <= value <= 7]
    if outside:
        raise ValueError(f"objects must be 3 to 7, not {outside[0]}")
    return values


class OrderingSettings(QuestionSettings):
    objects: Annotated[Choices, AfterValidator(_sizes)] = Field(
        (4, 5, 6, 7),
        description="How many objects stand in the row; a list gives every number the same share.",
    )


@functools.cache
def true_clues(objects: int) -> dict[str, tuple[tuple[Clue, int], ...]]:
    """By kind, every clue that is true of 0, 1, 2, …, with the orders that it allows; bit 0 is the solution."""
    orders = list(permutations(range(objects)))  # order[place] = object; the first is the solution
    at = [[0] * objects for _ in range(objects)]  # at[object][place]
    for bit, order in enumerate(orders):
        for place, thing in enumerate(order):
            at[thing][place] |= 1 << bit
    everything = (1 << len(orders)) - 1

    def before(a: int, b: int) -> int:
        return _any(at[a][p] & at[b][q] for p, q in combinations(range(objects), 2))

    def just_before(a: int, b: int) -> int:
        return _any(at[a][p] & at[b][p + 1] for p in range(objects - 1))

    pairs = list(combinations(range(objects), 2))
    neighbours = [(a, a + 1) for a in range(objects - 1)]
    apart = [(a, b) for a, b in pairs if b - a > 1]
    left = {(a, b): before(a, b) for a, b in permutations(range(objects), 2)}
    touching = {(a, b): just_before(a, b) | just_before(b, a) for a, b in pairs}
    return {
        "left": tuple((("left", a, b, -1), left[a, b]) for a, b in pairs),
        "right": tuple((("right", b, a, -1), left[a, b]) for a, b in pairs),
        "just_left": tuple((("just_left", a, b, -1), just_before(a, b)) for a, b in neighbours),
        "next_to": tuple((("next_to", a, b, -1), touching[a, b]) for a, b in neighbours),
        "not_next_to": tuple((("not_next_to", a, b, -1), everything ^ touching[a, b]) for a, b in apart),
        "between": tuple(
            (("between", b, a, c), left[a, b] & left[b, c] | left[c, b] & left[b, a])
            for a, b, c in combinations(range(objects), 3)
        ),
        "place": tuple((("place", a, a, -1), at[a][a]) for a in range(objects)),
        "not_place": tuple(
            (("not_place", a, p, -1), everything ^ at[a][p]) for a, p in permutations(range(objects), 2)
        ),
    }


def _any(masks: Iterator[int]) -> int:
    return functools.reduce(int.__or__, masks, 0)


def _puzzle(rng: random.Random, objects: int) -> list[Clue]:
    """Clues that leave the solution alone, none of which could be left out."""
    by_kind = true_clues(objects)
    kinds = list(by_kind)
    chosen: list[tuple[Clue, int]] = []
    remaining = (1 << math.factorial(objects)) - 1
    while remaining != 1:
        clue, allows = rng.choice(by_kind[rng.choice(kinds)])
        if remaining & ~allows:
            chosen.append((clue, allows))
            remaining &= allows
    for dropped in list(chosen):
        others = [each for each in chosen if each is not dropped]
        if functools.reduce(int.__and__, (allows for _, allows in others), -1) == 1:
            chosen = others
    return [clue for clue, _ in chosen]


def say(clue: Clue, names: list[str], objects: int) -> str:
    """A clue in words."""
    kind, a, b, c = clue
    match kind:
        case "left":
            return f"The {names[a]} is somewhere to the left of the {names[b]}."
        case "right":
            return f"The {names[a]} is somewhere to the right of the {names[b]}."
        case "just_left":
            return f"The {names[a]} is immediately to the left of the {names[b]}."
        case "next_to":
            return f"The {names[a]} is right next to the {names[b]}."
        case "not_next_to":
            return f"The {names[a]} is not next to the {names[b]}."
        case "between":
            return f"The {names[a]} is somewhere between the {names[b]} and the {names[c]}."
        case "place" if b == objects - 1:
            return f"The {names[a]} is the rightmost."
        case "place":
            return f"The {names[a]} is number {b + 1} from the left."
    return f"The {names[a]} is not number {b + 1} from the left."


def build(split: Split, size: int, seed: int, settings: OrderingSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem | None:
        rng = attempt.rng
        objects = settings.objects[attempt.position % len(settings.objects)]
        clues = _puzzle(rng, objects)
        key = f"{objects}:{sorted(clues)}"
        if not attempt.admits(key):
            return None
        kind, where, things = rng.choice(THEMES)
        names = rng.sample(things, objects)
        rng.shuffle(clues)
        question = (
            f"There are {objects} {kind} in a row {where}: {', '.join(sorted(names))}.\n"
            + "\n".join(say(clue, names, objects) for clue in clues)
            + f"\nIn which order do the {kind} stand, from left to right? "
            "Give a list of all names, such as ['first', 'second', 'third']."
        )
        return Problem(
            key,
            settings.prompt(question),
            names,
            {"ability": "logic", "objects": objects, "clues": len(clues), "difficulty": objects},
        )

    return distinct(NAME, str(settings.objects), split, size, seed, draw)


SOURCE = Source(NAME, "Ordering puzzles: one order of 3-7 objects fits all clues", OrderingSettings, build)
