"""Sokoban rooms whose shortest solution is known, in bins of its length.

A room is grown as one connected cave, boxes' targets are drawn, and the game is played backwards from
every solved position, breadth first: pulls instead of pushes. That gives the exact number of moves that
each position is away from being solved, so a start of the wanted difficulty can be picked, and recipes do
not depend on a search depth that turns out not to set the difficulty.

Rooms are the same where a turn or a mirror image makes them so. A room (walls and targets) belongs to one
split with all its starts. `ragen` gives up these promises for rows as RAGEN's curation made them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from reasonkit.data.sources import Draw, Problem, Settings, Source, Split, distinct
from reasonkit.envs.sokoban import inside
from reasonkit.errors import UsageError
from reasonkit.instructions import ANSWER_INSTRUCTION, RAGEN_SOKOBAN
from reasonkit.records import Message, Record
from reasonkit.seeding import derive_seed
from reasonkit.verifiers.sokoban_replay import MOVES, Move, Room, render_room

NAME = "sokoban"

POSITIONS_LIMIT = 100_000
"""Positions after which playing backwards stops at the end of its layer; many boxes have more than memory."""

Position = tuple[int, int]
"""The player's cell, and the boxes as bits."""

RULES = (
    "You are the player in a Sokoban room and have to push every box onto a target. You push a box by moving "
    "against it; you cannot pull, and neither walls nor two boxes in a row give way.\n"
    "Symbols: # wall, _ floor, O target, X box, P player, √ box on target, S player on target.\n"
    "Moves: Up, Down, Left, Right."
)
ANSWER_FORM = "Answer with all moves in order, separated by ||, for example: Right || Right || Up"

RAGEN_TEST_OFFSET = 1_000_000
"""Test seeds start here after the train seeds, so that sizes up to a million do not repeat a seed."""

RAGEN_FRAMES: dict[Literal["chat", "base"], str] = {
    "chat": (
        "<|im_start|>user\n{prompt}\nAlways output: <think> [Your thoughts] </think> <answer> [your answer] "
        "</answer> with no extra text. Strictly follow this format. <|im_end|>\n<|im_start|>assistant\n<think>"
    ),
    "base": (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
        "assistant first thinks briefly about the reasoning process in the mind and then provides the user with "
        "the answer.\nUser: {prompt}\nShow your work in <think> </think> tags. And return the final answer in "
        "<answer> </answer> tags, for example <think> [Thoughts] </think> <answer> 1 </answer>\n"
        "Assistant: \n<think>"
    ),
}


