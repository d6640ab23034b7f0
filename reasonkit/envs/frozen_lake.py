"""Frozen lake: walk over the ice to the goal without falling into a hole. A small game for contrast to Sokoban.

The lake is text, one symbol a cell: `S` start, `F` ice, `H` hole, `G` goal; the player is shown as `P`. Reaching
the goal earns 1 and nothing else does, as in Gymnasium's game of this name. On slippery ice a step goes where it
should one time in three and sideways otherwise, by the episode's own draws.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from reasonkit.engines import Reply
from reasonkit.envs import Env, Step, closing, first_tagged
from reasonkit.errors import UsageError
from reasonkit.records import Message, Record, Verdict

MOVES: Mapping[str, tuple[int, int]] = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
"""(rows, columns) of each move, in an order in which neighbours are at right angles."""
NAMES = tuple(MOVES)

RULES = (
    "You walk over a frozen lake and have to reach the goal without falling into a hole.\n"
    "Symbols: P you, F ice, H hole, G goal. Moves: Left, Down, Right, Up. The border holds you back.{slippery}\n"
    "Think first, then give your move as <{tag}>Right</{tag}>{several}.\n\n{lake}"
)
SLIPPERY = " The ice is slippery: you may slide sideways."
SEVERAL = ", or up to {most} moves in a row as <{tag}>Right || Down</{tag}>"


class FrozenLake(Env):
    """Walk over the ice to the goal; the only reward is at the end."""

    def __init__(
        self,
        *,
        max_turns: int = 10,
        actions_per_turn: int = 1,
        slippery: bool = False,
        format_penalty: float = 0.0,
        answer_tag: str = "answer",
    ) -> None:
        self.stop = closing(answer_tag)
        self._max_turns = max_turns
        self._actions_per_turn = actions_per_turn
        self._slippery = slippery
        self._format_penalty = format_penalty
        self._tag = answer_tag
        self._turns = 0
        self._place = (0, 0)

    async def reset(self, record: Record, seed: int) -> list[Message]:
        if "lake" not in record.metadata:
            raise UsageError(
                f"record {record.uid} of {record.source} holds no lake", "reasonkit data build frozen_lake"
            )
        self._lake: list[str] = record.metadata["lake"].split("\n")
        self._rng = random.Random(seed)
        several = (
            SEVERAL.format(most=self._actions_per_turn, tag=self._tag) if self._actions_per_turn > 1 else ""
        )
        slippery = SLIPPERY if self._slippery else ""
        content = RULES.format(tag=self._tag, several=several, slippery=slippery, lake=self._shown())
        return [Message(role="user", content=content)]

    async def step(self, reply: Reply) -> Step:
        self._turns += 1
        moves = self._read(reply.text)
        for name in moves or ():
            self._move(name)
        ended = self._under in "HG"
        truncated = not ended and self._turns == self._max_turns
        said = "That is no move." if moves is None else f"You are here now:\n{self._shown()}"
        return Step(
            [] if ended or truncated else [Message(role="user", content=said)],
            reward=float(self._under == "G") - (self._format_penalty if moves is None else 0.0),
            done=ended,
            truncated=truncated,
            info={"moves": moves or [], "readable": moves is not None},
            verdict=self._verdict(),
        )

    def _read(self, text: str) -> list[str] | None:
        answer = first_tagged(text, self._tag)
        if answer is None:
            return None
        words = [word.strip().lower() for word in answer.split("||")]
        return words[: self._actions_per_turn] if all(word in MOVES for word in words) else None

    @property
    def _under(self) -> str:
        """What the player stands on."""
        row, column = self._place
        return self._lake[row][column]

    def _move(self, name: str) -> None:
        if self._under in "HG":
            return
        turn = self._rng.choice((-1, 0, 1)) if self._slippery else 0
        rows, columns = MOVES[NAMES[(NAMES.index(name) + turn) % len(NAMES)]]
        row, column = self._place[0] + rows, self._place[1] + columns
        if 0 <= row < len(self._lake) and 0 <= column < len(self._lake[0]):
            self._place = (row, column)

    def _shown(self) -> str:
        return "\n".join(
            "".join(
                "P" if (row, column) == self._place else "F" if cell == "S" else cell
                for column, cell in enumerate(line)
            )
            for row, line in enumerate(self._lake)
        )

    def _verdict(self) -> Verdict:
        where = f"row {self._place[0] + 1}, column {self._place[1] + 1}"
        if self._under == "G":
            return Verdict.correct(where, f"reached the goal in turn {self._turns}", turns=self._turns)
        return Verdict.wrong(where, "fell into a hole" if self._under == "H" else "did not reach the goal")
