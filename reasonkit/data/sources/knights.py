"""Knights and Knaves: who tells the truth? Logic-RL's puzzles and prompt, with a generator of our own.

A world is one assignment of roles to people, and a statement is the set of worlds in which it is true,
held as the bits of one integer. What a speaker says binds: a knight's statement is true, a knave's is
not. A puzzle's solutions are then the intersection of its speakers' sets, so that checking uniqueness
is a handful of integer operations. Statements are those of the K&K data set at depth 2 and width 2.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from reasonkit.data.sources import Choices, Draw, Problem, Settings, Source, Split, distinct
from reasonkit.instructions import LOGIC_RL_SYSTEM as SYSTEM
from reasonkit.records import Message, Record

NAME = "knights"

# fmt: off
NAMES = (
    "Abigail", "Aiden", "Alexander", "Amelia", "Aria", "Aurora", "Ava", "Avery", "Benjamin", "Charlotte",
    "Chloe", "Daniel", "David", "Elizabeth", "Ella", "Emily", "Emma", "Ethan", "Evelyn", "Grace", "Harper",
    "Henry", "Isabella", "Jack", "Jackson", "Jacob", "James", "Joseph", "Liam", "Lily", "Logan", "Lucas",
    "Luke", "Mason", "Matthew", "Mia", "Michael", "Noah", "Olivia", "Oliver", "Owen", "Penelope", "Samuel",
    "Scarlett", "Sebastian", "Sofia", "Sophia", "Victoria", "William", "Zoey",
)
# fmt: on

SAYINGS = (
    '{name} said, "{claim}."',
    '{name} remarked, "{claim}".',
    '{name} stated, "{claim}".',
    '{name} asserted: "{claim}".',
    '{name} commented, "{claim}".',
    '{name} was heard saying, "{claim}".',
    '{name} noted, "{claim}".',
    '"{claim}," {name} declared.',
    '"{claim}," {name} mentioned.',
    '"{claim}" - {name}.',
    'According to {name}, "{claim}".',
    'In a statement by {name}: "{claim}".',
    'In {name}\'s words: "{claim}".',
    "{name} told you that {claim}.",
    "{name} expressed that {claim}.",
)

Expression = tuple[Any, ...]
"""As in the K&K data: ('telling-truth', i), ('lying', i), ('not', e), ('and'|'or'|'->'|'<=>', e, e)."""


def _people(values: tuple[int, ...]) -> tuple[int, ...]:
    outside = [value for value in values if not 2 <= value <= 8]
    if outside:
        raise ValueError(f"people must be 2 to 8, not {outside[0]}")
    return values


class KnightsSettings(Settings):
    people: Annotated[Choices, AfterValidator(_people)] = Field(
        (3, 4, 5, 6, 7), description="How many inhabitants; a list gives every number the same share."
    )
    prompt_format: Literal["messages", "raw"] = Field(
        "messages",
        description="`raw` bakes ChatML and an opened `<think>` into the prompt, as Logic-RL's files have it.",
    )


@functools.cache
def statements(people: int) -> tuple[tuple[tuple[Expression, int], ...], ...]:
    """All statements about `people` inhabitants by form, each with the set of worlds in which it is true."""
    worlds = 1 << people
    everywhere = (1 << worlds) - 1
    knight = [sum(1 << world for world in range(worlds) if world >> i & 1) for i in range(people)]
    leaves: list[tuple[Expression, int]] = []
    for i in range(people):
        leaves += [(("telling-truth", i), knight[i]), (("lying", i), everywhere ^ knight[i])]
    negations = [(("not", leaf), everywhere ^ mask) for leaf, mask in leaves]
    # Two leaves about the same person would be a tautology, a contradiction or a repetition.
    pairs = [(a, b) for a, b in combinations(leaves, 2) if a[0][1] != b[0][1]]
    ordered = [(a, b) for a, b in permutations(leaves, 2) if a[0][1] != b[0][1]]
    return (
        tuple(leaves),
        tuple(negations),
        tuple((("and", a[0], b[0]), a[1] & b[1]) for a, b in pairs),
        tuple((("or", a[0], b[0]), a[1] | b[1]) for a, b in pairs),
        tuple((("->", a[0], b[0]), (everywhere ^ a[1]) | b[1]) for a, b in ordered),
        tuple((("<=>", a[0], b[0]), everywhere ^ a[1] ^ b[1]) for a, b in pairs),
    )


def solutions(said: list[int], people: int) -> int:
    """The worlds, as bits, in which every speaker's statement fits the speaker's role."""
    worlds = (1 << (1 << people)) - 1
    knights = [mask for _, mask in statements(people)[0][::2]]
    for knight, statement in zip(knights, said, strict=True):
        worlds &= ~(knight ^ statement)
    return worlds


def _puzzle(rng: random.Random, people: int) -> tuple[tuple[Expression, ...], int]:
    """Statements with exactly one solution, and that solution: bit i is set where person i is a knight."""
    forms = statements(people)
    while True:
        drawn = [rng.choice(rng.choice(forms)) for _ in range(people)]
        worlds = solutions([mask for _, mask in drawn], people)
        if worlds.bit_count() == 1:
            return tuple(expression for expression, _ in drawn), worlds.bit_length() - 1


def say(expression: Expression, names: list[str]) -> str:
    """A statement in words."""
    match expression:
        case ("telling-truth", person):
            return f"{names[person]} is a knight"
        case ("lying", person):
            return f"{names[person]} is a knave"
        case ("not", ("telling-truth", person)):
            return f"{names[person]} is not a knight"
        case ("not", ("lying", person)):
            return f"{names[person]} is not a knave"
        case ("->", left, right):
            return f"If {say(left, names)} then {say(right, names)}"
        case ("<=>", left, right):
            return f"{say(left, names)} if and only if {say(right, names)}"
        case (joint, left, right):
            return f"{say(left, names)} {joint} {say(right, names)}"
    raise AssertionError(f"no such statement: {expression!r}")


def _quiz(rng: random.Random, names: list[str], said: tuple[Expression, ...]) -> str:
    sentences = [
        rng.choice(SAYINGS).format(name=name, claim=say(expression, names))
        for name, expression in zip(names, said, strict=True)
    ]
    return (
        "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and "
        f"knaves always lie. You meet {len(names)} inhabitants: {', '.join(names[:-1])}, and {names[-1]}. "
        f"{' '.join(sentences)} So who is a knight and who is a knave?"
    )


def _prompt(quiz: str, prompt_format: str) -> tuple[Message, ...]:
    if prompt_format == "raw":
        chatml = f"<|im_start|>system\n{SYSTEM}\n<|im_end|>\n<|im_start|>user\n{quiz}\n<|im_end|>\n"
        return (Message(role="user", content=chatml + "<|im_start|>assistant\n<think>"),)
    return (Message(role="system", content=SYSTEM), Message(role="user", content=quiz))


def build(split: Split, size: int, seed: int, settings: KnightsSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem | None:
        people = settings.people[attempt.position % len(settings.people)]
        said, knights = _puzzle(attempt.rng, people)
        key = repr(said)
        if not attempt.admits(key):
            return None
        names = attempt.rng.sample(NAMES, people)
        roles = [
            f"({i + 1}) {name} is a {'knight' if knights >> i & 1 else 'knave'}"
            for i, name in enumerate(names)
        ]
        metadata = {"ability": "logic", "people": people, "difficulty": people}
        if settings.prompt_format == "raw":
            metadata["prompt_format"] = "raw"
        return Problem(
            key,
            _prompt(_quiz(attempt.rng, names, said), settings.prompt_format),
            {"solution_text_format": "\n".join(roles), "statements": key},
            metadata,
        )

    task = ",".join(map(str, settings.people))
    return distinct(NAME, task, split, size, seed, draw)


SOURCE = Source(
    NAME, "Knights & Knaves, 2-8 people, one solution each, in Logic-RL's format", KnightsSettings, build
)
