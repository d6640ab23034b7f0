"""Sokoban: the rules, and the verdict on a list of moves that is played out in the room.

A room is text with one symbol a cell: `#` wall, `_` floor, `O` target, `X` box, `P` player, `√` box on
target, `S` player on target. The player walks and pushes one box at a time; boxes cannot be pulled. The
game ends when every box is on a target, so that moves after that are not played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged

Move = Literal["Up", "Down", "Left", "Right"]
MOVES: tuple[Move, ...] = get_args(Move)

SPELLINGS: dict[str, Move] = {
    spelling: move
    for number, move in enumerate(MOVES, 1)
    for spelling in (move.lower(), move[0].lower(), str(number))
}
SEPARATORS = ("||", ",", ";", "->", "→", "[", "]", ".")
MAX_MOVES = 1000


@dataclass(frozen=True, slots=True)
class Room:
    """Cells are numbered row by row; sets of cells are the bits of an integer. The border is all wall."""

    width: int
    height: int
    walls: int
    targets: int
    boxes: int
    player: int

    @property
    def solved(self) -> bool:
        return self.boxes == self.targets

    def delta(self, move: Move) -> int:
        """What a step adds to a cell's number."""
        return {"Up": -self.width, "Down": self.width, "Left": -1, "Right": 1}[move]

    def after(self, move: Move) -> Room:
        """The room after `move`; itself where a wall or a blocked box is in the way."""
        delta = self.delta(move)
        cell = self.player + delta
        if self.walls >> cell & 1:
            return self
        if not self.boxes >> cell & 1:
            return self._with(cell, self.boxes)
        beyond = cell + delta
        if (self.walls | self.boxes) >> beyond & 1:
            return self
        return self._with(cell, self.boxes ^ (1 << cell) ^ (1 << beyond))

    def _with(self, player: int, boxes: int) -> Room:
        return Room(self.width, self.height, self.walls, self.targets, boxes, player)


def parse_room(text: str) -> Room:
    """A room from its symbols. ValueError says what is wrong with the text."""
    rows = text.strip("\n").split("\n")
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the rows of a room must be equally long")
    cells = "".join(rows)
    unknown = set(cells) - set("#_OXP√S")
    if unknown:
        raise ValueError(f"'{min(unknown)}' is no symbol of a room")
    width, height = len(rows[0]), len(rows)
    edge = rows[0] + rows[-1] + "".join(row[0] + row[-1] for row in rows)
    if set(edge) != {"#"}:
        raise ValueError("a room's border must be all wall")
    if cells.count("P") + cells.count("S") != 1:
        raise ValueError("a room needs exactly one player")
    room = Room(
        width,
        height,
        _bits(cells, "#"),
        _bits(cells, "O√S"),
        _bits(cells, "X√"),
        _bits(cells, "PS").bit_length() - 1,
    )
    if room.boxes.bit_count() != room.targets.bit_count():
        raise ValueError(f"{room.boxes.bit_count()} boxes for {room.targets.bit_count()} targets")
    return room


def render_room(room: Room) -> str:
    return "\n".join(
        "".join(_symbol(room, row * room.width + column) for column in range(room.width))
        for row in range(room.height)
    )


def parse_moves(answer: str) -> list[Move]:
    """Moves between `||`, commas, arrows or spaces: names, initials or 1-4. ValueError names what is none."""
    for separator in SEPARATORS:
        answer = answer.replace(separator, " ")
    words = answer.split()
    if len(words) > MAX_MOVES:
        raise ValueError(f"{len(words)} moves are more than any room needs")
    for word in words:
        if word.lower() not in SPELLINGS:
            raise ValueError(f"'{word[:50]}' is no move")
    return [SPELLINGS[word.lower()] for word in words]


def verify_sokoban(record: Record, text: str) -> Verdict:
    """The room is `record.metadata["room"]`, solved in at most `record.metadata["max_steps"]` moves."""
    room = parse_room(record.metadata["room"])
    limit = record.metadata["max_steps"]
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    try:
        moves = parse_moves(answer)
    except ValueError as error:
        return Verdict.no_answer(str(error))
    shown = " || ".join(moves)
    for number, move in enumerate(moves, 1):
        if number > limit:
            return Verdict.wrong(shown, f"not solved within {limit} moves")
        room = room.after(move)
        if room.solved:
            return Verdict.correct(shown, f"solved with move {number}", moves=number)
    placed = (room.boxes & room.targets).bit_count()
    return Verdict.wrong(
        shown, f"{placed} of {room.targets.bit_count()} boxes are on targets after {len(moves)} moves"
    )


def _bits(cells: str, symbols: str) -> int:
    return sum(1 << cell for cell, symbol in enumerate(cells) if symbol in symbols)


def _symbol(room: Room, cell: int) -> str:
    target = room.targets >> cell & 1
    if room.walls >> cell & 1:
        return "#"
    if room.boxes >> cell & 1:
        return "√" if target else "X"
    if room.player == cell:
        return "S" if target else "P"
    return "O" if target else "_"
