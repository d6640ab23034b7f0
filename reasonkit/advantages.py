"""Rewards to advantages: numbers in, numbers out.

Each function sees the whole rollout batch and gives every rollout either one number, which all of its sampled
tokens share, or a Credit with one a token. A failed rollout gets 0.0 and takes no part in any baseline, deviation
or count. A group that has nothing to compare (all rewards equal, one rollout, all failed) gives exactly 0.0, so
that it can be told apart and left out of the forward pass.

What a function's options are, its keyword-only arguments say: `algorithm: {ppo: {lam: 0.95}}`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonkit.records import Group, Rollout


@dataclass(frozen=True, slots=True)
class Credit:
    """An advantage for each trained token of a rollout, all its segments in turn."""

    tokens: list[float]
    returns: list[float] | None = None
    """What a critic should have expected at each token."""


Advantages = list[list[float | Credit]]
"""For every group, one advantage a rollout, in the groups' own order."""
Advantage = Callable[[Sequence[Group]], Advantages]

ADVANTAGES: dict[str, str] = {
    "grpo": "reasonkit.advantages:grpo",
    "grpo_loo": "reasonkit.advantages:grpo_loo",
    "dr_grpo": "reasonkit.advantages:dr_grpo",
    "rloo": "reasonkit.advantages:rloo",
    "reinforce_pp": "reasonkit.advantages:reinforce_pp",
    "reinforce_pp_baseline": "reasonkit.advantages:reinforce_pp_baseline",
    "ppo": "reasonkit.advantages:ppo",
}

WITH_CRITIC = frozenset({"ppo"})
"""Algorithms that read Signals.values: the learner keeps a critic for them."""

STD_EPSILON = 1e-6
VARIANCE_EPSILON = 1e-8


def grpo(groups: Sequence[Group], *, epsilon: float = STD_EPSILON) -> Advantages:
    """(r − mean) / (std + ε) within the group, with the unbiased deviation."""

    def scaled(rewards: list[float]) -> list[float]:
        deviation = statistics.stdev(rewards) + epsilon
        return [difference / deviation for difference in _centred(rewards)]

    return _each_group(groups, scaled)


def grpo_loo(groups: Sequence[Group], *, epsilon: float = STD_EPSILON) -> Advantages:
    """As grpo, but the baseline and the deviation of a rollout are those of the others in its group.

    Where all the others earned the same, there is no deviation to divide by, and the difference stands as it is.
    """

    def scaled(rewards: list[float]) -> list[float]:
        return [
            _against(reward, rewards[:place] + rewards[place + 1 :], epsilon)
            for place, reward in enumerate(rewards)
        ]

    return _each_group(groups, scaled)


def dr_grpo(groups: Sequence[Group]) -> Advantages:
    """r − mean within the group: no division, so hard and easy problems weigh by their own variance."""
    return _each_group(groups, _centred)


def rloo(groups: Sequence[Group]) -> Advantages:
    """r − the mean of the others in the group, which is G/(G−1) · (r − mean)."""

    def scaled(rewards: list[float]) -> list[float]:
        factor = len(rewards) / (len(rewards) - 1)
        return [factor * difference for difference in _centred(rewards)]

    return _each_group(groups, scaled)


def reinforce_pp(groups: Sequence[Group], *, gamma: float = 1.0, per_turn: bool = False) -> Advantages:
    """The return of every token (its own reward and the discounted ones after it), whitened over the batch.

    With `per_turn` what an environment gave for a turn is the reward of that turn's last token, so that no turn is
    credited with what earlier ones earned; without, all of it is the reward of the episode's last token.
    """
    weight = _weight_of_turns(groups) if per_turn else 0.0
    return _whiten(groups, _each_rollout(groups, lambda rollout: _returns(rollout, gamma, weight)))


def reinforce_pp_baseline(groups: Sequence[Group]) -> Advantages:
    """r − mean within the group, whitened over all tokens of the batch."""
    return _whiten(groups, dr_grpo(groups))


def ppo(
    groups: Sequence[Group],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    per_turn: bool = False,
    critic: Mapping[str, Any] | None = None,
) -> Advantages:
    """Generalised advantage estimation against a critic, whitened over the batch.

    Consecutive trained tokens follow each other, whatever an environment said between them; `per_turn` rewards each
    turn at its last token, as in reinforce_pp. `critic` holds the
    learner's settings of it (train/critic.py): `{lr: 1.0e-5, clip: 0.2}`.
    """
    del critic
    weight = _weight_of_turns(groups) if per_turn else 0.0
    return _whiten(groups, _each_rollout(groups, lambda rollout: _estimate(rollout, gamma, lam, weight)))


