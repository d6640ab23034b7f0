"""Frozen lakes: square maps with holes and a way through, for the environment `frozen_lake`.

A lake and its mirror image along the diagonal from start to goal are the same problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from reasonkit.data.sources import Draw, Problem, Settings, Source, Split, distinct
from reasonkit.records import Message, Record

NAME = "frozen_lake"


class FrozenLakeSettings(Settings):
    side: int = Field(4, ge=3, le=12, description="Rows, and columns.")
    holes: float = Field(0.25, ge=0.0, le=0.6, description="How likely a cell is to be a hole.")


def build(split: Split, size: int, seed: int, settings: FrozenLakeSettings) -> Iterator[Record]:
    def draw(attempt: Draw) -> Problem | None:
        side = settings.side
        cells = ["H" if attempt.rng.random() < settings.holes else "F" for _ in range(side * side)]
        cells[0], cells[-1] = "S", "G"
        rows = ["".join(cells[row * side : (row + 1) * side]) for row in range(side)]
        steps = shortest_way(rows)
        if steps is None:
            return None
        lake = "\n".join(rows)
        mirrored = "\n".join("".join(column) for column in zip(*rows, strict=True))
        return Problem(
            min(lake, mirrored),
            (Message(role="user", content=lake),),
            None,
            {"ability": "planning", "lake": lake, "optimal": steps, "difficulty": steps},
        )

    return distinct(NAME, f"{settings.side}/{settings.holes}", split, size, seed, draw, verifier="by_env")


def shortest_way(rows: Sequence[str]) -> int | None:
    """Steps from the first cell to the last without a hole; None where there is no way."""
    side, reached, border, steps = len(rows), {(0, 0)}, {(0, 0)}, 0
    while border and (side - 1, side - 1) not in border:
        border = {
            (row + down, column + right)
            for row, column in border
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= row + down < side
            and 0 <= column + right < side
            and rows[row + down][column + right] != "H"
        } - reached
        reached |= border
        steps += 1
    return steps if border else None


SOURCE = Source(
    NAME, "Frozen lakes with a way through, for the environment of this name", FrozenLakeSettings, build
)
