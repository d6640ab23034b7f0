"""From scored groups to what a learner computes on: samples, batches (one optimizer update), packed micro-batches.

A batch carries the counts that its loss is divided by, so a learner may cut it as memory allows. A micro-batch
is one row of tokens without padding: sequences lie end to end, sorted by length, their positions start at 0
again, and attention stays within each (attention.py). Everything is a function of the samples and their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasonkit.records import Group, Rollout, Segment


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sequence to train on."""

    ids: Tensor
    """[length]"""
    scored: Tensor
    """[scored] The places in `ids` of the tokens that were sampled; the place before each predicts it."""
    old_logprobs: Tensor
    """[scored] As the engine gave them."""
    advantage: float
    rollout_tokens: int
    """Sampled tokens of the whole rollout, which may have several sequences."""

    def __len__(self) -> int:
        return self.ids.numel()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What exactly one optimizer update learns from, with the counts that its loss is divided by."""

    samples: tuple[Sample, ...]
    tokens: int
    """Sampled tokens of the whole batch."""
    sequences: int
    """Rollouts of the whole batch that have any."""


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Sequences packed into one row of tokens; what is flat over the sampled tokens is named so."""

    ids: Tensor
    """[1, tokens]"""
    positions: Tensor
    """[1, tokens]"""
    lengths: tuple[int, ...]
    """Of the sequences, in order, longest first."""
    targets: Tensor
    """[scored] The ids to be predicted."""
    sources: Tensor
    """[scored] The place in the row from which each is predicted."""
    old_logprobs: Tensor
    """[scored]"""
    advantages: Tensor
    """[scored]"""
    rollout_tokens: Tensor
    """[scored] Sampled tokens of the rollout that each token belongs to."""
    sequences: Tensor
    """[scored] Number of the sequence that each token belongs to."""
    order: tuple[int, ...]
    """Where each sequence stood in what was packed."""


def assemble(groups: Sequence[Group], advantages: Sequence[Sequence[float]]) -> list[list[Sample]]:
    """The samples of every group. Failed rollouts and sequences in which nothing was sampled give none."""
    return [
        [
            sample
            for rollout, advantage in zip(group.rollouts, row, strict=True)
            if rollout.ok
            for sample in _samples(rollout, advantage)
        ]
        for group, row in zip(groups, advantages, strict=True)
    ]


def mini_batches(grouped: Sequence[Sequence[Sample]], records: int) -> list[Batch]:
    """Whole groups, `records` a batch; the last batch may hold fewer."""
    return [
        make_batch([sample for group in grouped[start : start + records] for sample in group])
        for start in range(0, len(grouped), records)
    ]


def make_batch(samples: Sequence[Sample]) -> Batch:
    tokens = sum(sample.scored.numel() for sample in samples)
    # A rollout's sequences together hold its `rollout_tokens`, so their shares add up to one rollout.
    rollouts = sum(sample.scored.numel() / sample.rollout_tokens for sample in samples)
    return Batch(tuple(samples), tokens, round(rollouts))


def micro_batches(samples: Sequence[Sample], token_budget: int) -> Iterator[MicroBatch]:
    """Longest first, so that a batch too large for memory fails at once; equal lengths side by side.

    A sequence longer than the budget has a micro-batch of its own.
    """
    order = sorted(range(len(samples)), key=lambda place: (-len(samples[place]), place))
    start, tokens = 0, 0
    for end, place in enumerate(order):
        if tokens and tokens + len(samples[place]) > token_budget:
            yield pack([samples[each] for each in order[start:end]], order[start:end])
            start, tokens = end, 0
        tokens += len(samples[place])
    if tokens:
        yield pack([samples[each] for each in order[start:]], order[start:])


def pack(samples: Sequence[Sample], order: Sequence[int]) -> MicroBatch:
    lengths = torch.tensor([len(sample) for sample in samples])
    starts = lengths.cumsum(0) - lengths
    counts = torch.tensor([sample.scored.numel() for sample in samples])
    ids = torch.cat([sample.ids for sample in samples])
    targets = torch.cat([sample.scored for sample in samples]) + starts.repeat_interleave(counts)
    return MicroBatch(
        ids=ids[None],
        positions=(torch.arange(ids.numel()) - starts.repeat_interleave(lengths))[None],
        lengths=tuple(lengths.tolist()),
        targets=ids[targets],
        sources=targets - 1,
        old_logprobs=torch.cat([sample.old_logprobs for sample in samples]),
        advantages=torch.tensor([sample.advantage for sample in samples]).repeat_interleave(counts),
        rollout_tokens=torch.tensor([sample.rollout_tokens for sample in samples]).repeat_interleave(counts),
        sequences=torch.arange(len(samples)).repeat_interleave(counts),
        order=tuple(order),
    )


def _samples(rollout: Rollout, advantage: float) -> list[Sample]:
    segments = [(segment, _scored(segment)) for segment in rollout.segments]
    tokens = sum(scored.numel() for _, scored in segments)
    return [
        Sample(
            ids=torch.tensor(segment.ids),
            scored=scored,
            old_logprobs=torch.tensor(segment.logprobs)[scored],
            advantage=advantage,
            rollout_tokens=tokens,
        )
        for segment, scored in segments
        if scored.numel()
    ]


def _scored(segment: Segment) -> Tensor:
    """Where the segment's sampled tokens are. One whose log-probability the engine could not give is dropped."""
    mask = torch.tensor(segment.mask, dtype=torch.bool) & torch.tensor(segment.logprobs).isfinite()
    if mask.numel() and mask[0]:
        raise ValueError("a segment begins with a sampled token: there is no context to predict it from")
    return mask.nonzero().flatten()
