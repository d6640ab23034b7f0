"""What the learner says of a rollout batch before it learns from it: log-probs, penalties, values, token by token.

Only what the recipe needs is computed, because each costs a forward pass over the batch. An engine that computes
exactly as the learner does spares the first: its own log-probs are the learner's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reasonkit.advantages import WITH_CRITIC
from reasonkit.recipe import Recipe
from reasonkit.records import Group, Rollout, Signals
from reasonkit.train.learner import Learner
from reasonkit.train.packing import Batch, make_batch, samples_of


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which signals a recipe needs."""

    old_logprobs: bool
    penalty: float
    """Weight of the divergence from the reference in the reward; 0 asks for none."""
    values: bool

    @classmethod
    def by(cls, recipe: Recipe) -> Wanted:
        """Correcting for the engine takes the learner's own log-probs, unless both compute the same numbers. Those
        of an engine that truncates are of what it kept."""
        rollout, loss = recipe.rollout, recipe.loss
        same = (
            rollout.engine.name == "transformers"
            and recipe.model.dtype == "float32"
            and rollout.max_staleness == 0
            and (rollout.top_p, rollout.top_k, rollout.min_p) == (1.0, 0, 0.0)
        )
        return cls(
            old_logprobs=loss.correction.name != "none" and not same,
            penalty=loss.kl if loss.kl_kind == "reward" else 0.0,
            values=recipe.algorithm.name in WITH_CRITIC,
        )


async def annotate(groups: Sequence[Group], learner: Learner, wanted: Wanted) -> list[Group]:
    """The same groups, with the wanted signals in every rollout that did not fail."""
    rollouts = [rollout for group in groups for rollout in group.rollouts if rollout.ok]
    samples = [samples_of(rollout) for rollout in rollouts]
    batch = make_batch([sample for each in samples for sample in each])
    if not batch.samples or wanted == Wanted(False, 0.0, False):
        return list(groups)
    old, penalties, values = await _ask(learner, batch, wanted)
    said = [
        (_taken(old, len(each)), _taken(penalties, len(each)), _taken(values, len(each))) for each in samples
    ]
    signals = iter([Signals(*each) for each in said])
    return [
        Group(group.record, tuple(_with(rollout, signals) for rollout in group.rollouts)) for group in groups
    ]


async def _ask(
    learner: Learner, batch: Batch, wanted: Wanted
) -> tuple[Iterator[Tensor], Iterator[Tensor], Iterator[Tensor]]:
    """Of each sample in turn; nothing where nothing is wanted."""
    old = [sample.sampler_logprobs for sample in batch.samples]
    if wanted.old_logprobs:
        old = await learner.logprobs(batch, reference=False)
    penalties: list[Tensor] = []
    if wanted.penalty:
        reference = await learner.logprobs(batch, reference=True)
        penalties = [wanted.penalty * (one - other) for one, other in zip(old, reference, strict=True)]
    values = await learner.values(batch) if wanted.values else []
    return iter(old if wanted.old_logprobs else []), iter(penalties), iter(values)


def _taken(tensors: Iterator[Tensor], count: int) -> tuple[float, ...]:
    """The next `count` tensors as one row of numbers; empty where there are none at all."""
    parts = [next(tensors, None) for _ in range(count)]
    present = [part for part in parts if part is not None]
    return tuple(torch.cat(present).tolist()) if present else ()


def _with(rollout: Rollout, signals: Iterator[Signals]) -> Rollout:
    return replace(rollout, signals=next(signals)) if rollout.ok else rollout
