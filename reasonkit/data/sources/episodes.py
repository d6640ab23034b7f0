"""Numbered episodes: records that hold nothing but a seed, for environments that make their own problems.

A Gymnasium game or a user's own environment draws its problem from `metadata["seed"]`. The seeds of train and test
differ; whether their problems do is for the environment to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from reasonkit.data.sources import Draw, Problem, Settings, Source, Split, distinct
from reasonkit.records import Message, Record

NAME = "episodes"
SEEDS = 2**31
"""What Gymnasium's games take."""


class EpisodesSettings(Settings):
    pass


def build(split: Split, size: int, seed: int, settings: EpisodesSettings) -> Iterator[Record]:  # noqa: ARG001
    def draw(attempt: Draw) -> Problem:
        drawn = attempt.rng.randrange(SEEDS)
        message = Message(role="user", content=f"Episode {drawn}")
        return Problem(str(drawn), (message,), None, {"seed": drawn})

    return distinct(NAME, "", split, size, seed, draw, verifier="by_env")


SOURCE = Source(
    NAME, "Numbered episodes, for environments that make their own problems", EpisodesSettings, build
)