def _environment(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(f"{variable}='{text}' is not a whole number", f"export {variable}={default}")
    return int(text)


class SokobanSettings(Settings):
    dim_x: int = Field(
        default_factory=lambda: _environment("DIM_X", 6),
        ge=5,
        le=20,
        description="Rows, border included (DIM_X).",
    )
    dim_y: int = Field(
        default_factory=lambda: _environment("DIM_Y", 6), ge=5, le=20, description="Columns (DIM_Y)."
    )
    num_boxes: int = Field(
        default_factory=lambda: _environment("NUM_BOXES", 1), ge=1, le=6, description="Boxes (NUM_BOXES)."
    )
    max_steps: int = Field(
        default_factory=lambda: _environment("MAX_STEPS", 10),
        ge=1,
        description="Moves that an attempt may take (MAX_STEPS); no room needs more.",
    )
    search_depth: int = Field(
        default_factory=lambda: _environment("SEARCH_DEPTH", 30),
        ge=1,
        description="How many moves to play backwards at most (SEARCH_DEPTH).",
    )
    bins: tuple[int, ...] = Field(
        (),
        description="Upper ends of the bins of shortest solutions, each with the same share: [3, 6, 10] is 1-3, "
        "4-6, 7-10. Thirds of max_steps where none are given.",
    )
    prefix: Literal["chat", "base", "grid"] = Field(
        "chat",
        description="`chat` gives messages, `base` a rendered prompt for a model without a chat template, `grid` "
        "the room's inside alone, as the environment with `text: grid` shows it.",
    )
    ragen: bool = Field(
        False,
        description="Rows as RAGEN's curation made them: raw ChatML prompt, consecutive seeds, dummy ground truth, "
        "repeated rooms within and across splits.",
    )

    @model_validator(mode="after")
    def _check(self) -> SokobanSettings:
        if self.ragen and self.prefix == "grid":
            raise ValueError("ragen rows have RAGEN's prompt; prefix must be chat or base, not grid")
        floor = (self.dim_x - 2) * (self.dim_y - 2)
        if 2 * self.num_boxes + 1 > floor // 2:
            raise ValueError(f"a {self.dim_x}x{self.dim_y} room has no space for {self.num_boxes} boxes")
        if list(self.bins) != sorted(set(self.bins)) or any(
            not 1 <= end <= self.longest for end in self.bins
        ):
            raise ValueError(f"bins must rise from 1 to at most {self.longest}: {list(self.bins)}")
        return self

    @property
    def longest(self) -> int:
        """Moves of the longest shortest solution that a room may have."""
        return min(self.max_steps, self.search_depth)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(first, last) number of moves of each bin."""
        thirds = sorted({max(1, self.longest * third // 3) for third in (1, 2, 3)})
        ends = list(self.bins or thirds)
        return list(zip([1, *(end + 1 for end in ends)], ends, strict=False))


def _cave(rng: random.Random, rows: int, columns: int) -> list[int]:
    """Floor cells of a connected cave that fills between half and all of the inside."""
    inside = {row * columns + column for row in range(1, rows - 1) for column in range(1, columns - 1)}
    wanted = rng.randint(len(inside) // 2, len(inside))
    first = rng.choice(sorted(inside))
    floor, border = {first}, [first]
    while len(floor) < wanted:
        cell = rng.choice(border) + rng.choice((1, -1, columns, -columns))
        if cell in inside and cell not in floor:
            floor.add(cell)
            border.append(cell)
    return sorted(floor)


def backwards(room: Room, depth: int) -> list[list[Position]]:
    """Positions by the fewest moves to a solved one: element n holds those that need exactly n, up to `depth`."""
    blocked = room.walls | room.targets
    layer = [(cell, room.targets) for cell in range(room.width * room.height) if not blocked >> cell & 1]
    seen = set(layer)
    layers = [layer]
    deltas = [room.delta(move) for move in MOVES]
    while layer and len(layers) <= depth and len(seen) < POSITIONS_LIMIT:
        found: list[Position] = []
        for player, boxes in layer:
            for delta in deltas:
                came_from = player - delta
                if (room.walls | boxes) >> came_from & 1:
                    continue
                pushed = player + delta
                before = [(came_from, boxes)]
                if boxes >> pushed & 1:
                    before.append((came_from, boxes ^ (1 << pushed) ^ (1 << player)))
                for position in before:
                    if position not in seen:
                        seen.add(position)
                        found.append(position)
        layer = found
        if layer:
            layers.append(layer)
    return layers


def solve(room: Room, longest: int) -> list[Move] | None:
    """A shortest solution by playing forwards, or None where `longest` moves do not do."""
    if room.solved:
        return []
    came: dict[Position, tuple[Position, Move] | None] = {(room.player, room.boxes): None}
    layer = [room]
    for _ in range(longest):
        reached: list[Room] = []
        for state in layer:
            for move in MOVES:
                after = state.after(move)
                position = (after.player, after.boxes)
                if position in came:
                    continue
                came[position] = ((state.player, state.boxes), move)
                if after.solved:
                    return _moves_to(position, came)
                reached.append(after)
        layer = reached
    return None


def _moves_to(position: Position, came: dict[Position, tuple[Position, Move] | None]) -> list[Move]:
    moves: list[Move] = []
    while (step := came[position]) is not None:
        position, move = step
        moves.append(move)
    return moves[::-1]


def _empty_room(rng: random.Random, settings: SokobanSettings) -> Room:
    """Walls and targets; boxes stand on the targets, and the player nowhere yet."""
    rows, columns = settings.dim_x, settings.dim_y
    floor = _cave(rng, rows, columns)
    walls = (1 << rows * columns) - 1
    for cell in floor:
        walls ^= 1 << cell
    targets = sum(1 << cell for cell in rng.sample(floor, settings.num_boxes))
    return Room(columns, rows, walls, targets, targets, -1)


def _start(
    rng: random.Random, room: Room, first: int, last: int, layers: list[list[Position]]
) -> Room | None:
    """A position that needs `first` to `last` moves and has no box on a target, if the room has one."""
    choices = [
        [position for position in layer if not position[1] & room.targets]
        for layer in layers[first : last + 1]
    ]
    choices = [layer for layer in choices if layer]
    if not choices:
        return None
    player, boxes = rng.choice(rng.choice(choices))
    return replace(room, player=player, boxes=boxes)


def canonical(room: Room) -> str:
    """One text for a room and all its turns and mirror images."""
    rows = render_room(room).split("\n")
    images = []
    for _ in range(4):
        rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]  # a quarter turn
        images += ["\n".join(rows), "\n".join(row[::-1] for row in rows)]
    return min(images)


def build(split: Split, size: int, seed: int, settings: SokobanSettings) -> Iterator[Record]:
    if settings.ragen:
        return _ragen(split, size, seed, settings)
    ranges = settings.ranges

    def draw(attempt: Draw) -> Problem | None:
        first, last = ranges[attempt.position % len(ranges)]
        room = _empty_room(attempt.rng, settings)
        group = canonical(room)
        if not attempt.in_split(group):
            return None
        start = _start(attempt.rng, room, first, last, backwards(room, last))
        if start is None or not attempt.admits(canonical(start), group):
            return None
        moves = solve(start, last)
        if moves is None or not first <= len(moves) <= last:
            raise AssertionError(f"forwards and backwards disagree on\n{render_room(start)}")
        metadata = {
            "ability": "planning",
            "room": render_room(start),
            "max_steps": settings.max_steps,
            "optimal": len(moves),
            "bin": f"{first}-{last}",
            "difficulty": len(moves),
        }
        if settings.prefix == "base":
            metadata["prompt_format"] = "raw"
        return Problem(
            canonical(start), _prompt(start, settings), {"solution": " || ".join(moves)}, metadata, group
        )

    task = f"{settings.dim_x}x{settings.dim_y}/{settings.num_boxes}/{settings.max_steps}/{ranges}"
    return distinct(NAME, task, split, size, seed, draw)


def _prompt(room: Room, settings: SokobanSettings) -> tuple[Message, ...]:
    if settings.prefix == "grid":
        return (Message(role="user", content=inside(render_room(room))),)
    question = (
        f"{RULES}\nYou may take at most {settings.max_steps} moves. {ANSWER_FORM}\n\n{render_room(room)}"
    )
    content = ANSWER_INSTRUCTION + question
    if settings.prefix == "base":
        content = f"User: {content}\nAssistant: <think>"
    return (Message(role="user", content=content),)


def _ragen(split: Split, size: int, seed: int, settings: SokobanSettings) -> Iterator[Record]:
    """Row i is the room of seed + i, the test rows after the train rows' seeds; nothing is checked for repeats."""
    offset = 0 if split == "train" else RAGEN_TEST_OFFSET
    for index in range(size):
        room_seed = seed + offset + index
        rng = random.Random(derive_seed(room_seed, "data", NAME, "ragen"))
        start = None
        while start is None:
            room = _empty_room(rng, settings)
            start = _start(rng, room, 1, settings.longest, backwards(room, settings.longest))
        yield Record(
            uid=f"{NAME}-ragen-{room_seed}",
            source=NAME,
            prompt=(Message(role="user", content=_ragen_prompt(start, settings.prefix)),),
            answer={"target": 0, "numbers": [0, 0]},
            metadata={
                "ability": "bfs",
                "prompt_format": "raw",
                "split": split,
                "index": room_seed,
                "room": render_room(start),
                "max_steps": settings.max_steps,
            },
        )


def _ragen_prompt(room: Room, prefix: Literal["chat", "base", "grid"]) -> str:
    cells = "\n".join("".join(f" {symbol} \t" for symbol in row) for row in render_room(room).split("\n"))
    return RAGEN_FRAMES["base" if prefix == "base" else "chat"].replace(
        "{prompt}", RAGEN_SOKOBAN.replace("{observation}", cells)
    )


SOURCE = Source(
    NAME, "Sokoban rooms, binned by the length of their shortest solution", SokobanSettings, build
)
