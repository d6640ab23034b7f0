"""Graph lookahead: which first step leads to the goal? Found only by looking several steps ahead.

From the start several paths of equal length lead away, and only one of them reaches the goal; a model
that guesses from the names of a fact or two has one chance in as many as there are paths. The length of
the paths is the lookahead, the one dial that sets the difficulty. Names are invented, so that nothing
can be known about them. The facts come in random order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

from reasonkit.data.sources import Choices, Draw, Problem, QuestionSettings, Source, Split, distinct
from reasonkit.records import Record

NAME = "graph"

ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "v",
    "w",
    "z",
)
NUCLEI = ("a", "e", "i", "o", "u")
MIDDLES = ("mp", "rp", "lm", "nt", "rk", "lt", "ng", "st", "rv", "lb")
ENDINGS = ("us", "is", "ex", "or", "um", "ik", "at", "on")


def _lengths(values: tuple[int, ...]) -> tuple[int, ...]:
    outside = [value for value in values if not 1 <= value <= 500]
    if outside:
        raise ValueError(f"lookahead must be 1 to 500, not {outside[0]}")
    return values


class GraphSettings(QuestionSettings):
    lookahead: Annotated[Choices, AfterValidator(_lengths)] = Field(
        (2, 3, 4, 5, 6, 8),
        description="Steps from the start to the goal; a list gives every length the same share.",
    )
    paths: int = Field(3, ge=2, le=9, description="How many paths lead away from the start.")
    detours: float = Field(
        0.3, ge=0, le=1, description="Wrong turns added for each node, none of which can reach the goal."
    )


def _names(rng: random.Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        parts = (rng.choice(ONSETS), rng.choice(NUCLEI), rng.choice(MIDDLES), rng.choice(ENDINGS))
        names["".join(parts)] = None
    return list(names)


def _graph(rng: random.Random, length: int, paths: int, detours: float) -> tuple[list[tuple[int, int]], int]:
    """Edges, and how many nodes there are. Node 0 is the start, node 1 the right first step, `length` the goal."""
    chains = [list(range(1 + length * path, 1 + length * (path + 1))) for path in range(paths)]
    edges = {pair for chain in chains for pair in pairwise([0, *chain])}
    nodes = 1 + paths * length
    wrong = [node for chain in chains[1:] for node in chain]
    for _ in range(round(detours * nodes)):
        # A detour may leave from anywhere but the start, and ends where no way leads to the goal. Numbers
        # within and across wrong chains only grow along it, so it closes no circle.
        origin, end = rng.randrange(1, nodes), rng.choice(wrong)
        if origin < end:
            edges.add((origin, end))
    ordered = sorted(edges)
    rng.shuffle(ordered)
    return ordered, nodes


def _key(edges: list[tuple[int, int]], goal: int) -> str:
    """The facts in their order, with nodes numbered as they first appear: names do not matter, order does."""
    numbers: dict[int, int] = {}
    for edge in edges:
        for node in edge:
            numbers.setdefault(node, len(numbers))
    return repr(([(numbers[a], numbers[b]) for a, b in edges], numbers[0], numbers[goal]))


def build(split: Split, size: int, seed: int, settings: GraphSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem | None:
        rng = attempt.rng
        length = settings.lookahead[attempt.position % len(settings.lookahead)]
        edges, nodes = _graph(rng, length, settings.paths, settings.detours)
        key = _key(edges, length)
        if not attempt.admits(key):
            return None
        names = _names(rng, nodes)
        facts = " ".join(f"From {names[a]} you can go to {names[b]}." for a, b in edges)
        question = (
            f"Every road leads one way only.\n{facts}\nYou are at {names[0]} and want to get to {names[length]}. "
            "Where do you have to go first? Answer with that one name."
        )
        return Problem(
            key,
            settings.prompt(question),
            names[1],
            {"ability": "logic", "lookahead": length, "paths": settings.paths, "difficulty": length},
        )

    task = f"{settings.lookahead}/{settings.paths}/{settings.detours}"
    return distinct(NAME, task, split, size, seed, draw)


SOURCE = Source(NAME, "Graph lookahead: the only first step that leads to the goal", GraphSettings, build)
