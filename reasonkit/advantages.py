"""Rewards to advantages: numbers in, numbers out.

Each function sees the whole rollout batch and gives every rollout one number, which all of its sampled tokens
share. A failed rollout gets 0.0 and takes no part in any baseline, deviation or count. A group that has nothing to
compare (all rewards equal, one rollout, all failed) gives exactly 0.0, so that it can be told apart and left out of
the forward pass. Left out: advantages that differ from token to token, which need a critic.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from reasonkit.records import Group

Advantage = Callable[[Sequence[Group]], list[list[float]]]
"""For every group, one advantage a rollout, in the groups' own order."""

ADVANTAGES: dict[str, str] = {
    "grpo": "reasonkit.advantages:grpo",
    "grpo_loo": "reasonkit.advantages:grpo_loo",
    "dr_grpo": "reasonkit.advantages:dr_grpo",
    "rloo": "reasonkit.advantages:rloo",
    "reinforce_pp": "reasonkit.advantages:reinforce_pp",
    "reinforce_pp_baseline": "reasonkit.advantages:reinforce_pp_baseline",
}

STD_EPSILON = 1e-6
VARIANCE_EPSILON = 1e-8


def grpo(groups: Sequence[Group], epsilon: float = STD_EPSILON) -> list[list[float]]:
    """(r − mean) / (std + ε) within the group, with the unbiased deviation."""

    def scaled(rewards: list[float]) -> list[float]:
        deviation = statistics.stdev(rewards) + epsilon
        return [difference / deviation for difference in _centred(rewards)]

    return _each_group(groups, scaled)


def grpo_loo(groups: Sequence[Group], epsilon: float = STD_EPSILON) -> list[list[float]]:
    """As grpo, but the baseline and the deviation of a rollout are those of the others in its group.

    Where all the others earned the same, there is no deviation to divide by, and the difference stands as it is.
    """

    def scaled(rewards: list[float]) -> list[float]:
        return [
            _against(reward, rewards[:place] + rewards[place + 1 :], epsilon)
            for place, reward in enumerate(rewards)
        ]

    return _each_group(groups, scaled)


def dr_grpo(groups: Sequence[Group]) -> list[list[float]]:
    """r − mean within the group: no division, so hard and easy problems weigh by their own variance."""
    return _each_group(groups, _centred)


def rloo(groups: Sequence[Group]) -> list[list[float]]:
    """r − the mean of the others in the group, which is G/(G−1) · (r − mean)."""

    def scaled(rewards: list[float]) -> list[float]:
        factor = len(rewards) / (len(rewards) - 1)
        return [factor * difference for difference in _centred(rewards)]

    return _each_group(groups, scaled)


def reinforce_pp(groups: Sequence[Group]) -> list[list[float]]:
    """The return of every token (undiscounted, so it is the reward), whitened over all tokens of the batch."""
    return _whiten(groups, [[rollout.reward for rollout in group.rollouts] for group in groups])


def reinforce_pp_baseline(groups: Sequence[Group]) -> list[list[float]]:
    """r − mean within the group, whitened over all tokens of the batch."""
    return _whiten(groups, dr_grpo(groups))


def _each_group(
    groups: Sequence[Group], advantages: Callable[[list[float]], list[float]]
) -> list[list[float]]:
    """Apply to the rewards that count, wherever at least two of them differ; 0.0 elsewhere."""
    result = []
    for group in groups:
        rewards = group.rewards
        differ = len(set(rewards)) > 1
        values = iter(advantages(rewards) if differ else [0.0] * len(rewards))
        result.append([next(values) if rollout.ok else 0.0 for rollout in group.rollouts])
    return result


def _centred(rewards: list[float]) -> list[float]:
    mean = statistics.fmean(rewards)
    return [reward - mean for reward in rewards]


def _against(reward: float, others: list[float], epsilon: float) -> float:
    difference = reward - statistics.fmean(others)
    if len(set(others)) == 1:
        return difference
    return difference / (statistics.stdev(others) + epsilon)


def _whiten(groups: Sequence[Group], values: list[list[float]]) -> list[list[float]]:
    """Zero mean and unit variance over sampled tokens, so that a longer reply weighs more."""
    counted = [
        (value, rollout.sampled_tokens)
        for group, row in zip(groups, values, strict=True)
        for rollout, value in zip(group.rollouts, row, strict=True)
        if rollout.ok and rollout.sampled_tokens
    ]
    if len({value for value, _ in counted}) < 2:
        return [[0.0] * len(row) for row in values]
    tokens = sum(length for _, length in counted)
    mean = math.fsum(value * length for value, length in counted) / tokens
    squares = math.fsum((value - mean) ** 2 * length for value, length in counted)
    scale = 1.0 / math.sqrt(squares / (tokens - 1) + VARIANCE_EPSILON)
    return [
        [
            (value - mean) * scale if rollout.ok and rollout.sampled_tokens else 0.0
            for rollout, value in zip(group.rollouts, row, strict=True)
        ]
        for group, row in zip(groups, values, strict=True)
    ]
