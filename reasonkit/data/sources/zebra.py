"""Zebra puzzles: who lives where, with what? A grid of attributes, clues, exactly one filling that fits.

Without loss of generality value i of every attribute belongs to house i, and words are dealt afterwards.
Clues are found by counterexample: while another filling fits the clues so far, a random true clue that
it breaks is added; what is not needed in the end is dropped. So the solver never runs on a hopelessly
open puzzle, and needs no time limit.

The solver keeps, for every value, the houses that it may be in as the bits of an integer.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from reasonkit.data.sources import Choices, Draw, Problem, QuestionSettings, Source, Split, distinct
from reasonkit.records import Record

NAME = "zebra"

# fmt: off
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Name": ("Alice", "Bob", "Carol", "David", "Eric", "Fiona", "Grace", "Henry", "Irene"),
    "Colour": ("red", "blue", "green", "white", "yellow", "purple", "orange", "brown", "grey"),
    "Pet": ("dog", "cat", "horse", "fish", "parrot", "rabbit", "hamster", "tortoise", "snake"),
    "Drink": ("tea", "coffee", "milk", "water", "juice", "lemonade", "cocoa", "cider", "soda"),
    "Job": ("doctor", "teacher", "engineer", "artist", "lawyer", "baker", "nurse", "pilot", "farmer"),
    "Sport": ("tennis", "golf", "chess", "rowing", "judo", "cycling", "fencing", "sailing", "rugby"),
    "Fruit": ("apple", "banana", "cherry", "grape", "mango", "peach", "pear", "plum", "lime"),
    "Instrument": ("piano", "violin", "flute", "guitar", "drums", "cello", "harp", "trumpet", "oboe"),
}
# fmt: on

WORDING = {
    "Name": "{value}",
    "Colour": "the person with the {value} house",
    "Pet": "the owner of the {value}",
    "Drink": "the person who drinks {value}",
    "Job": "the {value}",
    "Sport": "the person who does {value}",
    "Fruit": "the person who likes the {value} best",
    "Instrument": "the person who plays the {value}",
}


class Clue(NamedTuple):
    kind: str
    a: int
    """A value, numbered attribute by attribute: `attribute * houses + house of the solution`."""
    b: int
    """Another value; for `place` and `not_place` a house."""


def _within(values: tuple[int, ...]) -> tuple[int, ...]:
    outside = [value for value in values if not 2 <= value <= 8]
    if outside:
        raise ValueError(f"must be 2 to 8, not {outside[0]}")
    return values


class ZebraSettings(QuestionSettings):
    houses: Annotated[Choices, AfterValidator(_within)] = Field(
        (3, 4, 5), description="How many houses; a list gives every number the same share."
    )
    attributes: Annotated[Choices, AfterValidator(_within)] = Field(
        (3, 4, 5), description="How many attributes, the name included; a list is cycled after houses."
    )


@functools.cache
def true_clues(houses: int, attributes: int) -> dict[str, tuple[Clue, ...]]:
    """By kind, every clue that is true where value i of each attribute is in house i."""
    values = range(houses * attributes)
    crossing = [(a, b) for a, b in combinations(values, 2) if a // houses != b // houses]
    every = [(a, b) for a, b in permutations(values, 2) if a % houses != b % houses]
    return {
        "same": tuple(Clue("same", a, b) for a, b in crossing if a % houses == b % houses),
        "not_same": tuple(Clue("not_same", a, b) for a, b in crossing if a % houses != b % houses),
        "left": tuple(Clue("left", a, b) for a, b in every if a % houses < b % houses),
        "just_left": tuple(Clue("just_left", a, b) for a, b in every if a % houses + 1 == b % houses),
        "next_to": tuple(Clue("next_to", a, b) for a, b in every if abs(a % houses - b % houses) == 1),
        "place": tuple(Clue("place", a, a % houses) for a in values),
        "not_place": tuple(
            Clue("not_place", a, h) for a, h in product(values, range(houses)) if a % houses != h
        ),
    }


def holds(clue: Clue, where: list[int]) -> bool:
    """Whether a clue is true of a filling: `where[value]` is a house."""
    kind, a, b = clue
    match kind:
        case "place":
            return where[a] == b
        case "not_place":
            return where[a] != b
        case "same":
            return where[a] == where[b]
        case "not_same":
            return where[a] != where[b]
        case "left":
            return where[a] < where[b]
        case "just_left":
            return where[a] + 1 == where[b]
    return abs(where[a] - where[b]) == 1


class Solver:
    """Fillings of `houses` by `attributes` that fit `clues`, found by propagation and search."""

    def __init__(self, houses: int, attributes: int, clues: list[Clue]) -> None:
        self.houses = houses
        self.full = (1 << houses) - 1
        self.groups = [
            (range(i * houses, (i + 1) * houses), self.full << i * houses) for i in range(attributes)
        ]
        self.domains = [self.full] * (houses * attributes)
        self.binary = [(_NARROWED[kind], a, b, 1 << a | 1 << b) for kind, a, b in clues if kind in _NARROWED]
        self.everything = (1 << houses * attributes) - 1
        for kind, value, house in clues:
            if kind == "place":
                self.domains[value] &= 1 << house
            elif kind == "not_place":
                self.domains[value] &= ~(1 << house)

    def other_than_identity(self, rng: random.Random) -> list[int] | None:
        """A filling that is not the intended one, or None where there is no other."""
        found = self._search(list(self.domains), self.everything, rng)
        intended = [value % self.houses for value in range(len(self.domains))]
        return next((filling for filling in found if filling != intended), None)

    def fillings(self) -> Iterator[list[int]]:
        """All of them."""
        return self._search(list(self.domains), self.everything, random.Random(0))

    def _search(self, domains: list[int], touched: int, rng: random.Random) -> Iterator[list[int]]:
        if not self._propagate(domains, touched):
            return
        sizes = [domain.bit_count() for domain in domains]
        fewest = min([size for size in sizes if size > 1], default=None)
        if fewest is None:
            yield [domain.bit_length() - 1 for domain in domains]
            return
        value = rng.choice([value for value, size in enumerate(sizes) if size == fewest])
        options = [house for house in range(self.houses) if domains[value] >> house & 1]
        rng.shuffle(options)
        options.sort(key=lambda house: house == value % self.houses)  # the intended one last
        for house in options:
            branch = list(domains)
            branch[value] = 1 << house
            yield from self._search(branch, 1 << value, rng)

    def _propagate(self, domains: list[int], touched: int) -> bool:
        """Narrow `domains` until nothing changes; False where a value has nowhere left.

        `touched` has a bit for every value that changed since the domains were last as narrow as can be: only
        clues and attributes with such a value have anything to say.
        """
        while touched:
            changed = 0
            for narrow, a, b, both in self.binary:
                if not both & (touched | changed):
                    continue
                before_a, before_b = domains[a], domains[b]
                left, right = narrow(before_a, before_b)
                if not (left and right):
                    return False
                if left != before_a:
                    domains[a] = left
                    changed |= 1 << a
                if right != before_b:
                    domains[b] = right
                    changed |= 1 << b
            for group, members in self.groups:
                if members & (touched | changed):
                    settled = _all_different(group, self.full, domains)
                    if settled is None:
                        return False
                    changed |= settled
            touched = changed
        return True


def _same(left: int, right: int) -> tuple[int, int]:
    both = left & right
    return both, both


def _not_same(left: int, right: int) -> tuple[int, int]:
    if not right & (right - 1):
        left &= ~right
    if not left & (left - 1):
        right &= ~left
    return left, right


def _just_left(left: int, right: int) -> tuple[int, int]:
    right &= left << 1
    return left & right >> 1, right


def _next_to(left: int, right: int) -> tuple[int, int]:
    right &= left << 1 | left >> 1
    return left & (right << 1 | right >> 1), right


def _left(left: int, right: int) -> tuple[int, int]:
    right &= ~((left & -left) * 2 - 1)  # beyond the leftmost house of the first
    return left & (1 << max(right.bit_length() - 1, 0)) - 1, right  # before the rightmost house of the second


_NARROWED: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "same": _same,
    "not_same": _not_same,
    "just_left": _just_left,
    "next_to": _next_to,
    "left": _left,
}
"""By kind of clue: what is left of the houses of its two values."""


def _all_different(group: range, full: int, domains: list[int]) -> int | None:
    """Values of one attribute take different houses: settle what can be in one place only.

    Gives the bits of the values that changed, or None where two would have to share a house.
    """
    once = twice = settled = 0
    unsettled = []
    for value in group:
        domain = domains[value]
        twice |= once & domain
        once |= domain
        if domain & (domain - 1):
            unsettled.append(value)
        elif settled & domain:
            return None
        else:
            settled |= domain
    if once != full:
        return None
    alone = once & ~twice  # houses that only one value can take
    changed = 0
    for value in unsettled:
        domain = domains[value]
        narrower = domain & alone or domain & ~settled
        if not narrower:
            return None
        if narrower != domain:
            domains[value] = narrower
            changed |= 1 << value
    return changed


def _puzzle(rng: random.Random, houses: int, attributes: int) -> list[Clue]:
    """Clues that only the intended filling fits, none of which could be left out."""
    by_kind = true_clues(houses, attributes)
    kinds = [kind for kind in by_kind if by_kind[kind]]
    clues: list[Clue] = []
    while other := Solver(houses, attributes, clues).other_than_identity(rng):
        while True:
            clue = rng.choice(by_kind[rng.choice(kinds)])
            if not holds(clue, other):
                clues.append(clue)
                break
    for dropped in list(clues):
        rest = [clue for clue in clues if clue is not dropped]
        if Solver(houses, attributes, rest).other_than_identity(rng) is None:
            clues = rest
    return clues


def say(clue: Clue, words: list[str]) -> str:
    """A clue in words. `words[value]` is how the value is spoken of."""
    kind, a, b = clue
    text = {
        "place": f"{words[a]} lives in house {b + 1}.",
        "not_place": f"{words[a]} does not live in house {b + 1}.",
    }.get(kind)
    if text is None:
        relation = {
            "same": "is",
            "not_same": "is not",
            "left": "lives somewhere to the left of",
            "just_left": "lives directly to the left of",
            "next_to": "lives next to",
        }[kind]
        text = f"{words[a]} {relation} {words[b]}."
    return text[0].upper() + text[1:]


def build(split: Split, size: int, seed: int, settings: ZebraSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem | None:
        rng = attempt.rng
        turn, place = divmod(attempt.position, len(settings.houses))
        houses = settings.houses[place]
        attributes = settings.attributes[turn % len(settings.attributes)]
        clues = _puzzle(rng, houses, attributes)
        key = f"{houses}x{attributes}:{sorted(clues)}"
        if not attempt.admits(key):
            return None
        header = ["Name", *rng.sample([name for name in ATTRIBUTES if name != "Name"], attributes - 1)]
        columns = [rng.sample(ATTRIBUTES[name], houses) for name in header]
        rng.shuffle(clues)
        rows = [[str(house + 1), *(column[house] for column in columns)] for house in range(houses)]
        metadata = {
            "ability": "logic",
            "houses": houses,
            "attributes": attributes,
            "clues": len(clues),
            "difficulty": houses * attributes,
        }
        return Problem(
            key,
            settings.prompt(_question(header, columns, clues)),
            {"header": ["House", *header], "rows": rows},
            metadata,
        )

    return distinct(NAME, f"{settings.houses}/{settings.attributes}", split, size, seed, draw)


def _question(header: list[str], columns: list[list[str]], clues: list[Clue]) -> str:
    words = [
        WORDING[name].format(value=value)
        for name, column in zip(header, columns, strict=True)
        for value in column
    ]
    listed = "\n".join(
        f"- {name}: {', '.join(sorted(column))}" for name, column in zip(header, columns, strict=True)
    )
    numbered = "\n".join(f"{i}. {say(clue, words)}" for i, clue in enumerate(clues, 1))
    houses = len(columns[0])
    shape = '{"header": ["House", ' + ", ".join(f'"{name}"' for name in header) + '], "rows": [["1", …], …]}'
    return (
        f"There are {houses} houses in a row, numbered 1 to {houses} from left to right. One person lives in each. "
        f"No two of them share a value of an attribute:\n{listed}\n\nClues:\n{numbered}\n\n"
        f"Who lives where, and with what? Answer in JSON, one row a house: {shape}"
    )


SOURCE = Source(NAME, "Zebra puzzles: one filling of a houses-by-attributes grid fits", ZebraSettings, build)
