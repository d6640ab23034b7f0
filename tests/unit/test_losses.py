"""Losses: published numbers, gradients by hand, and aggregation against its definition."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from reasonkit.losses import (
    LOSSES,
    SILENT_AT_ZERO,
    Correction,
    LossInputs,
    LossOutputs,
    PolicyLoss,
    cispo,
    clipped,
    compute_loss,
    divergence,
    geometric,
    gspo,
    icepop,
    ignores_zero_advantage,
    nll,
    no_correction,
    sequence_tis,
    token_tis,
    token_weights,
)
from reasonkit.recipe import LossConfig
from reasonkit.registry import resolve


def inputs(ratios: list[float], advantages: list[float], **others: Any) -> LossInputs:
    """One sequence of tokens with given ratios; every token weighs 1."""
    old = torch.full((len(ratios),), -1.0)
    return LossInputs(
        logprobs=(old + torch.tensor(ratios).log()).requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=others.pop("sampler_logprobs", old),
        advantages=torch.tensor(advantages),
        weights=torch.ones(len(ratios)),
        sequences=others.pop("sequences", torch.zeros(len(ratios), dtype=torch.long)),
        **others,
    )


def loss_of(
    given: LossInputs, policy: PolicyLoss = clipped, *, config: LossConfig | None = None
) -> LossOutputs:
    return compute_loss(given, config or LossConfig(), policy, no_correction)


def values(ratio: float, advantage: float, **options: float) -> float:
    return clipped(inputs([ratio], [advantage]), **options).values.item()


def gradient(given: LossInputs, **options: float) -> list[float]:
    loss_of(given, partial(clipped, **options)).loss.backward()
    assert given.logprobs.grad is not None
    return given.logprobs.grad.tolist()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 1.0, -1.0),
        (1.5, 1.0, -1.28),  # gained too much: clipped above
        (0.5, 1.0, -0.5),  # lost: not clipped
        (0.5, -1.0, 0.8),  # gained too much: clipped below
        (1.5, -1.0, 1.5),  # lost: not clipped
    ],
)
def test_the_pessimistic_side_of_the_clip_counts(ratio: float, advantage: float, expected: float) -> None:
    assert values(ratio, advantage, low=0.2, high=0.28) == pytest.approx(expected)


def test_dual_clip_bounds_what_a_negative_advantage_can_cost() -> None:
    assert values(5.0, -1.0) == pytest.approx(5.0)
    assert values(5.0, -1.0, dual=3.0) == pytest.approx(3.0)
    assert values(2.0, -1.0, dual=3.0) == pytest.approx(2.0)
    assert values(0.1, 1.0, dual=3.0) == pytest.approx(-0.1)


def test_the_gradient_is_minus_advantage_times_ratio_and_zero_where_clipped() -> None:
    given = inputs([1.0, 1.1, 1.5, 0.5, 0.9, 4.0], [2.0, -1.0, 1.0, -1.0, 0.5, -1.0])
    expected = [-2.0, 1.1, 0.0, 0.0, -0.45, 0.0]  # the last one by the dual clip
    assert gradient(given, dual=3.0) == pytest.approx(expected, abs=1e-6)


def test_gspo_has_one_ratio_a_sequence_and_its_gradient_reaches_every_token() -> None:
    sequences = torch.tensor([0, 0, 1])
    given = inputs([2.0, 0.5, 1.0001], [1.0, 1.0, -1.0], sequences=sequences)
    values = gspo(given).values
    assert values.tolist() == pytest.approx([-1.0, -1.0, 1.0001], abs=1e-6)  # sqrt(2 · 0.5) = 1
    values.sum().backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx([-1.0, -1.0, 1.0001], abs=1e-6)


def test_gspo_clips_whole_sequences_at_a_few_ten_thousandths() -> None:
    given = inputs([1.001, 1.001], [1.0, -1.0], sequences=torch.tensor([0, 1]))
    values = gspo(given).values
    assert values.tolist() == pytest.approx([-1.0004, 1.001], abs=1e-6)
    values.sum().backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx([0.0, 1.001], abs=1e-6)


def test_cispo_clips_the_weight_and_keeps_every_gradient() -> None:
    given = inputs([0.5, 9.0], [2.0, -1.0])
    values = cispo(given).values
    assert values.tolist() == pytest.approx([-1.0 * given.logprobs[0].item(), 5.0 * given.logprobs[1].item()])
    values.sum().backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx([-1.0, 5.0])


LOG_WEIGHTS = torch.tensor([3.0, 0.25, 1.0, 8.0]).log()
SEQUENCES = torch.tensor([0, 0, 1, 2])


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (no_correction, [1.0, 1.0, 1.0, 1.0]),
        (token_tis, [2.0, 0.25, 1.0, 2.0]),
        (sequence_tis, [0.75, 0.75, 1.0, 2.0]),
        (icepop, [3.0, 0.0, 1.0, 0.0]),
        (geometric, [0.0, 0.0, 1.0, 0.0]),  # sqrt(0.75) = 0.866
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_corrections_weigh_by_learner_over_engine(correction: Correction, expected: list[float]) -> None:
    assert correction(LOG_WEIGHTS, SEQUENCES).tolist() == pytest.approx(expected)


def test_a_correction_weighs_the_policy_loss_alone_and_carries_no_gradient() -> None:
    sampler = torch.tensor([-1.0, -1.0 + math.log(4.0)])
    entropy = torch.tensor([0.7, 0.2])
    given = inputs([1.0, 1.0], [1.0, 1.0], sampler_logprobs=sampler, entropy=entropy)
    outputs = compute_loss(given, LossConfig(entropy=0.1), clipped, token_tis)
    assert outputs.loss.item() == pytest.approx(-1.25 - 0.09)
    assert outputs.sums["correction"].item() == pytest.approx(1.25)
    assert outputs.sums["mismatch_kl"].item() == pytest.approx(0.25 - 1 + math.log(4))
    outputs.loss.backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx([-1.0, -0.25])


def test_k3_exact_has_the_value_of_k3_and_the_gradient_of_the_true_divergence() -> None:
    torch.manual_seed(0)
    scores = torch.randn(8, requires_grad=True)
    reference = torch.randn(8).log_softmax(0)
    policy = scores.log_softmax(0)
    (true,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), scores, retain_graph=True)

    def expected_gradient(kind: str) -> Tensor:
        """As training takes it: the gradient of each sampled token's estimate, averaged over the policy."""
        estimate = divergence(policy, reference, kind)
        [gradient] = torch.autograd.grad((policy.exp().detach() * estimate).sum(), scores, retain_graph=True)
        return gradient

    assert torch.equal(divergence(policy, reference, "k3_exact"), divergence(policy, reference, "k3"))
    torch.testing.assert_close(expected_gradient("k3_exact"), true)
    assert not torch.allclose(expected_gradient("k3"), true, atol=1e-2)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(8), atol=1e-6, rtol=0)


