"""Trajectories to training data for a steerer: demonstrations of what led to right answers, and preferences.

Preferences come from the tree that attempts at one problem make: they share their first turns, and part where the
steerer said different things. An attempt that took i guidance turns is worth 15 − i if it was solved and −i if
not, a guidance the mean of what it led to; of two guidances at the same place the one that is worth more is
preferred. So solving in fewer turns is preferred to solving in more. A guidance is data only as it was said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import xxhash

from reasonkit.records import Message, Record, dumps
from reasonkit.steer.trajectories import Trajectory

SOLVED = 15.0
SOURCE = "steer"


def worth(trajectory: Trajectory) -> float:
    turns = len(trajectory.turns)
    return SOLVED - turns if trajectory.solved else -float(turns)


def demonstrations(trajectories: Iterable[Trajectory]) -> Iterator[Record]:
    """Each guidance of each solved attempt after what the steerer had seen by then, once."""
    seen: set[str] = set()
    for trajectory in trajectories:
        if trajectory.failure is not None or not trajectory.solved:
            continue
        for place, turn in enumerate(trajectory.turns):
            prompt = trajectory.prefix(place)
            uid = _hash([prompt, turn.guidance])
            if turn.guidance.strip() and uid not in seen:
                seen.add(uid)
                yield Record(
                    uid,
                    SOURCE,
                    tuple(prompt),
                    turn.guidance,
                    metadata={"trajectory": trajectory.id, "turn": place},
                )


def preferences(trajectories: Iterable[Trajectory], margin: float) -> Iterator[dict[str, Any]]:
    """Rows of prompt, chosen and rejected: at each place, the best guidance beside each that is worth less by at
    least `margin`."""
    problems: dict[tuple[str, str], list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.failure is None and trajectory.turns:
            problems[trajectory.uid, trajectory.problem].append(trajectory)
    for (uid, _), attempts in sorted(problems.items()):
        rows: list[dict[str, Any]] = []
        _state_value(attempts, 0, margin, uid, rows)
        yield from rows


def _state_value(
    attempts: Sequence[Trajectory], place: int, margin: float, uid: str, rows: list[dict[str, Any]]
) -> float:
    """What it is worth to be asked for guidance here, where all of `attempts` have been."""
    said: dict[str, list[Trajectory]] = defaultdict(list)
    for attempt in attempts:
        said[attempt.turns[place].guidance.strip()].append(attempt)
    values = {guidance: _guidance_value(group, place, margin, uid, rows) for guidance, group in said.items()}
    best = max(values, key=lambda guidance: values[guidance])
    prompt = attempts[0].prefix(place)
    for guidance, value in values.items():
        if values[best] - value >= margin and guidance != best and best and guidance:
            rows.append(_row(uid, prompt, best, guidance, values[best], value))
    return sum(values.values()) / len(values)


def _guidance_value(
    attempts: Sequence[Trajectory], place: int, margin: float, uid: str, rows: list[dict[str, Any]]
) -> float:
    """The mean over what this guidance led to: ends, and places where guidance was asked for again."""
    ended = [worth(attempt) for attempt in attempts if len(attempt.turns) == place + 1]
    led_to: dict[str, list[Trajectory]] = defaultdict(list)
    for attempt in attempts:
        if len(attempt.turns) > place + 1:
            led_to[attempt.turns[place].shown].append(attempt)
    values = ended + [_state_value(group, place + 1, margin, uid, rows) for group in led_to.values()]
    return sum(values) / len(values)


def _row(
    uid: str, prompt: list[Message], chosen: str, rejected: str, score_chosen: float, score_rejected: float
) -> dict[str, Any]:
    return {
        "uid": f"{uid}:{_hash([prompt, chosen, rejected])}",
        "prompt": prompt,
        "chosen": [Message(role="assistant", content=chosen)],
        "rejected": [Message(role="assistant", content=rejected)],
        "score_chosen": score_chosen,
        "score_rejected": score_rejected,
    }


def _hash(value: Any) -> str:
    return xxhash.xxh3_64_hexdigest(dumps(value).encode())
