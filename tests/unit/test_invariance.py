"""One batch, one gradient: however it is cut, ordered, packed, padded or shared out.

The reference is written here from the definitions, on whole padded logits from the model's own forward: none of the
learner's code takes part in it but the per-token policy loss, whose numbers test_losses.py holds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from reasonkit.advantages import ADVANTAGES, Credit
from reasonkit.losses import CORRECTIONS, LOSSES, LossInputs, divergence
from reasonkit.recipe import LossConfig, TrainConfig
from reasonkit.records import Segment
from reasonkit.registry import resolve, with_options
from reasonkit.train.learner import LocalLearner
from reasonkit.train.packing import Batch, assemble, mini_batches
from tests.learners import local_learner
from tests.rollout_batches import random_groups
from tests.tiny_models import SHAPES, Shape, tiny_model

VOCABULARY, TEMPERATURE, MAX_TOKENS = 40, 0.7, 32
AGGREGATIONS = get_args(LossConfig.model_fields["aggregation"].annotation)
EVERYTHING = {"policy": {"clipped": {"high": 0.28, "dual": 3.0}}, "entropy": 0.05, "kl": 0.1}
Padding = Literal["left", "right"]
Gradients = dict[str, Tensor]

GROUPS = random_groups(VOCABULARY)


def make_learner(
    shape: Shape = "llama", *, budget: int = 10_000, skip: bool = True, **loss: Any
) -> LocalLearner:
    learner = local_learner(
        tiny_model(shape, VOCABULARY),
        loss=LossConfig(**loss),
        train=TrainConfig(token_budget=budget),
        skip_zero_advantage=skip,
        total_updates=1,
        max_tokens=MAX_TOKENS,
        temperature=TEMPERATURE,
    )
    with torch.no_grad():  # away from the reference, so that the KL penalty has a gradient
        for parameter in learner.rank.model.parameters():
            parameter.mul_(1.1)
    return learner


def batch_of(advantage: str = "grpo") -> Batch:
    [batch] = mini_batches(assemble(GROUPS, resolve("algorithm", advantage, ADVANTAGES)(GROUPS)), len(GROUPS))
    return batch


def gradients(learner: LocalLearner, *batches: Batch) -> Gradients:
    learner.rank.model.zero_grad(set_to_none=False)
    for batch in batches:
        learner.rank.accumulate(batch)
    return {name: p.grad.clone() for name, p in learner.rank.model.named_parameters() if p.grad is not None}


def assert_same(one: Gradients, other: Gradients) -> None:
    assert one.keys() == other.keys()
    scale = max(each.abs().max().item() for each in one.values())
    assert scale > 1e-4, "a gradient of zero would equal anything"
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=2e-5 * scale, msg=name)


def reference_gradients(shape: Shape, config: LossConfig, advantage: str, padding: Padding) -> Gradients:
    """From the definitions: one padded batch of all that did not fail, full logits, masked means."""
    model, reference = tiny_model(shape, VOCABULARY), tiny_model(shape, VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    rows: list[tuple[Segment, list[float], int]] = []
    rollouts = 0
    table = resolve("algorithm", advantage, ADVANTAGES)(GROUPS)
    for group, values in zip(GROUPS, table, strict=True):
        for rollout, value in zip(group.rollouts, values, strict=True):
            if rollout.ok:
                counts = [sum(segment.mask) for segment in rollout.segments]
                spread = value.tokens if isinstance(value, Credit) else [value] * sum(counts)
                rows += [
                    (segment, spread[sum(counts[:place]) : sum(counts[: place + 1])], rollouts)
                    for place, segment in enumerate(rollout.segments)
                ]
                rollouts += 1
    columns = _padded([segment for segment, _, _ in rows], padding)
    logprobs, entropy = _by_model(model, *columns[:2])
    with torch.no_grad():
        reference_logprobs, _ = _by_model(reference, *columns[:2])
    mask, old = columns[2][:, 1:].bool(), columns[3][:, 1:]
    advantages = torch.tensor([value for _, values, _ in rows for value in values])
    sequences = torch.arange(len(rows))[:, None].expand_as(old)
    owner = torch.tensor([rollout for _, _, rollout in rows])[:, None].expand_as(old)[mask]
    inputs = LossInputs(logprobs[mask], old[mask], old[mask], advantages, torch.ones(0), sequences[mask])
    policy = with_options("policy loss", config.policy.name, LOSSES, config.policy.options)
    losses = policy(inputs).values - config.entropy * entropy[mask]
    losses = losses + config.kl * divergence(logprobs[mask], reference_logprobs[mask], config.kl_kind)
    _aggregate(config.aggregation, [losses[owner == rollout] for rollout in range(rollouts)]).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _padded(segments: list[Segment], padding: Padding) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, attention mask, loss mask and old log-probs, [segments, longest]."""
    longest = max(len(segment.ids) for segment in segments)

    def stack(column: Callable[[Segment], Any], dtype: torch.dtype) -> Tensor:
        result = torch.zeros(len(segments), longest, dtype=dtype)
        for row, segment in enumerate(segments):
            length = len(segment.ids)
            start = longest - length if padding == "left" else 0
            result[row, start : start + length] = torch.tensor(column(segment), dtype=dtype)
        return result

    return (
        stack(lambda segment: segment.ids, torch.long),
        stack(lambda segment: [1] * len(segment.ids), torch.long),
        stack(lambda segment: segment.mask, torch.long),
        stack(lambda segment: segment.logprobs, torch.float32),
    )


