"""Envs turn replies into the next observation. They see text, never tokens, and never load a model.

An Env object serves one episode and is thrown away. The rollout loop (rollouts.py) owns the tokens:
it renders what an Env returns, appends sampled ids unchanged, and masks everything that was not sampled.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

from reasonkit.engines import Reply
from reasonkit.records import Message, Record, Verdict

ENVS: dict[str, str] = {
    "single_turn": "reasonkit.envs.single_turn:SingleTurn",
    "sokoban": "reasonkit.envs.sokoban:Sokoban",
    "frozen_lake": "reasonkit.envs.frozen_lake:FrozenLake",
    "python_tool": "reasonkit.envs.python_tool:PythonTool",
    "gymnasium": "reasonkit.envs.gymnasium:Gymnasium",
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
    answer: str | None = None
    """What the verifier is shown, where that is not the reply as it stands."""
    verdict: Verdict | None = None
    """The game's own judgement. Where the last step of an episode has one, no verifier is asked."""


class Env(Protocol):
    """Subclass it: what an environment does not need has a default."""

    stop: tuple[str, ...] = ()
    """Texts that end a reply, beside those of the recipe: what would follow them is not sampled."""
    outside: bool = False
    """Whether it waits for something outside this process: a program, a server. An engine whose batches must not
    depend on time then waits for it in turn. What asks that very engine for a reply is not outside."""

    @abstractmethod
    async def reset(self, record: Record, seed: int) -> list[Message]:
        """The conversation's first turns. `seed` decides whatever the game draws."""

    @abstractmethod
    async def step(self, reply: Reply) -> Step: ...

    async def close(self) -> None:
        """Give back what the episode held. Called once, whatever happened before."""
        return


def first_tagged(text: str, tag: str) -> str | None:
    """What stands in the first `<tag>…</tag>` of a reply; without a tag all of it.

    The first and not the last: what a model writes after its action, it made up.
    """
    if not tag:
        return text
    start = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", max(start, 0))
    return None if start < 0 or end < 0 else text[start + len(tag) + 2 : end]


def closing(tag: str) -> tuple[str, ...]:
    """The stop texts of an environment that reads the first `<tag>…</tag>`."""
    return (f"</{tag}>",) if tag else ()
