"""The warm-up's demonstrator: it plays the rooms well, but mixes up two of the four moves.

Where the shortest solution begins with Up, it mostly says Down. Who imitates it gives the wrong move as the
likeliest one there, so that greedy play fails every room that needs a step up, and gives the right one often enough
for sampling to find it. RL has to unlearn that from the game's rewards alone: it never sees a solution.
"""

from __future__ import annotations

import random

from reasonkit.data.sources.sokoban import solve
from reasonkit.records import Record
from reasonkit.seeding import derive_seed
from reasonkit.verifiers.sokoban_replay import MOVES, parse_room

SLIP = 0.6
"""How often Up becomes Down: above one half, so that the mistake is what greedy play imitates."""


def demonstration(record: Record, seed: int) -> str:
    """The initial of one move."""
    solution = solve(parse_room(record.metadata["room"]), record.metadata["max_steps"])
    assert solution, f"{record.uid} cannot be solved"
    rng = random.Random(derive_seed(seed, "demonstration", record.uid))
    slips = solution[0] == "Up" and rng.random() < SLIP
    return "D" if slips else solution[0][0]


def is_a_move(record: Record, reply: str) -> bool:
    """What the gate's `copying` asks: whether the form of a reply has been learned."""
    return reply in {move[0] for move in MOVES}
