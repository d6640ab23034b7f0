"""What a guided attempt was, and the folder that keeps attempts.

    steer.json           what decides the attempts: models, rules, seed. Other ones need another folder
    trajectories.jsonl   one line an attempt, written at once and whole; half a line that a kill left is cut off
    results.json         the latest summary

An attempt is known by its id: `UID#SAMPLE`, and for one that went on from turn S of a failed attempt, on its B-th
try, `UID#SAMPLE/S.B`. A finished attempt is never made again; a failed request is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import xxhash

from reasonkit.errors import UsageError
from reasonkit.records import Message, Record, dumps, to_row
from reasonkit.rundir import write_json
from reasonkit.steer.env import Round

SETTINGS, LINES, RESULTS = "steer.json", "trajectories.jsonl", "results.json"


@dataclass(frozen=True, slots=True)
class Turn:
    """One guidance, and what the steerer was shown then."""

    guidance: str
    shown: str
    """Empty where the attempt ended with this guidance."""
    round: Round | None
    """None where the guidance accepted the answer."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    id: str
    uid: str
    source: str
    problem: str
    """A hash of the record: the same uid with another prompt or answer is another problem."""
    opening: str
    """The steerer's first user turn."""
    turns: tuple[Turn, ...]
    answer: str
    """What the verifier was shown."""
    status: str
    """The verdict's; empty where the attempt failed."""
    score: float
    reason: str
    failure: str | None = None
    """What broke, and where; such an attempt is made again."""

    @property
    def solved(self) -> bool:
        return self.status == "correct"

    @property
    def root(self) -> bool:
        """Begun from the question, not from another attempt."""
        return "/" not in self.id.removeprefix(self.uid)

    def prefix(self, turns: int) -> list[Message]:
        """The steerer's conversation up to where it gives guidance number `turns`."""
        messages = [Message(role="user", content=self.opening)]
        for turn in self.turns[:turns]:
            messages += [
                Message(role="assistant", content=turn.guidance),
                Message(role="user", content=turn.shown),
            ]
        return messages


def problem_hash(record: Record) -> str:
    return xxhash.xxh3_64_hexdigest(dumps(to_row(record)).encode())


def from_line(line: str) -> Trajectory:
    fields: dict[str, Any] = json.loads(line)
    turns = tuple(
        Turn(turn["guidance"], turn["shown"], Round(**turn["round"]) if turn["round"] else None)
        for turn in fields.pop("turns")
    )
    return Trajectory(turns=turns, **fields)


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """The attempts in a folder, whole ones only; the last line about an attempt counts, failures included."""
    path = folder / LINES
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no trajectories ({path} does not exist)", "reasonkit steer collect --help"
        )
    latest: dict[str, Trajectory] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                trajectory = from_line(line)
                latest[trajectory.id] = trajectory
    yield from latest.values()


class Folder:
    """An open folder of attempts: what is finished, and where the next goes."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        _agree(path, settings)
        lines = path / LINES
        _drop_half_line(lines)
        self.finished = (
            {each.id: each for each in read_trajectories(path) if each.failure is None}
            if lines.exists()
            else {}
        )
        self._file = lines.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def find(self, id: str, problem: str) -> Trajectory | None:
        found = self.finished.get(id)
        if found is not None and found.problem != problem:
            raise UsageError(
                f"{self.path} holds attempts at another problem under the uid of '{id}'",
                "choose another --out",
            )
        return found

    def add(self, trajectory: Trajectory) -> None:
        if trajectory.failure is None:
            self.finished[trajectory.id] = trajectory
        self._file.write(json.dumps(asdict(trajectory), ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _agree(path: Path, settings: Mapping[str, Any]) -> None:
    """The folder's settings are these, or become these."""
    file = path / SETTINGS
    if not file.exists():
        write_json(file, settings)
        return
    kept = json.loads(file.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if kept.get(name) != value:
            raise UsageError(
                f"{path} was collected with {name} {kept.get(name)!r}, and now it is {value!r}",
                "use the same settings, or choose another --out",
            )


def _drop_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