def test_a_ratio_out_of_range_neither_overflows_nor_turns_into_nan() -> None:
    given = LossInputs(
        logprobs=torch.tensor([0.0, -500.0], requires_grad=True),
        old_logprobs=torch.tensor([-500.0, 0.0]),
        sampler_logprobs=torch.tensor([-500.0, 0.0]),
        advantages=torch.tensor([-1.0, 1.0]),
        weights=torch.ones(2),
        sequences=torch.zeros(2, dtype=torch.long),
    )
    outputs = loss_of(given)
    assert outputs.loss.item() == pytest.approx(math.exp(20), rel=1e-5)
    assert all(math.isfinite(each) for each in gradient(given))


def test_what_is_measured_adds_up_over_tokens() -> None:
    given = inputs([1.5, 0.5, 1.0, 1.5, 0.5], [1.0, -1.0, 1.0, -1.0, 1.0])
    sums = {name: each.item() for name, each in loss_of(given).sums.items()}
    assert sums["clip_high"] == 1.0
    assert sums["clip_low"] == 1.0
    assert sums["ratio"] == pytest.approx(5.0)
    assert sums["kl_old"] == pytest.approx(2 * (1 / 1.5 - 1 + math.log(1.5)) + 2 * (2 - 1 + math.log(0.5)))


