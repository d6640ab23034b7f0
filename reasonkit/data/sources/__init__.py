"""What a source of records is, and the loop that every procedural source draws its problems with.

A source is a `Source`: a name, one line about it, a settings model and a `build` function. Three
promises hold for all procedural sources, because `distinct` keeps them in one place:

- the same seed gives the same bytes: each draw has its own generator, seeded by a hash of what it is for;
- no two records of a set are the same problem: problems are told apart by a canonical key, not by wording;
- train and test never share a problem, at any sizes and seeds: a problem's key alone decides its split.

Sources import no heavy packages at module level; `reasonkit list data` imports all of them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from reasonkit.errors import ReasonkitError
from reasonkit.instructions import with_instruction
from reasonkit.records import Message, Record
from reasonkit.seeding import derive_seed

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

TEST_SHARE = 5
"""One problem in this many belongs to the test split, by the hash of its key."""

PATIENCE = 2_000
"""Fruitless draws in a row after which a source's variety counts as exhausted."""


class Settings(BaseModel):
    """Base of every source's settings: unknown keys are errors, nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QuestionSettings(Settings):
    """Settings of sources whose prompt is one question."""

    add_instructions: bool = Field(
        True, description="Put the unified answer instruction (`<answer>…</answer>`) before the question."
    )

    def prompt(self, question: str) -> tuple[Message, ...]:
        return (Message(role="user", content=with_instruction(question, self.add_instructions)),)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Choices = Annotated[tuple[int, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""Levels that records take in turn, so that each level gets the same share; one number is a list of one."""

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Source(Generic[S]):
    name: str
    about: str
    """One line for listings."""
    settings: type[S]
    build: Callable[[Split, int, int, S], Iterator[Record]]
    """(split, size, seed, settings) -> that many records; at most that many where they come from raw files."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a draw makes: a Record but for its name."""

    key: str
    """Canonical: equal exactly where two problems are the same but for wording."""
    prompt: tuple[Message, ...]
    answer: Any
    metadata: Mapping[str, Any]
    group: str = ""
    """What decides the split, where several problems share it: a room with many starts. The key if empty."""


class Admits(Protocol):
    def __call__(self, key: str, group: str = "") -> bool:
        """Whether such a problem is wanted: in this split, and new. Ask before costly work."""
        ...


@dataclass(frozen=True, slots=True)
class Draw:
    """What one attempt at a problem gets to work with."""

    rng: random.Random
    seed: int
    """What `rng` was seeded with; recorded, so that any record can be drawn again alone."""
    position: int
    """Of the record that this attempt is for; cycles through difficulty levels."""
    admits: Admits
    in_split: Callable[[str], bool]
    """Whether problems of a group belong to this split."""


def split_of(source: str, group: str) -> Split:
    """The split that a group of problems belongs to (mostly one problem), whatever the seed and the sizes."""
    return "test" if digest(source, group) % TEST_SHARE == 0 else "train"


def distinct(
    source: str,
    task: str,
    split: Split,
    size: int,
    seed: int,
    draw: Callable[[Draw], Problem | None],
    *,
    verifier: str | None = None,
    patience: int = PATIENCE,
) -> Iterator[Record]:
    """`size` records of `split`, no two of them the same problem. `draw` gives None where an attempt failed."""
    seen: set[int] = set()

    def in_split(group: str) -> bool:
        return split_of(source, group) == split

    def admits(key: str, group: str = "") -> bool:
        return digest(source, key) not in seen and in_split(group or key)

    attempt = 0
    for position in range(size):
        for _ in range(patience):
            item_seed = derive_seed(seed, "data", source, task, split, attempt)
            attempt += 1
            problem = draw(Draw(random.Random(item_seed), item_seed, position, admits, in_split))
            if problem is not None and admits(problem.key, problem.group):
                break
        else:
            raise ReasonkitError(
                f"{source} has only about {len(seen)} different {split} problems with these settings; "
                f"{size} were asked for",
                "ask for a smaller --size, or widen the settings with --set",
            )
        identity = digest(source, problem.key)
        seen.add(identity)
        yield Record(
            uid=f"{source}-{identity:016x}",
            source=source,
            prompt=problem.prompt,
            answer=problem.answer,
            verifier=verifier,
            metadata={**problem.metadata, "split": split, "index": position, "item_seed": item_seed},
        )


def digest(source: str, key: str) -> int:
    """What a problem of `source` is known by: 64 bits of a hash of its key."""
    return int.from_bytes(hashlib.blake2b(f"{source}\x1f{key}".encode(), digest_size=8).digest(), "big")