def _by_model(model: PreTrainedModel, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=positions).logits[:, :-1]
    logprobs = (logits / TEMPERATURE).log_softmax(-1)
    return logprobs.gather(2, ids[:, 1:, None])[..., 0], -(logprobs.exp() * logprobs).sum(-1)


def _aggregate(kind: str, rows: list[Tensor]) -> Tensor:
    match kind:
        case "token_mean":
            return torch.cat(rows).mean()
        case "seq_mean_token_mean":
            return torch.stack([row.mean() for row in rows]).mean()
        case "seq_mean_token_sum":
            return torch.stack([row.sum() for row in rows]).mean()
        case _:
            return torch.cat(rows).sum() / (len(rows) * MAX_TOKENS)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_packed_rows_give_the_gradient_of_padded_batches(advantage: str, aggregation: str) -> None:
    config = LossConfig(aggregation=aggregation, **EVERYTHING)
    learner = make_learner(aggregation=aggregation, **EVERYTHING)
    assert_same(
        gradients(learner, batch_of(advantage)), reference_gradients("llama", config, advantage, "right")
    )


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("policy", sorted(LOSSES))
def test_every_loss_and_correction_is_cut_and_shared_out_without_a_trace(
    policy: str, correction: str
) -> None:
    """The learner's own log-probs differ from the engine's here, so every correction has something to weigh."""
    batch = _recomputed(batch_of("ppo"))
    options = {"policy": policy, "correction": correction, "entropy": 0.05, "kl": 0.1, "kl_kind": "k3_exact"}
    whole, cut = (make_learner(budget=budget, **options) for budget in (10_000, 37))
    expected = gradients(whole, batch)
    assert_same(gradients(cut, batch), expected)
    half = len(batch.samples) // 2
    parts = [replace(batch, samples=batch.samples[:half]), replace(batch, samples=batch.samples[half:])]
    assert_same(gradients(make_learner(**options), *parts), expected)


@pytest.mark.parametrize("policy", ["gspo", "cispo", "nll"])
def test_packed_rows_give_the_gradient_of_padded_batches_for_other_losses(policy: str) -> None:
    packed = gradients(make_learner(policy=policy, kl=0.1), batch_of("grpo"))
    assert_same(packed, reference_gradients("llama", LossConfig(policy=policy, kl=0.1), "grpo", "left"))


def _recomputed(batch: Batch) -> Batch:
    """As if the learner's log-probs had been asked for: up to a factor of e either way from the engine's."""
    draw = random.Random(3)
    return replace(
        batch,
        samples=tuple(
            replace(
                sample,
                old_logprobs=sample.sampler_logprobs
                + torch.tensor([draw.uniform(-1, 1) for _ in sample.sampler_logprobs]),
            )
            for sample in batch.samples
        ),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", get_args(Padding))
def test_every_architecture_and_either_padding(shape: Shape, padding: Padding) -> None:
    packed = gradients(make_learner(shape, **EVERYTHING), batch_of())
    assert_same(packed, reference_gradients(shape, LossConfig(**EVERYTHING), "grpo", padding))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_micro_batch_size_changes_nothing(aggregation: str) -> None:
    """Every algorithm in several rows at a time; one of them, which is as good as another, in one row at a time."""
    whole, cut, single = (
        make_learner(aggregation=aggregation, budget=budget, **EVERYTHING) for budget in (10_000, 37, 1)
    )
    for advantage in ADVANTAGES:
        batch = batch_of(advantage)
        expected = gradients(whole, batch)
        assert_same(gradients(cut, batch), expected)
    assert_same(gradients(single, batch), expected)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_order_of_samples_changes_nothing(aggregation: str) -> None:
    batch = batch_of()
    shuffled = list(batch.samples)
    random.Random(1).shuffle(shuffled)
    other = Batch(tuple(shuffled), batch.tokens, batch.sequences)
    expected = gradients(make_learner(aggregation=aggregation), batch)
    assert_same(gradients(make_learner(aggregation=aggregation, budget=50), other), expected)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_parts_of_a_batch_add_up_because_they_carry_the_counts_of_the_whole(aggregation: str) -> None:
    batch = batch_of()
    parts = [
        Batch(batch.samples[start : start + 7], batch.tokens, batch.sequences)
        for start in range(0, len(batch.samples), 7)
    ]
    accumulated = gradients(make_learner(aggregation=aggregation, **EVERYTHING), *parts)
    assert_same(accumulated, gradients(make_learner(aggregation=aggregation, **EVERYTHING), batch))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo"])
def test_skipping_samples_of_zero_advantage_changes_nothing(advantage: str, aggregation: str) -> None:
    batch = batch_of(advantage)
    assert any(not sample.advantages.any() for sample in batch.samples)
    skipping, thorough = (make_learner(aggregation=aggregation, skip=skip) for skip in (True, False))
    assert_same(gradients(skipping, batch), gradients(thorough, batch))


def test_samples_of_zero_advantage_are_not_skipped_where_they_matter() -> None:
    for extra in ({"entropy": 0.05}, {"kl": 0.1}):
        batch = batch_of()
        asked, forced = (make_learner(skip=skip, **extra) for skip in (True, False))
        assert asked.rank.accumulate(batch)["samples_trained"] == len(batch.samples)
        assert_same(gradients(asked, batch), gradients(forced, batch))
