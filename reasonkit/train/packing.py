"""From scored groups to what a learner computes on: samples, batches (one optimizer update), packed micro-batches.

A batch carries the counts that its loss is divided by, so a learner may cut it as memory allows. A micro-batch
is one row of tokens without padding. Sequences that begin with the same prompt, as a group's do, share its tokens:
the prompt lies in the row once, followed by what each sequence goes on with. All that works token by token
(projections, norms, the head) then computes a prompt once; attention alone sees whole sequences (attention.py).
Everything is a function of the samples and their order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasonkit.advantages import Advantages, Credit
from reasonkit.records import Group, Rollout, Segment


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sequence to train on."""

    ids: Tensor
    """[length]"""
    scored: Tensor
    """[scored] The places in `ids` of the tokens that were sampled; the place before each predicts it."""
    old_logprobs: Tensor
    """[scored] By the learner's weights before this rollout batch; where nobody asked it, the engine's."""
    sampler_logprobs: Tensor
    """[scored] As the engine gave them."""
    advantages: Tensor
    """[scored]"""
    rollout_tokens: int
    """Sampled tokens of the whole rollout, which may have several sequences."""
    critic: Targets | None = None
    """What the critic learns from."""

    @property
    def prefix(self) -> int:
        """Tokens before the first sampled one."""
        return int(self.scored[0])

    @property
    def inputs(self) -> int:
        """Tokens that a forward pass needs: nothing is predicted from the last scored one or what follows."""
        return int(self.scored[-1])


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    returns: Tensor
    """[scored]"""
    values: Tensor
    """[scored] What the critic expected."""


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
    """Sequences packed into one row of tokens. What is [scored] is flat over the sampled tokens."""

    ids: Tensor
    """[1, tokens]"""
    positions: Tensor
    """[1, tokens]"""
    layout: Layout
    targets: Tensor
    """[scored] The ids to be predicted."""
    sources: Tensor
    """[scored] The place in the row from which each is predicted."""
    old_logprobs: Tensor
    """[scored]"""
    sampler_logprobs: Tensor
    """[scored]"""
    advantages: Tensor
    """[scored]"""
    rollout_tokens: Tensor
    """[scored] Sampled tokens of the rollout that each token belongs to."""
    sequences: Tensor
    """[scored] Number of the sequence that each token belongs to."""
    samples: tuple[int, ...]
    """Where each sequence stood in what was cut up."""
    critic: Targets | None


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How whole sequences lie in a row in which prompts are shared. Attention goes there and back."""

    lengths: tuple[int, ...]
    """Of the whole sequences, longest first."""
    spread: Tensor
    """[sum of lengths] Where in the row each token of each whole sequence lies."""
    gather: Tensor
    """[tokens] Where among the whole sequences' tokens each token of the row is found."""

    def to(self, device: torch.device) -> Layout:
        return Layout(self.lengths, self.spread.to(device), self.gather.to(device))


