"""Sokoban, played turn by turn: RAGEN's words, parsing and rewards over the rooms of the `sokoban` source.

Each turn the model answers with one or several moves and is shown the room after them. An action costs 0.1, a box
pushed onto its target earns 1 and pushed off it costs 1, the solved room earns 10: one that is solved in L moves is
worth at most 11 - 0.1 L with one box. What does not read as a move is played as standing still and costs
`format_penalty` on top, which the model is not shown. Rewards and verdict come from the room alone, never from
what the model says of it.
"""

from __future__ import annotations

from typing import Literal

from reasonkit.engines import Reply
from reasonkit.envs import Env, Step, closing, first_tagged
from reasonkit.errors import UsageError
from reasonkit.instructions import RAGEN_SOKOBAN
from reasonkit.records import Message, Record, Verdict
from reasonkit.verifiers.sokoban_replay import SPELLINGS, Move, Room, parse_room, render_room

ACTION = -0.1
BOX = 1.0
SOLVED = 10.0

FORM = "Always output: <think> [Your thoughts] </think> <{tag}> [your answer] </{tag}> with no extra text."
SEVERAL = " You may answer with up to {most} moves in a row, separated by ||."
PLAYED = "After you take this action, the observation is:\n{room}\nreward: {reward:g}\ndone: {done}"
REFUSED = (
    "Action is invalid. You stay in the same position. The observation is:\n{room}\nreward: {reward:g}\n"
    "done: {done}"
)


class Sokoban(Env):
    """RAGEN's game of pushing boxes onto targets, several turns long, with rewards for every move."""

    def __init__(
        self,
        *,
        max_turns: int = 5,
        actions_per_turn: int = 1,
        max_actions: int | None = None,
        format_penalty: float = 1.0,
        answer_tag: str = "answer",
        text: Literal["ragen", "grid"] = "ragen",
        memory: bool = True,
    ) -> None:
        """`max_actions` ends the episode; null takes the record's `max_steps`. Moves beyond `actions_per_turn` are
        not played. `text: grid` shows nothing but the room's inside, and with an empty `answer_tag` the whole reply
        is moves: for models that learn the game from nothing. Without `memory` a turn shows the present room alone.
        """
        self.stop = closing(answer_tag)
        self._max_turns = max_turns
        self._actions_per_turn = actions_per_turn
        self._max_actions = max_actions
        self._format_penalty = format_penalty
        self._tag = answer_tag
        self._text = text
        self._memory = memory
        self._played: list[Move] = []
        self._turns = 0

    async def reset(self, record: Record, seed: int) -> list[Message]:
        if "room" not in record.metadata:
            raise UsageError(
                f"record {record.uid} of {record.source} holds no room", "reasonkit data build sokoban"
            )
        self._room: Room = parse_room(record.metadata["room"])
        self._limit: int = self._max_actions or record.metadata["max_steps"]
        return list(record.prompt) if record.is_raw else [self._question()]

    async def step(self, reply: Reply) -> Step:
        self._turns += 1
        moves, readable = self._read(reply.text)
        played = moves[: min(self._actions_per_turn, self._limit - len(self._played))]
        earned = sum(map(self._move, played)) if played else ACTION
        done = self._room.solved
        truncated = not done and (self._turns == self._max_turns or len(self._played) >= self._limit)
        return Step(
            [] if done or truncated else [self._answer(bool(played), earned, done)],
            reward=earned - (0.0 if readable else self._format_penalty),
            done=done,
            truncated=truncated,
            info={"moves": list(played), "readable": readable},
            fresh=not self._memory,
            verdict=self._verdict(),
        )

    def _read(self, text: str) -> tuple[list[Move], bool]:
        """The moves of the first answer up to whatever is none, and whether it was nothing but moves."""
        answer = first_tagged(text, self._tag)
        if answer is None:
            return [], False
        moves: list[Move] = []
        for word in answer.split("||"):
            move = SPELLINGS.get(word.strip().lower())
            if move is None:
                return moves, False
            moves.append(move)
        return moves, True

    def _move(self, move: Move) -> float:
        if self._room.solved:
            return 0.0
        before = (self._room.boxes & self._room.targets).bit_count()
        self._room = self._room.after(move)
        self._played.append(move)
        gained = (self._room.boxes & self._room.targets).bit_count() - before
        return ACTION + BOX * gained + (SOLVED if self._room.solved else 0.0)

    def _question(self) -> Message:
        if self._text == "grid":
            return Message(role="user", content=self._shown())
        several = SEVERAL.format(most=self._actions_per_turn) if self._actions_per_turn > 1 else ""
        rules = RAGEN_SOKOBAN.replace("<answer>", f"<{self._tag}>").replace("</answer>", f"</{self._tag}>")
        content = f"{rules.replace('{observation}', self._shown())}\n{FORM.format(tag=self._tag)}{several}"
        return Message(role="user", content=content)

    def _answer(self, played: bool, reward: float, done: bool) -> Message:
        if not self._memory:
            return self._question()
        if self._text == "grid":
            return Message(role="user", content=self._shown())
        words = PLAYED if played else REFUSED
        return Message(role="user", content=words.format(room=self._shown(), reward=reward, done=done))

    def _shown(self) -> str:
        room = render_room(self._room)
        if self._text == "grid":
            return inside(room)
        return "\n".join("".join(f" {symbol} \t" for symbol in row) for row in room.split("\n"))

    def _verdict(self) -> Verdict:
        shown, count = " || ".join(self._played), len(self._played)
        if self._room.solved:
            return Verdict.correct(shown, f"solved with move {count}", moves=count)
        if not self._played:
            return Verdict.no_answer("no reply held a move")
        placed = (self._room.boxes & self._room.targets).bit_count()
        return Verdict.wrong(
            shown, f"{placed} of {self._room.targets.bit_count()} boxes are on targets after {count} moves"
        )


def inside(room: str) -> str:
    """A room without its border, which is always wall."""
    return "\n".join(row[1:-1] for row in room.split("\n")[1:-1])