@pytest.mark.parametrize(
    ("kind", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", 0.106531)], ids=["k1", "k2", "k3"]
)
def test_divergence_estimators(kind: str, expected: float) -> None:
    policy, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert divergence(policy, reference, kind).item() == pytest.approx(expected, abs=1e-6)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 8).log_softmax(1)
    exact = (policy.exp() * (policy - reference)).sum().item()
    for kind in ("k1", "k3"):
        expectation = (policy.exp() * divergence(policy, reference, kind)).sum()
        assert expectation.item() == pytest.approx(exact, abs=1e-6)
    assert (divergence(policy, reference, "k3") >= 0).all()
    assert divergence(torch.tensor([0.0]), torch.tensor([90.0]), "k3").item() == 10.0


def test_kl_penalty_and_entropy_bonus_join_the_loss_with_their_weights() -> None:
    entropy, reference = torch.tensor([0.7, 0.2]), torch.tensor([-1.5, -1.5])
    given = inputs([1.0, 1.0], [1.0, -1.0], entropy=entropy, reference_logprobs=reference)
    outputs = loss_of(given, config=LossConfig(entropy=0.1, kl=0.01))
    assert outputs.loss.item() == pytest.approx(-0.1 * 0.9 + 0.01 * 2 * 0.106531, abs=1e-6)
    assert outputs.sums["entropy"].item() == pytest.approx(0.9)
    assert outputs.sums["kl_reference"].item() == pytest.approx(2 * 0.106531, abs=1e-6)


def test_imitation_is_the_negative_log_probability() -> None:
    given = inputs([2.0, 0.5], [1.0, 1.0])
    assert nll(given).values.tolist() == (-given.logprobs).tolist()


LENGTHS = (2, 5, 1)
MAX_TOKENS = 8


@pytest.mark.parametrize(
    ("aggregation", "by_definition"),
    [
        ("token_mean", lambda rows: torch.cat(rows).mean()),
        ("seq_mean_token_mean", lambda rows: torch.stack([row.mean() for row in rows]).mean()),
        ("seq_mean_token_sum", lambda rows: torch.stack([row.sum() for row in rows]).mean()),
        ("constant", lambda rows: torch.cat(rows).sum() / (len(rows) * MAX_TOKENS)),
    ],
)
def test_weights_are_the_aggregation(aggregation: str, by_definition: Any) -> None:
    torch.manual_seed(0)
    rows = [torch.randn(length) for length in LENGTHS]
    weights = token_weights(
        aggregation,
        torch.tensor([length for length in LENGTHS for _ in range(length)]),
        tokens=sum(LENGTHS),
        sequences=len(LENGTHS),
        max_tokens=MAX_TOKENS,
    )
    assert (torch.cat(rows) * weights).sum().item() == pytest.approx(by_definition(rows).item(), abs=1e-6)


@pytest.mark.parametrize("name", sorted(SILENT_AT_ZERO))
def test_losses_that_say_so_give_no_gradient_at_zero_advantage(name: str) -> None:
    given = inputs([0.1, 1.0, 7.0], [0.0, 0.0, 0.0])
    loss_of(given, resolve("policy loss", name, LOSSES)).loss.backward()
    assert isinstance(given.logprobs.grad, Tensor)
    assert given.logprobs.grad.tolist() == [0.0, 0.0, 0.0]


def test_zero_advantage_matters_once_entropy_or_kl_or_an_unknown_loss_does() -> None:
    assert ignores_zero_advantage(LossConfig())
    assert not ignores_zero_advantage(LossConfig(entropy=0.01))
    assert not ignores_zero_advantage(LossConfig(kl=0.01))
    assert ignores_zero_advantage(LossConfig(kl=0.01, kl_kind="reward"))
    assert not ignores_zero_advantage(LossConfig(policy="mine:loss"))
