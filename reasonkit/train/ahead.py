"""Rollout batches ahead of the learner: `rollout.max_staleness` as a bounded buffer.

A batch takes its slots when it begins and frees them when engines hold the weights that it made. There are
(max_staleness + 1) batches of slots, so batch k begins once engines hold version k - 1 - max_staleness, and no
token of it is older than that when it trains version k - 1 into k. Batches are trained in the order of the data,
not of completion: which records train together depends on the seed alone, and a run that is resumed draws the same
ones again. At staleness 0 one batch is under way, and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonkit.data.mixture import Feed, MixedFeed
from reasonkit.engines import Engine, Sampling, WeightSource
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import Recipe, RewardPart
from reasonkit.records import Completion, Group, Record
from reasonkit.rollouts import Draw, Rollouts
from reasonkit.train.judging import Judge
from reasonkit.train.remote import RemoteWeights
from reasonkit.train.served import Parcels
from reasonkit.train.weights import Counted


@dataclass(frozen=True, slots=True)
class Sampled:
    """A whole rollout batch."""

    groups: list[Group]
    left_out: list[Group]
    """Groups that taught nothing and were replaced."""
    last: list[Group]
    """Those that a curriculum has not seen yet."""
    ended: float


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The first records of a batch, and where the feed stood before them."""

    records: list[Record]
    before: dict[str, Any]