def assemble(groups: Sequence[Group], advantages: Advantages) -> list[list[Sample]]:
    """The samples of every group. Failed rollouts and sequences in which nothing was sampled give none."""
    return [
        [
            sample
            for rollout, advantage in zip(group.rollouts, row, strict=True)
            if rollout.ok
            for sample in samples_of(rollout, advantage)
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


Row = list[list[int]]
"""Places of the samples that make up a micro-batch, prompt by prompt."""


def micro_batches(samples: Sequence[Sample], token_budget: int) -> Iterator[MicroBatch]:
    """The samples, packed into as few rows as the budget allows."""
    for row in rows(samples, token_budget):
        yield pack(samples, row)


def rows(samples: Sequence[Sample], token_budget: int) -> Iterator[Row]:
    """Rows of at most `token_budget` tokens; a sequence longer than that has a row of its own.

    Best fit, decreasing: the sequences of a prompt, which share its tokens, go into the fullest row that has room
    for all of them, those that take most first. Only what is more than a whole row is cut.

    Rows with the longest sequence come first, so that a batch too large for memory fails at once.
    """
    filled: list[Row] = []
    rooms: list[tuple[int, int]] = []  # what is left of each row, and which it is; the fullest first
    for tokens, places in sorted(_pieces(samples, token_budget), key=lambda piece: -piece[0]):
        fullest = bisect_left(rooms, (tokens, 0))
        room, row = rooms.pop(fullest) if fullest < len(rooms) else (token_budget, len(filled))
        if row == len(filled):
            filled.append([])
        filled[row].append(places)
        insort(rooms, (room - tokens, row))
    yield from sorted(filled, key=lambda row: -max(samples[places[0]].inputs for places in row))


def _pieces(samples: Sequence[Sample], token_budget: int) -> Iterator[tuple[int, list[int]]]:
    """The samples of each prompt, longest first, and the tokens that they take; cut where more than a row."""
    prompts: dict[bytes, list[int]] = {}
    for place, sample in enumerate(samples):
        prompts.setdefault(sample.ids[: sample.prefix].numpy().tobytes(), []).append(place)
    for places in prompts.values():
        left = sorted(places, key=lambda place: -samples[place].inputs)
        while left:
            piece, others = left[:1], []
            tokens, shared = samples[left[0]].inputs, samples[left[0]].prefix - 1
            for place in left[1:]:
                own = samples[place].inputs - shared
                if tokens + own <= token_budget:
                    piece.append(place)
                    tokens += own
                else:
                    others.append(place)
            yield tokens, piece
            left = others


def pack(samples: Sequence[Sample], row: Sequence[Sequence[int]]) -> MicroBatch:
    """One row of those samples whose places are listed, prompt by prompt."""
    ids, positions, sources, spread = [], [], [], []
    end = 0
    for places in row:
        shared = samples[places[0]].prefix - 1  # a prompt's last token is each sequence's own: it predicts
        first, end = end, end + shared
        ids.append(samples[places[0]].ids[:shared])
        positions.append(torch.arange(shared))
        for place in places:
            sample = samples[place]
            own = sample.inputs - shared
            ids.append(sample.ids[shared : sample.inputs])
            positions.append(torch.arange(shared, sample.inputs))
            sources.append(sample.scored - 1 - shared + end)
            spread.append(torch.cat([torch.arange(first, first + shared), torch.arange(end, end + own)]))
            end += own
    packed = [samples[place] for places in row for place in places]
    counts = torch.tensor([sample.scored.numel() for sample in packed])
    return MicroBatch(
        ids=torch.cat(ids)[None],
        positions=torch.cat(positions)[None],
        layout=_layout(spread, end),
        targets=torch.cat([sample.ids[sample.scored] for sample in packed]),
        sources=torch.cat(sources),
        old_logprobs=torch.cat([sample.old_logprobs for sample in packed]),
        sampler_logprobs=torch.cat([sample.sampler_logprobs for sample in packed]),
        advantages=torch.cat([sample.advantages for sample in packed]),
        rollout_tokens=torch.tensor([sample.rollout_tokens for sample in packed]).repeat_interleave(counts),
        sequences=torch.arange(len(packed)).repeat_interleave(counts),
        samples=tuple(place for places in row for place in places),
        critic=_targets([sample.critic for sample in packed if sample.critic is not None]),
    )


def _targets(targets: Sequence[Targets]) -> Targets | None:
    """Of a row; all samples of a batch have them, or none."""
    if not targets:
        return None
    return Targets(
        torch.cat([each.returns for each in targets]), torch.cat([each.values for each in targets])
    )


def _layout(spread: list[Tensor], tokens: int) -> Layout:
    """Whole sequences longest first, so that attention can take those of one length together."""
    spread = sorted(spread, key=lambda places: -places.numel())
    everywhere = torch.cat(spread)
    gather = torch.empty(tokens, dtype=torch.long)
    start = everywhere.numel()
    for places in reversed(spread):  # a shared token is taken from the first, longest sequence that has it
        start -= places.numel()
        gather[places] = torch.arange(start, start + places.numel())
    return Layout(tuple(places.numel() for places in spread), everywhere, gather)


def samples_of(rollout: Rollout, advantage: float | Credit = 0.0) -> list[Sample]:
    """One for each segment in which something was sampled."""
    segments = [(segment, _scored(segment)) for segment in rollout.segments]
    counts = [scored.numel() for _, scored in segments]
    tokens = sum(counts)
    sampler = [torch.tensor(segment.logprobs)[scored] for segment, scored in segments]
    old = _cut(rollout.signals.old_logprobs, counts) if rollout.signals.old_logprobs else sampler
    per_token = advantage.tokens if isinstance(advantage, Credit) else [advantage] * tokens
    advantages, targets = _cut(per_token, counts), _critic_targets(rollout, advantage, counts)
    return [
        Sample(
            ids=torch.tensor(segment.ids),
            scored=scored,
            old_logprobs=old[place],
            sampler_logprobs=sampler[place],
            advantages=advantages[place],
            rollout_tokens=tokens,
            critic=targets[place],
        )
        for place, (segment, scored) in enumerate(segments)
        if scored.numel()
    ]


def _critic_targets(
    rollout: Rollout, advantage: float | Credit, counts: list[int]
) -> Sequence[Targets | None]:
    if not isinstance(advantage, Credit) or advantage.returns is None:
        return [None] * len(counts)
    returns, values = _cut(advantage.returns, counts), _cut(rollout.signals.values, counts)
    return [Targets(*each) for each in zip(returns, values, strict=True)]


def _cut(numbers: Sequence[float], counts: list[int]) -> Sequence[Tensor]:
    """Flat numbers of a rollout's trained tokens, segment by segment."""
    parts: Sequence[Tensor] = torch.tensor(numbers, dtype=torch.float32).split(counts)
    return parts


def _scored(segment: Segment) -> Tensor:
    scored = torch.tensor(segment.scored, dtype=torch.long)
    if scored.numel() and not scored[0]:
        raise ValueError("a segment begins with a sampled token: there is no context to predict it from")
    return scored
