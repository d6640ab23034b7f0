"""The warm-up's demonstrator: it knows how to push a box, and not where to.

It walks the shortest way to the box and pushes it on, wherever that leads; every now and then it does the right thing.
Who imitates it pushes boxes the wrong way as a rule, yet the right way often enough for sampling to find it: what
RL has to unlearn is not where the moves are on the keyboard, but what the game is about.
"""

from __future__ import annotations

import random

from reasonkit.data.sources.sokoban import solve
from reasonkit.records import Record
from reasonkit.seeding import derive_seed
from reasonkit.verifiers.sokoban_replay import MOVES, Move, Room, parse_room

RIGHT = 0.2
"""How often it makes the first move of a shortest solution."""


def demonstration(record: Record, seed: int) -> str:
    """The initial of one move."""
    room = parse_room(record.metadata["room"])
    rng = random.Random(derive_seed(seed, "demonstration", record.uid))
    if rng.random() < RIGHT:
        solution = solve(room, record.metadata["max_steps"])
        assert solution
        return solution[0][0]
    return rng.choice(pushing(room))[0]


def is_a_move(record: Record, reply: str) -> bool:
    """What the gate's `copying` asks: whether the form of a reply has been learned."""
    return reply in {move[0] for move in MOVES}


def pushing(room: Room) -> list[Move]:
    """The first moves of the shortest ways to push the box, no matter where to."""
    came: dict[int, set[Move]] = {room.player: set()}
    border = [room]
    while border:
        found = {
            first
            for state in border
            for move in MOVES
            if state.after(move).boxes != room.boxes
            for first in (came[state.player] or {move})
        }
        if found:
            return sorted(found)
        reached: list[Room] = []
        for state in border:
            for move in MOVES:
                after = state.after(move)
                if after.player not in came:
                    came[after.player] = came[state.player] or {move}
                    reached.append(after)
        border = reached
    return list(MOVES)