@dataclass(slots=True)
class Ahead:
    """Nothing is begun by itself: `begin` is called with the steps that the engines' weights allow."""

    feed: Feed
    rollouts: Rollouts
    judge: Judge
    recipe: Recipe
    waited: float = 0.0
    """Seconds that the last batch was ready before it was taken."""
    ready: int = 0
    """Whole batches that lay in the buffer when the last one was asked for."""
    _drawn: dict[int, _Drawn] = field(default_factory=dict)
    """Of every batch that is not taken, under way or not."""
    _under_way: dict[int, asyncio.Task[Sampled]] = field(default_factory=dict)

    def begin(self, step: int, delivered: asyncio.Task[None] | None) -> None:
        """Sample the batch of `step` in the background, unless that has begun; first, let the engines have the
        weights that are on their way to them."""
        if step in self._under_way:
            return
        if step not in self._drawn:
            self._drawn[step] = self._draw()
        self._under_way[step] = asyncio.create_task(
            self._sample(step, self._drawn[step].records, delivered), name=f"rollout batch {step}"
        )

    async def take(self, step: int) -> Sampled:
        """The batch of `step`, which has begun; waits until it is whole."""
        self.ready = sum(batch.done() for batch in self._under_way.values())
        sampled = await self._under_way[step]
        self.waited = time.monotonic() - sampled.ended
        del self._under_way[step], self._drawn[step]
        self._observe(sampled.last)
        return sampled

    def state(self) -> dict[str, Any]:
        """Where the feed stands, and how to draw again what is not trained on yet. JSON values."""
        ahead = [
            {"step": step, "before": drawn.before, "uids": [record.uid for record in drawn.records]}
            for step, drawn in sorted(self._drawn.items())
        ]
        return {"feed": dict(self.feed.state()), **({"ahead": ahead} if ahead else {})}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state` has described. What was under way begins anew."""
        for entry in state.get("ahead", ()):
            self.feed.restore(entry["before"])
            drawn = self._draw()
            uids = [record.uid for record in drawn.records]
            if uids != entry["uids"]:
                raise ReasonkitError(
                    f"the batch of step {entry['step']} was drawn from other data: it began with record "
                    f"'{entry['uids'][0]}' then and begins with '{uids[0]}' now",
                    "restore the data that the run started with, or start a new run",
                )
            self._drawn[entry["step"]] = drawn
        self.feed.restore(state["feed"])

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _draw(self) -> _Drawn:
        before = dict(self.feed.state())
        return _Drawn(self.feed.next(self.recipe.train.prompts), before)

    def _observe(self, groups: Sequence[Group]) -> None:
        if isinstance(self.feed, MixedFeed):
            self.feed.observe(pass_rate(groups))  # a curriculum may move on with it

    async def _sample(
        self, step: int, records: list[Record], delivered: asyncio.Task[None] | None
    ) -> Sampled:
        """With train.refill, groups that teach nothing make way for new ones."""
        if delivered is not None:
            await asyncio.shield(delivered)
        wanted, refill = self.recipe.train.prompts, self.recipe.train.refill
        groups: list[Group] = []
        left_out: list[Group] = []
        with self.judge.at("train", step):
            for turn in range(refill + 1):
                draw = Draw(f"train, refill {turn}" if turn else "train", step, self.recipe.rollout.n)
                sampled = await self.rollouts.groups(records, draw)
                teaches = [not refill or differ(group, self.recipe.reward) for group in sampled]
                groups += itertools.compress(sampled, teaches)
                left_out += [group for group, does in zip(sampled, teaches, strict=True) if not does]
                if len(groups) == wanted or turn == refill:
                    break
                self._observe(sampled)
                records = self.feed.next(wanted - len(groups))
        return Sampled(groups, left_out, sampled, time.monotonic())


def differ(group: Group, reward: Mapping[str, RewardPart | float]) -> bool:
    """Whether a group's attempts have something to compare: their scores, as DAPO filters, where the recipe rewards
    correctness, for what only shapes a reward (length, form) keeps no group; else what they earned."""
    part = reward.get("correctness", 0.0)
    if not (part.weight if isinstance(part, RewardPart) else part):
        return len(set(group.rewards)) > 1
    return len({each.verdict.score for each in group.rollouts if each.ok and each.verdict is not None}) > 1


def pass_rate(groups: Sequence[Group]) -> float:
    """The mean score of the rollouts that have a verdict; 0 where none has."""
    rollouts = [rollout for group in groups for rollout in group.rollouts if rollout.ok]
    scores = [rollout.verdict.score for rollout in rollouts if rollout.verdict is not None]
    return sum(scores) / len(scores) if scores else 0.0


def staleness(groups: Sequence[Group], step: int) -> dict[str, float]:
    """By how many versions the oldest token of each sample lags behind the weights that it trains."""
    versions = [rollout.oldest_version for group in groups for rollout in group.rollouts if rollout.ok]
    lags = [step - 1 - version for version in versions if version is not None]
    return {"staleness": sum(lags) / len(lags), "staleness_max": float(max(lags))} if lags else {}


class Metered:
    """Implements Engine around another one: how long it had something to do, and what its weights cost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._in_flight = 0
        self._busy = 0.0
        self._since = time.monotonic()
        self._loaded = (0, 0.0)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        self._count(1)
        try:
            return await self._engine.generate(prompt_ids, sampling)
        finally:
            self._count(-1)

    async def load_weights(self, weights: WeightSource, version: int) -> None:
        started = time.monotonic()
        sized = weights if isinstance(weights, Parcels | RemoteWeights) else Counted(weights)
        await self._engine.load_weights(sized, version)
        self._loaded = sized.bytes, time.monotonic() - started

    async def close(self) -> None:
        await self._engine.close()

    def busy(self) -> float:
        """Seconds so far."""
        self._count(0)
        return self._busy

    def loaded(self) -> dict[str, float]:
        """What the last weights that arrived cost: bytes to each engine, seconds until all had them."""
        taken, spent = self._loaded
        speed = taken / 1e9 / spent if spent else 0.0
        return {"bytes_weights": float(taken), "seconds_weights": spent, "gb_per_second_weights": speed}

    def _count(self, change: int) -> None:
        now = time.monotonic()
        if self._in_flight:
            self._busy += now - self._since
        self._since = now
        self._in_flight += change


@dataclass(slots=True)
class Clock:
    """What both sides did since the step's beginning, and what weights between them cost."""

    engine: Metered
    _at: float = field(default_factory=time.monotonic)
    _busy: float = 0.0

    def start(self) -> None:
        """A step begins. What came before it, a validation, is no part of it."""
        self._at, self._busy = time.monotonic(), self.engine.busy()

    def read(self, waited: float) -> dict[str, float]:
        """`waited` is how long a ready batch lay in the buffer."""
        now, busy = time.monotonic(), self.engine.busy()
        wall, idle = now - self._at, now - self._at - (busy - self._busy)
        return {
            "seconds_step": wall,
            "seconds_engines_idle": max(idle, 0.0),
            "seconds_queued": waited,
            **self.engine.loaded(),
        }
