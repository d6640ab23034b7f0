"""Envs turn replies into the next observation. They see text, never tokens, and never load a model.

An Env object serves one episode and is thrown away. The rollout loop (rollouts.py) owns the tokens:
it renders what an Env returns, appends sampled ids unchanged, and masks everything that was not sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from reasonkit.engines import Reply
from reasonkit.records import Message, Record

ENVS: dict[str, str] = {
    "single_turn": "reasonkit.envs.single_turn:SingleTurn",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What followed a reply."""

    messages: list[Message] = field(default_factory=list)
    """New turns, none of them the assistant's."""
    reward: float = 0.0
    done: bool = False
    truncated: bool = False
    """The episode was cut by a limit, not ended by the game."""
    info: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False
    """`messages` replace the context: a new segment starts."""


class Env(Protocol):
    async def reset(self, record: Record, seed: int) -> list[Message]: ...

    async def step(self, reply: Reply) -> Step: ...

    async def close(self) -> None: ...
