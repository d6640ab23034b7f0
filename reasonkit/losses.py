"""From log-probabilities and advantages to one number to differentiate: pure functions of tensors.

All tensors are flat, [tokens], and hold sampled tokens only: prompts, what environments said, and padding never
get here, so no function needs a mask. How token losses become one number is a weight that each token brings
along, computed from the counts of the whole batch (`token_weights`). The loss is then a plain sum, and sums over
micro-batches, packs or ranks add up to the same gradient however the batch is cut.

Left out: the forward pass, and the corrections for samples from stale weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reasonkit.recipe import LossConfig

LOG_RATIO_LIMIT = 20.0
"""exp() of a log-ratio beyond this says nothing but 'far off', and overflows."""
KL_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class LossInputs:
    """The sampled tokens of a micro-batch."""

    logprobs: Tensor
    """Of the weights being trained; the only tensor, with `entropy`, that carries a gradient."""
    old_logprobs: Tensor
    """Of the weights that sampled, fixed over all updates of a rollout batch."""
    advantages: Tensor
    weights: Tensor
    """Each token's share in the batch's loss."""
    sequences: Tensor
    """Number of the sequence, within the micro-batch, that each token belongs to."""
    entropy: Tensor | None = None
    """Of the distribution that each token was drawn from."""
    reference_logprobs: Tensor | None = None
    """Of the model that training must not leave behind."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """What a policy loss gives: the loss of each token, and what is worth counting, token by token."""

    values: Tensor
    measured: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """A micro-batch's part of the batch's loss, and sums over its tokens that add up over micro-batches."""

    loss: Tensor
    sums: Mapping[str, Tensor]


PolicyLoss = Callable[[LossInputs], TokenLoss]
"""Its keyword-only arguments are what a recipe may set: `loss: {policy: {clipped: {high: 0.28}}}`."""

LOSSES: dict[str, str] = {
    "clipped": "reasonkit.losses:clipped",
    "nll": "reasonkit.losses:nll",
}

SILENT_AT_ZERO = frozenset({"clipped", "nll"})
"""Policy losses that give a token of advantage 0 no gradient, whatever its ratio."""


def clipped(
    inputs: LossInputs, *, low: float = 0.2, high: float = 0.2, dual: float | None = None
) -> TokenLoss:
    """PPO's pessimistic choice between the plain ratio and the one clipped to [1 − low, 1 + high].

    With `dual`, the loss of a negative advantage is at most that many times −A.
    """
    advantages = inputs.advantages
    ratio = log_ratio(inputs).exp()
    lowest, highest = 1.0 - low, 1.0 + high
    values = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(lowest, highest))
    if dual is not None:
        bounded = torch.minimum(values, -advantages * dual)
        values = torch.where(advantages < 0, bounded, values)
    return TokenLoss(
        values,
        {
            "ratio": ratio.detach(),
            "clip_low": (advantages < 0) & (ratio.detach() < lowest),
            "clip_high": (advantages > 0) & (ratio.detach() > highest),
            "kl_old": divergence(inputs.logprobs, inputs.old_logprobs, "k3"),
        },
    )


def nll(inputs: LossInputs) -> TokenLoss:
    """Imitation: the advantage is the weight of a demonstration, and nobody sampled it."""
    return TokenLoss(-inputs.advantages * inputs.logprobs)


def compute_loss(inputs: LossInputs, config: LossConfig, policy: PolicyLoss) -> LossOutputs:
    """The policy loss with its KL penalty and entropy bonus, weighted and summed over tokens."""
    token_loss = policy(inputs)
    values = token_loss.values
    measured = dict(token_loss.measured)
    if inputs.entropy is not None:
        measured["entropy"] = inputs.entropy
        values = values - config.entropy * inputs.entropy if config.entropy else values
    if inputs.reference_logprobs is not None:
        penalty = divergence(inputs.logprobs, inputs.reference_logprobs, config.kl_kind)
        measured["kl_reference"] = penalty
        values = values + config.kl * penalty
    sums = {name: each.detach().sum(dtype=torch.float64) for name, each in measured.items()}
    return LossOutputs((values * inputs.weights).sum(), sums)


def log_ratio(inputs: LossInputs) -> Tensor:
    return (inputs.logprobs - inputs.old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def divergence(logprobs: Tensor, reference: Tensor, kind: str) -> Tensor:
    """An estimate of KL(policy ‖ reference) at each token that the policy sampled.

    k1 is unbiased but noisy and of either sign; k2 and k3 are never negative, and k3 is unbiased too.
    """
    difference = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    match kind:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case _:
            return (difference.exp() - difference - 1).clamp(-KL_LIMIT, KL_LIMIT)


def token_weights(
    aggregation: str, rollout_tokens: Tensor, *, tokens: int, sequences: int, max_tokens: int
) -> Tensor:
    """The share of each token in the loss of a batch of so many sampled tokens and rollouts.

    `rollout_tokens` is, for each token, the number of sampled tokens of its rollout.

    token_mean              the mean over all tokens: long replies weigh more
    seq_mean_token_mean     the mean over replies of their means: a token of a long reply weighs less
    seq_mean_token_sum      the mean over replies of their sums
    constant                the same, divided by the longest possible reply: no length bias, and a stable scale
    """
    lengths = rollout_tokens.to(torch.float32)
    match aggregation:
        case "token_mean":
            return torch.full_like(lengths, 1.0 / tokens)
        case "seq_mean_token_mean":
            return 1.0 / (sequences * lengths)
        case "seq_mean_token_sum":
            return torch.full_like(lengths, 1.0 / sequences)
        case _:
            return torch.full_like(lengths, 1.0 / (sequences * max_tokens))


def ignores_zero_advantage(config: LossConfig) -> bool:
    """Whether a sample of advantage 0 cannot change the gradient, so that its forward pass may be spared."""
    return config.policy.name in SILENT_AT_ZERO and not config.entropy and not config.kl
