"""Games with Gymnasium's interface whose state is text, as environments.

Only the interface is needed: `reset(seed=…)`, `step(action)`, `render()`, `close()`. gymnasium itself is imported
when a registered game is asked for by its id; a class of one's own is named as `module:Class`. Games run in the
event loop's thread: one that computes for long holds up all others.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from reasonkit.engines import Reply
from reasonkit.envs import Env, Step, closing, first_tagged
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Message, Record, Verdict
from reasonkit.registry import load


class Gymnasium(Env):
    """A game with Gymnasium's interface whose state is text: `{gymnasium: {id: FrozenLake-v1, actions: […]}}`."""

    def __init__(
        self,
        *,
        id: str,
        actions: Sequence[str] | None = None,
        rules: str = "",
        options: Mapping[str, Any] | None = None,
        solved: float = 1.0,
        max_turns: int = 50,
        answer_tag: str = "answer",
    ) -> None:
        """`actions` names the game's actions 0, 1, …; without it, answers are handed to the game as text. `rules`
        opens the first prompt. An episode whose rewards sum to `solved` is correct. `options` go to the game."""
        self.stop = closing(answer_tag)
        self._id = id
        self._names = None if actions is None else [name.lower() for name in actions]
        self._rules = rules
        self._options = dict(options or {})
        self._solved = solved
        self._max_turns = max_turns
        self._tag = answer_tag
        self._turns = 0
        self._earned = 0.0
        self._game: Any = None

    async def reset(self, record: Record, seed: int) -> list[Message]:
        self._game = self._make()
        observation, _ = self._game.reset(seed=record.metadata.get("seed", seed % 2**31))
        how = (
            f"Give your move as <{self._tag}>…</{self._tag}>." if self._tag else "Reply with your move alone."
        )
        which = f" Moves: {', '.join(self._names)}." if self._names else ""
        said = "\n\n".join(part for part in (self._rules, self._shown(observation), f"{how}{which}") if part)
        return [Message(role="user", content=said)]

    async def step(self, reply: Reply) -> Step:
        self._turns += 1
        out_of_turns = self._turns >= self._max_turns
        action = self._action(reply.text)
        if action is None:
            refused = [Message(role="user", content="That is no move.")]
            return Step(
                [] if out_of_turns else refused,
                truncated=out_of_turns,
                verdict=self._verdict(),
                info={"action": None},
            )
        observation, reward, terminated, truncated, info = self._game.step(action)
        self._earned += float(reward)
        done, cut = bool(terminated), bool(truncated) or out_of_turns
        return Step(
            [] if done or cut else [Message(role="user", content=self._shown(observation))],
            reward=float(reward),
            done=done,
            truncated=cut and not done,
            info={"action": action, **info},
            verdict=self._verdict(),
        )

    async def close(self) -> None:
        if self._game is not None:
            self._game.close()

    def _make(self) -> Any:
        if ":" in self._id:
            return load(self._id)(**self._options)
        try:
            gymnasium = importlib.import_module("gymnasium")
        except ModuleNotFoundError as error:
            raise ReasonkitError(
                f"the game '{self._id}' needs gymnasium, which is not installed", "pip install gymnasium"
            ) from error
        return gymnasium.make(self._id, **{"render_mode": "ansi", **self._options})

    def _action(self, text: str) -> int | str | None:
        answer = first_tagged(text, self._tag)
        if answer is None or self._names is None:
            return answer
        word = answer.strip().lower()
        return self._names.index(word) if word in self._names else None

    def _shown(self, observation: Any) -> str:
        """The observation where that is text, or else what the game renders."""
        shown = observation if isinstance(observation, str) else self._game.render()
        if not isinstance(shown, str):
            raise UsageError(
                f"the game '{self._id}' shows a {type(shown).__name__}, and only text can be shown to a model",
                "choose a game whose observations are text, or that renders as text (render_mode ansi)",
            )
        return shown.strip("\n")

    def _verdict(self) -> Verdict:
        earned = f"{self._earned:g}"
        if self._earned >= self._solved:
            return Verdict.correct(earned, f"earned {earned}, solved at {self._solved:g}")
        return Verdict.wrong(earned, f"earned {earned} of {self._solved:g}")
