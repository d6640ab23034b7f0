"""From log-probabilities and advantages to one number to differentiate: pure functions of tensors.

All tensors are flat, [tokens], and hold sampled tokens only: prompts, what environments said, and padding never
get here, so no function needs a mask. How token losses become one number is a weight that each token brings
along, computed from the counts of the whole batch (`token_weights`). The loss is then a plain sum, and sums over
micro-batches, packs or ranks add up to the same gradient however the batch is cut.

Samples may come from an engine whose log-probabilities differ from the learner's: other kernels, other precision,
older weights. A correction weighs each token's policy loss by how far they are apart. Left out: the forward pass.
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
    """By the learner before it updated on this rollout batch: fixed over all its updates."""
    sampler_logprobs: Tensor
    """As the engine gave them."""
    advantages: Tensor
    weights: Tensor
    """Each token's share in the batch's loss."""
    sequences: Tensor
    """Number of the sequence, within the micro-batch, that each token belongs to."""
    entropy: Tensor | None = None
    """Of the distribution that each token was drawn from."""
    reference_logprobs: Tensor | None = None
    """Of the model that training must not leave behind; None where nothing in the loss holds it back."""


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
    "gspo": "reasonkit.losses:gspo",
    "cispo": "reasonkit.losses:cispo",
    "nll": "reasonkit.losses:nll",
}

Correction = Callable[[Tensor, Tensor], Tensor]
"""(log of learner's over engine's probability of each token, its sequence) -> weight of each token's loss."""

CORRECTIONS: dict[str, str] = {
    "none": "reasonkit.losses:no_correction",
    "token_tis": "reasonkit.losses:token_tis",
    "sequence_tis": "reasonkit.losses:sequence_tis",
    "icepop": "reasonkit.losses:icepop",
    "geometric": "reasonkit.losses:geometric",
}

SILENT_AT_ZERO = frozenset({"clipped", "gspo", "cispo", "nll"})
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
    return TokenLoss(values, _measured(inputs, ratio, lowest, highest))


def gspo(inputs: LossInputs, *, low: float = 3e-4, high: float = 4e-4) -> TokenLoss:
    """As clipped, with one ratio a sequence: the geometric mean of its tokens' ratios."""
    log_ratios = log_ratio(inputs)
    mean = _sequence_mean(log_ratios.detach(), inputs.sequences)
    # The value is the sequence's ratio; the gradient flows through each token's own log-probability.
    ratio = (mean + log_ratios - log_ratios.detach()).exp()
    advantages, lowest, highest = inputs.advantages, 1.0 - low, 1.0 + high
    values = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(lowest, highest))
    return TokenLoss(values, _measured(inputs, ratio, lowest, highest))


def cispo(inputs: LossInputs, *, floor: float = 0.0, cap: float = 5.0) -> TokenLoss:
    """The log-probability itself, weighted by its ratio clipped to [floor, cap]: no token loses its gradient.

    The bounds are absolute, as TRL's; elsewhere the same name means 1 + epsilon.
    """
    ratio = log_ratio(inputs).detach().exp()
    values = -ratio.clamp(floor, cap) * inputs.advantages * inputs.logprobs
    return TokenLoss(values, _measured(inputs, ratio, floor, cap))


def _measured(inputs: LossInputs, ratio: Tensor, lowest: float, highest: float) -> dict[str, Tensor]:
    ratio = ratio.detach()
    return {
        "ratio": ratio,
        "clip_low": (inputs.advantages < 0) & (ratio < lowest),
        "clip_high": (inputs.advantages > 0) & (ratio > highest),
        "kl_old": divergence(inputs.logprobs, inputs.old_logprobs, "k3"),
    }


def _sequence_sum(values: Tensor, sequences: Tensor) -> Tensor:
    """Of each token, the sum over its sequence."""
    totals = values.new_zeros(int(sequences.max()) + 1 if sequences.numel() else 0)
    return totals.index_add(0, sequences, values)[sequences]


def _sequence_mean(values: Tensor, sequences: Tensor) -> Tensor:
    return _sequence_sum(values, sequences) / _sequence_sum(torch.ones_like(values), sequences)


def nll(inputs: LossInputs) -> TokenLoss:
    """Imitation: the advantage is the weight of a demonstration, and nobody sampled it."""
    return TokenLoss(-inputs.advantages * inputs.logprobs)


def no_correction(log_weights: Tensor, sequences: Tensor) -> Tensor:
    """Trust the engine: 1 everywhere."""
    del sequences
    return torch.ones_like(log_weights)


def token_tis(log_weights: Tensor, sequences: Tensor, *, cap: float = 2.0) -> Tensor:
    """Truncated importance sampling: each token's own weight, at most `cap`."""
    del sequences
    return log_weights.exp().clamp(max=cap)


def sequence_tis(log_weights: Tensor, sequences: Tensor, *, cap: float = 2.0) -> Tensor:
    """The weight of the whole sequence (the product over its tokens), at most `cap`. Falls fast with length."""
    return _sequence_sum(log_weights, sequences).clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=cap)


def icepop(log_weights: Tensor, sequences: Tensor, *, low: float = 0.5, high: float = 5.0) -> Tensor:
    """Each token's own weight inside [low, high]; a token outside does not count."""
    del sequences
    weights = log_weights.exp()
    return torch.where((weights >= low) & (weights <= high), weights, 0.0)


def geometric(log_weights: Tensor, sequences: Tensor, *, low: float = 0.99, high: float = 1.01) -> Tensor:
    """Leave out whole sequences whose mean weight (geometric) is outside [low, high]; 1 for the others."""
    weights = _sequence_mean(log_weights, sequences).exp()
    return ((weights >= low) & (weights <= high)).to(log_weights.dtype)


def compute_loss(
    inputs: LossInputs, config: LossConfig, policy: PolicyLoss, correction: Correction
) -> LossOutputs:
    """The corrected policy loss with its KL penalty and entropy bonus, weighted and summed over tokens."""
    token_loss = policy(inputs)
    log_weights = (inputs.old_logprobs - inputs.sampler_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    weights = correction(log_weights, inputs.sequences)
    values = token_loss.values * weights
    measured = {
        **token_loss.measured,
        "mismatch_kl": divergence(inputs.sampler_logprobs, inputs.old_logprobs, "k3"),
        "correction": weights,
    }
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

    k1 is unbiased but noisy and of either sign; k2 and k3 are never negative, and k3 is unbiased too. As losses, k1
    has no gradient on average, and k3 that of the other direction, KL(reference ‖ policy); k2's is right.
    `k3_exact` is k3 with k2's gradient.
    """
    difference = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    match kind:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3_exact":
            gradient = difference.square() / 2
            return gradient + (_k3(difference) - gradient).detach()
        case _:
            return _k3(difference)


def _k3(difference: Tensor) -> Tensor:
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
    penalised = config.kl > 0 and config.kl_kind != "reward"
    return config.policy.name in SILENT_AT_ZERO and not config.entropy and not penalised
