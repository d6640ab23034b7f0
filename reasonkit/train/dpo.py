"""Direct preference optimisation: of two given replies, make the better one likelier than the worse.

The loss of a pair depends on both replies' log-probs, but its gradient is that of imitation with one weight a
reply: for h, by how much the policy prefers the better reply more than the reference does, d loss / dθ is −β·σ(−βh)
times (∇ log p(better) − ∇ log p(worse)). So a step asks the learner for log-probs, works the weights out, and then
imitates.
The learner's packing, sharding and clipping stay as they are, at the price of one forward pass.

The reference is the model that training starts from. Its log-probs are taken once, before the first step, by the
learner itself, and kept in the run folder: no second model is ever loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from reasonkit.dialogue import Dialogue
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import LossConfig, Part, Recipe
from reasonkit.records import Record
from reasonkit.registry import bind
from reasonkit.rundir import write_json
from reasonkit.train.learner import Learner
from reasonkit.train.packing import Batch, Sample, make_batch
from reasonkit.train.sft import demonstrated

REFERENCE = "reference.json"
AT_ONCE = 256
"""Pairs whose reference log-probs are asked for in one call."""


@dataclass(frozen=True, slots=True)
class Pair:
    better: Sample
    worse: Sample


class Preference:
    """`algorithm: dpo`, on records whose answer is {chosen, rejected}.

    `beta` holds the policy to the reference. `normalised` compares log-probs per token (then beta 5 is usual),
    `nll` adds that much imitation of the better reply, `smoothing` is the chance that a pair's order is wrong.
    """

    def __init__(
        self,
        recipe: Recipe,
        dialogue: Dialogue,
        learner: Learner,
        folder: Path,
        *,
        beta: float = 0.1,
        normalised: bool = False,
        nll: float = 0.0,
        smoothing: float = 0.0,
    ) -> None:
        self._dialogue = dialogue
        self._context = recipe.model.context
        self._learner = learner
        self._kept = folder / REFERENCE
        self._beta = beta
        self._normalised = normalised
        self._nll = nll
        self._smoothing = smoothing
        self._reference: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, recipe: Recipe, dialogue: Dialogue, learner: Learner, folder: Path) -> Self:
        preference: Self = bind("algorithm", "dpo", cls, recipe.algorithm.options)(
            recipe, dialogue, learner, folder
        )
        return preference

    @staticmethod
    def loss(loss: LossConfig) -> LossConfig:
        """Token weights are sums over replies, divided by the pairs of the batch."""
        del loss
        return LossConfig(policy=Part("nll"), aggregation="seq_mean_token_sum", correction=Part("none"))

    async def prepare(self, records: Callable[[], Sequence[Record]]) -> None:
        """The reference's log-probs of all pairs; from the run folder where they are there already."""
        if self._kept.exists():
            kept = json.loads(self._kept.read_text(encoding="utf-8"))
            self._reference = {uid: (better, worse) for uid, (better, worse) in kept.items()}
            return
        every = records()
        for start in range(0, len(every), AT_ONCE):
            some = every[start : start + AT_ONCE]
            pairs = [(record.uid, pair) for record in some if (pair := self._pair(record)) is not None]
            scores = await self._scores([pair for _, pair in pairs])
            self._reference |= {uid: score for (uid, _), score in zip(pairs, scores, strict=True)}
        write_json(self._kept, self._reference)

    async def batch(self, records: Sequence[Record], step: int) -> tuple[Batch, dict[str, float]]:
        del step
        known = [(record, pair) for record in records if (pair := self._pair(record)) is not None]
        if not known:
            return make_batch([]), {"left_out": float(len(records))}
        scores = await self._scores([pair for _, pair in known])
        gains = [
            (better - self._reference[record.uid][0], worse - self._reference[record.uid][1])
            for (record, _), (better, worse) in zip(known, scores, strict=True)
        ]
        margins = [self._beta * (better - worse) for better, worse in gains]
        samples = [
            sample
            for (_, pair), margin in zip(known, margins, strict=True)
            for sample in self._weighted(pair, margin)
        ]
        batch = replace(make_batch(samples), sequences=len(known))
        return batch, {
            "left_out": float(len(records) - len(known)),
            "loss": _mean(
                [
                    self._loss(margin, pair, better)
                    for margin, (_, pair), (better, _) in zip(margins, known, scores, strict=True)
                ]
            ),
            "margin": _mean(margins),
            "preferred": _mean([float(margin > 0) for margin in margins]),
            "logprob_chosen": _mean([better for better, _ in scores]),
            "logprob_rejected": _mean([worse for _, worse in scores]),
            "gain_chosen": _mean([better for better, _ in gains]),
            "gain_rejected": _mean([worse for _, worse in gains]),
            "length_chosen": _mean([float(pair.better.rollout_tokens) for _, pair in known]),
            "length_rejected": _mean([float(pair.worse.rollout_tokens) for _, pair in known]),
        }

    def _pair(self, record: Record) -> Pair | None:
        """None where a reply does not fit, as half a reply says nothing about which one is better, or both are
        the same."""
        answer = record.answer
        if not isinstance(answer, dict) or answer.keys() != {"chosen", "rejected"}:
            raise ReasonkitError(
                f"record {record.uid} of {record.source} is no pair of a chosen and a rejected reply",
                "dpo trains on rows of prompt, chosen and rejected",
            )
        if answer["chosen"] == answer["rejected"]:
            return None
        found = []
        for name in ("chosen", "rejected"):
            samples = demonstrated(self._dialogue, record, answer[name], self._context + 1)
            if not samples or len(samples[-1].ids) > self._context:
                return None
            found.append(_last_turn(samples[-1]))
        return Pair(*found)

    async def _scores(self, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
        """Log-prob of the better and of the worse reply of each pair: the sum over tokens, or the mean."""
        if not pairs:
            return []
        batch = make_batch([sample for pair in pairs for sample in (pair.better, pair.worse)])
        logprobs = await self._learner.logprobs(batch, reference=False)
        each = [
            float(tokens.double().mean() if self._normalised else tokens.double().sum())
            for tokens in logprobs
        ]
        return list(zip(each[::2], each[1::2], strict=True))

    def _weighted(self, pair: Pair, margin: float) -> Iterator[Sample]:
        pull = self._beta * ((1 - self._smoothing) * _sigmoid(-margin) - self._smoothing * _sigmoid(margin))
        imitation = self._nll / pair.better.rollout_tokens
        for sample, weight, extra in ((pair.better, pull, imitation), (pair.worse, -pull, 0.0)):
            share = weight / sample.rollout_tokens if self._normalised else weight
            yield replace(sample, advantages=torch.full_like(sample.advantages, share + extra))

    def _loss(self, margin: float, pair: Pair, better: float) -> float:
        """Of one pair, imitation of the better reply (whose score is given) included."""
        preferred = (1 - self._smoothing) * math.log(_sigmoid(margin))
        swapped = self._smoothing * math.log(_sigmoid(-margin))
        mean = better if self._normalised else better / pair.better.rollout_tokens
        return -preferred - swapped - self._nll * mean


def _last_turn(sample: Sample) -> Sample:
    """Only the last assistant turn is compared: both replies share all turns before it."""
    gaps = (sample.scored.diff() > 1).nonzero().flatten()
    start = int(gaps[-1]) + 1 if gaps.numel() else 0
    scored = sample.scored[start:]
    nothing = torch.zeros(len(scored))
    return replace(
        sample,
        scored=scored,
        old_logprobs=nothing,
        sampler_logprobs=nothing,
        advantages=nothing,
        rollout_tokens=len(scored),
    )


def _sigmoid(value: float) -> float:
    """Bounded away from 0, so that its logarithm is finite."""
    return max(1.0 / (1.0 + math.exp(-max(value, -700.0))), 1e-300)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