def _estimate(rollout: Rollout, gamma: float, lam: float, weight: float) -> Credit:
    values = rollout.signals.values
    advantages: list[float] = []
    following, ahead = 0.0, 0.0
    for reward, value in zip(reversed(_token_rewards(rollout, weight)), reversed(values), strict=True):
        following = reward + gamma * ahead - value + gamma * lam * following
        ahead = value
        advantages.append(following)
    advantages.reverse()
    return Credit(advantages, [each + value for each, value in zip(advantages, values, strict=True)])


def _returns(rollout: Rollout, gamma: float, weight: float) -> float | Credit:
    """One number where all tokens have the same return."""
    if gamma == 1.0 and not rollout.signals.penalties and not weight:
        return rollout.reward
    returns = itertools.accumulate(
        reversed(_token_rewards(rollout, weight)), lambda ahead, reward: reward + gamma * ahead
    )
    return Credit([*returns][::-1])


def _weight_of_turns(groups: Sequence[Group]) -> float:
    """What the recipe weighs the environment's rewards with: parts hold weighted sums, turns what was given."""
    rollouts = (rollout for group in groups for rollout in group.rollouts if rollout.ok)
    return next((each.parts["env"] / each.env_reward for each in rollouts if each.env_reward), 0.0)


def _token_rewards(rollout: Rollout, weight: float) -> list[float]:
    """The penalty of each trained token, at the last of each turn `weight` times what the environment gave for it,
    and the rest of the rollout's reward at the last of all."""
    signals = rollout.signals
    rewards = [-penalty for penalty in signals.penalties] or [0.0] * rollout.scored_tokens
    if not rewards:
        return []
    rewards[-1] += rollout.reward
    scored = [segment.scored for segment in rollout.segments]
    for turn in rollout.turns if weight else ():
        before = sum(map(len, scored[: turn.segment]))
        rewards[before + bisect_left(scored[turn.segment], turn.end) - 1] += weight * turn.reward
        rewards[-1] -= weight * turn.reward
    return rewards


def _net_reward(rollout: Rollout) -> float:
    return rollout.reward - math.fsum(rollout.signals.penalties)


def _each_rollout(groups: Sequence[Group], credit: Callable[[Rollout], float | Credit]) -> Advantages:
    return [[credit(rollout) if rollout.ok else 0.0 for rollout in group.rollouts] for group in groups]


def _each_group(groups: Sequence[Group], advantages: Callable[[list[float]], list[float]]) -> Advantages:
    """Apply to the rewards that count, wherever at least two of them differ; 0.0 elsewhere."""
    result: Advantages = []
    for group in groups:
        rewards = [_net_reward(rollout) for rollout in group.rollouts if rollout.ok]
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


def _whiten(groups: Sequence[Group], rows: Advantages) -> Advantages:
    """Zero mean and unit variance over trained tokens, so that a longer reply weighs more."""
    counted = [
        weighted
        for group, row in zip(groups, rows, strict=True)
        for rollout, advantage in zip(group.rollouts, row, strict=True)
        if rollout.ok
        for weighted in _weighted(advantage, rollout.scored_tokens)
    ]
    if len({value for value, _ in counted}) < 2:
        return [[_mapped(each, lambda _: 0.0) for each in row] for row in rows]
    tokens = sum(length for _, length in counted)
    mean = math.fsum(value * length for value, length in counted) / tokens
    squares = math.fsum((value - mean) ** 2 * length for value, length in counted)
    scale = 1.0 / math.sqrt(squares / (tokens - 1) + VARIANCE_EPSILON)
    return [
        [
            _mapped(each, lambda value: (value - mean) * scale)
            if rollout.ok and rollout.scored_tokens
            else 0.0
            for rollout, each in zip(group.rollouts, row, strict=True)
        ]
        for group, row in zip(groups, rows, strict=True)
    ]


def _weighted(advantage: float | Credit, tokens: int) -> Iterator[tuple[float, int]]:
    """(value, number of tokens that have it)"""
    if isinstance(advantage, Credit):
        yield from ((value, 1) for value in advantage.tokens)
    elif tokens:
        yield advantage, tokens


def _mapped(advantage: float | Credit, function: Callable[[float], float]) -> float | Credit:
    if isinstance(advantage, Credit):
        return Credit([function(value) for value in advantage.tokens], advantage.returns)
    return function(advantage)
