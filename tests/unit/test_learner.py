"""The local learner: one optimizer update, what it reports, and what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, Qwen2ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from reasonkit.advantages import grpo, ppo
from reasonkit.engines import Sampling
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.errors import ReasonkitError
from reasonkit.losses import LossInputs, TokenLoss
from reasonkit.recipe import LossConfig, ModelConfig, Recipe, RolloutConfig, TrainConfig
from reasonkit.records import Group, Rollout, Segment, Signals
from reasonkit.train.critic import CriticSettings
from reasonkit.train.learner import LocalLearner
from reasonkit.train.mesh import shares
from reasonkit.train.optimizer import make_schedule
from reasonkit.train.packing import Batch, assemble, mini_batches, pack
from reasonkit.train.rank import largest_batch
from tests.learners import local_learner
from tests.rollout_batches import RECORD, random_groups
from tests.tiny_models import SHAPES, Shape, save_tiny_model, tiny_config, tiny_model

VOCABULARY = 40
GROUPS = random_groups(VOCABULARY)


def make_learner(
    shape: Shape = "llama",
    loss: LossConfig | None = None,
    *,
    skip_zero_advantage: bool = True,
    **train: Any,
) -> LocalLearner:
    return local_learner(
        tiny_model(shape, VOCABULARY),
        loss=loss or LossConfig(),
        train=TrainConfig(**{"lr": 1e-3, **train}),
        total_updates=10,
        max_tokens=32,
        skip_zero_advantage=skip_zero_advantage,
    )


def batch_of(groups: list[Group], advantages: list[list[float]] | None = None) -> Batch:
    [batch] = mini_batches(assemble(groups, advantages or grpo(groups)), len(groups))
    return batch


def step(learner: LocalLearner, batch: Batch) -> dict[str, float]:
    return dict(asyncio.run(learner.step(batch)).metrics)


def weights(learner: LocalLearner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


async def _sampled(shape: Shape, temperature: float) -> list[Group]:
    """Groups whose log-probs come from the engine itself."""
    engine = TransformersEngine(tiny_model(shape, VOCABULARY), [0], slots=8)
    prompts = [(5, 6, 7), (9, 8, 7, 6, 5, 4), (30,)]
    sampling = [Sampling(max_tokens=12, temperature=temperature, seed=seed) for seed in range(4)]
    replies = await asyncio.gather(*(engine.generate(p, s) for p in prompts for s in sampling))
    await engine.close()
    groups = []
    for place, prompt in enumerate(prompts):
        group = []
        for sample, reply in enumerate(replies[4 * place : 4 * place + 4]):
            blank = len(prompt) * (0,)
            segment = Segment(
                prompt + reply.token_ids,
                blank + (1,) * len(reply.token_ids),
                tuple(map(float, blank)) + reply.logprobs,
            )
            group.append(Rollout("r", sample, (segment,), "", "stop", None, float(sample % 2)))
        groups.append(Group(RECORD, tuple(group)))
    return groups


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_engines_own_logprobs_make_a_ratio_of_one_on_the_first_update(
    shape: Shape, temperature: float
) -> None:
    batch = batch_of(asyncio.run(_sampled(shape, temperature)))
    learner = local_learner(
        tiny_model(shape, VOCABULARY),
        loss=LossConfig(),
        train=TrainConfig(token_budget=30),
        total_updates=1,
        max_tokens=12,
        temperature=temperature,
    )
    scored = asyncio.run(learner.logprobs(batch, reference=False))
    for sample, logprobs in zip(batch.samples, scored, strict=True):
        torch.testing.assert_close(logprobs, sample.old_logprobs, rtol=0, atol=1e-4)
    metrics = step(learner, batch)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["kl_old"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["clip_low"] == metrics["clip_high"] == 0.0


def test_an_update_raises_the_probability_of_what_did_better() -> None:
    learner, batch = make_learner(), batch_of(GROUPS)

    def gained(before: list[Tensor], after: list[Tensor]) -> float:
        rows = zip(before, after, batch.samples, strict=True)
        return sum(float(((b - a) * sample.advantages).sum()) for a, b, sample in rows)

    before = asyncio.run(learner.logprobs(batch, reference=False))
    metrics = step(learner, batch)
    assert gained(before, asyncio.run(learner.logprobs(batch, reference=False))) > 0
    assert metrics["lr"] == 1e-3
    assert metrics["grad_norm"] > 0
    assert 0 < metrics["entropy"] < torch.tensor(VOCABULARY).log()
    assert metrics["samples_trained"] == sum(bool(sample.advantages.any()) for sample in batch.samples)


def test_the_same_batches_give_the_same_bits() -> None:
    one, other = make_learner(), make_learner()
    for learner in (one, other):
        for seed in range(3):
            step(learner, batch_of(random_groups(VOCABULARY, seed=seed)))
    assert same(weights(one), weights(other))


def test_a_batch_with_nothing_to_learn_still_moves_as_its_zero_gradients_would() -> None:
    nothing = batch_of(GROUPS, [[0.0] * len(group.rollouts) for group in GROUPS])
    skipping, thorough = (make_learner(skip_zero_advantage=skip) for skip in (True, False))
    for learner in (skipping, thorough):
        step(learner, batch_of(GROUPS, grpo(GROUPS)))
    torch.testing.assert_close(weights(skipping), weights(thorough))
    before = weights(skipping)
    metrics = step(skipping, nothing)
    step(thorough, nothing)
    torch.testing.assert_close(weights(skipping), weights(thorough))
    assert not same(weights(skipping), before), "momentum moves the weights"
    assert (metrics["samples_trained"], metrics["loss"], metrics["grad_norm"]) == (0.0, 0.0, 0.0)
    assert "ratio" not in metrics


def test_only_matrices_decay() -> None:
    learner = make_learner("qwen2", lr=0.5, optimizer={"adamw": {"weight_decay": 0.1}})
    before = weights(learner)
    step(learner, batch_of(GROUPS, [[0.0] * len(group.rollouts) for group in GROUPS]))
    for name, tensor in learner.weights():
        shrunk = before[name] * 0.95 if tensor.dim() >= 2 else before[name]
        torch.testing.assert_close(tensor, shrunk)


def test_the_gradient_is_clipped_to_the_global_norm() -> None:
    def moment(grad_clip: float) -> tuple[float, float]:
        learner = make_learner(grad_clip=grad_clip, optimizer={"adamw": {"betas": (0.0, 0.0)}})
        norm = step(learner, batch_of(GROUPS))["grad_norm"]
        moments = [state["exp_avg"].square().sum() for state in learner.rank.optimizer.state.values()]
        return norm, float(sum(moments)) ** 0.5

    norm, free = moment(1e9)
    assert free == pytest.approx(norm, rel=1e-4)
    same_norm, clipped = moment(norm / 10)
    assert same_norm == pytest.approx(norm)
    assert clipped == pytest.approx(norm / 10, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.868198, 0.55, 0.231802, 0.1]),
    ],
)
def test_the_learning_rate_warms_up_and_then_falls_to_its_end(schedule: Any, expected: list[float]) -> None:
    rate = make_schedule(TrainConfig(lr_schedule={schedule: {"warmup": 2}}))
    assert [rate(update, 7) for update in range(7)] == pytest.approx(expected, abs=1e-6)
    assert rate(20, 7) == pytest.approx(expected[-1])


def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_weights() -> None:
    learner = make_learner()
    before = weights(learner)
    with pytest.raises(ReasonkitError, match="norm is nan"):
        step(learner, batch_of(GROUPS, [[float("nan")] * len(group.rollouts) for group in GROUPS]))
    assert same(weights(learner), before)


def test_the_reference_is_the_model_that_the_learner_was_made_with() -> None:
    learner, batch = make_learner(loss=LossConfig(kl=0.1)), batch_of(GROUPS)
    start = asyncio.run(learner.logprobs(batch, reference=False))
    assert step(learner, batch)["kl_reference"] == pytest.approx(0.0, abs=1e-9)
    assert step(learner, batch)["kl_reference"] > 1e-6
    torch.testing.assert_close(asyncio.run(learner.logprobs(batch, reference=True)), start, rtol=0, atol=0)


def test_without_a_kl_penalty_there_is_no_reference_to_ask() -> None:
    with pytest.raises(ReasonkitError, match=r"loss\.kl is 0"):
        asyncio.run(make_learner().logprobs(batch_of(GROUPS), reference=True))


def test_a_half_precision_forward_leaves_float32_weights_and_nearly_the_same_numbers() -> None:
    def metrics(dtype: torch.dtype) -> dict[str, float]:
        learner = local_learner(
            tiny_model("llama", VOCABULARY),
            loss=LossConfig(),
            train=TrainConfig(),
            total_updates=1,
            max_tokens=1,
            dtype=dtype,
        )
        result = step(learner, batch_of(GROUPS))
        assert {parameter.dtype for parameter in learner.rank.model.parameters()} == {torch.float32}
        return result

    half, whole = metrics(torch.bfloat16), metrics(torch.float32)
    assert half["entropy"] == pytest.approx(whole["entropy"], rel=0.02)
    assert half["entropy"] != whole["entropy"]


def test_from_recipe_takes_model_losses_and_schedule_from_it(tmp_path: Any) -> None:
    path = str(save_tiny_model(tmp_path))
    recipe = Recipe(
        name="test",
        model=ModelConfig(path=path),
        rollout=RolloutConfig(temperature=0.5, max_tokens=32),
        train=TrainConfig(steps=2, prompts=2, mini_batch=1, lr=1.0, lr_schedule="linear"),
    )
    learner = LocalLearner.from_recipe(recipe, path)
    rates = [step(learner, batch_of(GROUPS))["lr"] for _ in range(4)]
    assert rates == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])


def always_one(inputs: LossInputs) -> TokenLoss:
    return TokenLoss(torch.ones_like(inputs.logprobs) + 0 * inputs.logprobs)


def test_a_users_own_loss_is_taken_by_name_and_sees_every_sample() -> None:
    learner = make_learner(loss=LossConfig(policy=f"{__name__}:always_one"))
    batch = batch_of(GROUPS)
    metrics = step(learner, batch)
    assert metrics["loss"] == pytest.approx(1.0)
    assert metrics["samples_trained"] == len(batch.samples)


class Scaled(LlamaForCausalLM):
    """What some architectures do to their logits after the head."""

    def forward(self, *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output


def test_an_architecture_whose_logits_are_not_the_head_alone_is_refused() -> None:
    with pytest.raises(ReasonkitError, match="Scaled"):
        local_learner(
            Scaled(tiny_config("llama", VOCABULARY)),
            loss=LossConfig(),
            train=TrainConfig(),
            total_updates=1,
            max_tokens=1,
        )


def test_a_sequence_longer_than_the_models_window_is_refused() -> None:
    config = tiny_config("qwen2", VOCABULARY)
    config.sliding_window, config.layer_types = 8, ["sliding_attention"] * 2
    learner = local_learner(
        Qwen2ForCausalLM(config), loss=LossConfig(), train=TrainConfig(), total_updates=1, max_tokens=1
    )
    with pytest.raises(ReasonkitError, match=r"longer than the attention window of 8"):
        step(learner, batch_of(GROUPS))


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(
    ("budget", "longest", "row"),
    [
        pytest.param(16384, 12288, [12287, 4097], id="the rest is filled"),
        pytest.param(60, 31, [30, 30], id="nothing is left"),
        pytest.param(60, 18, [17, 17, 17, 9], id="several fit"),
        pytest.param(60, 60, [59, 1], id="as long as the budget"),
        pytest.param(60, 62, [61], id="longer than the budget"),
    ],
)
def test_a_rehearsal_fills_a_row_of_each_part(parts: int, budget: int, longest: int, row: list[int]) -> None:
    batch = largest_batch(parts, budget, longest)
    for part in shares(batch.samples, budget, parts):
        packed = [pack(batch.samples, each) for each in part]
        assert [list(micro.layout.lengths) for micro in packed] == [row]
        assert packed[0].ids.numel() == sum(row)


def test_a_rehearsal_leaves_no_trace_of_policy_or_critic() -> None:
    groups = [
        replace(group, rollouts=tuple(replace(each, signals=signals(each)) for each in group.rollouts))
        for group in GROUPS
    ]
    batch = mini_batches(assemble(groups, ppo(groups)), len(groups))[0]
    told = []
    for rehearses in (False, True):
        learner = local_learner(
            tiny_model("llama", VOCABULARY),
            loss=LossConfig(kl=0.1),
            train=TrainConfig(lr=1e-3),
            total_updates=4,
            max_tokens=32,
            critic=CriticSettings(lr=0.01),
        )
        if rehearses:
            asyncio.run(learner.rehearse(30))
        told.append([step(learner, batch) for _ in range(2)])
    assert told[0] == told[1]


def signals(rollout: Rollout) -> Signals:
    return Signals((), (), (0.0,) * rollout.sampled_tokens)
