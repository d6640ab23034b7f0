"""What the learner says of a rollout batch, and the early stop that watches what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from reasonkit.advantages import dr_grpo, ppo
from reasonkit.errors import ConfigError
from reasonkit.losses import LOSSES
from reasonkit.recipe import LossConfig, Recipe, TrainConfig
from reasonkit.records import Signals
from reasonkit.registry import resolve
from reasonkit.train.collapse import PATIENCE, Collapsed, Watch
from reasonkit.train.critic import CriticSettings
from reasonkit.train.learner import LocalLearner
from reasonkit.train.packing import Batch, assemble, mini_batches, samples_of
from reasonkit.train.signals import Wanted, annotate
from tests.learners import local_learner
from tests.rollout_batches import random_groups
from tests.tiny_models import tiny_model

VOCABULARY = 40
GROUPS = random_groups(VOCABULARY)


def make_learner(**settings: Any) -> LocalLearner:
    return local_learner(
        tiny_model("llama", VOCABULARY),
        **{
            "loss": LossConfig(),
            "train": TrainConfig(lr=0.01, token_budget=40),
            "total_updates": 10,
            "max_tokens": 32,
            **settings,
        },
    )


def recipe(**keys: Any) -> Recipe:
    return Recipe.model_validate({"name": "r", "model": {"path": "m"}, **keys})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, Wanted(False, 0.0, False)),  # the engine computes the learner's own numbers
        ({"model": {"path": "m", "dtype": "bfloat16"}}, Wanted(True, 0.0, False)),
        ({"rollout": {"engine": "vllm"}}, Wanted(True, 0.0, False)),
        ({"rollout": {"max_staleness": 1}}, Wanted(True, 0.0, False)),
        (
            {"rollout": {"top_p": 0.9}},
            Wanted(True, 0.0, False),
        ),  # its log-probs are of a truncated distribution
        ({"rollout": {"top_k": 20}}, Wanted(True, 0.0, False)),
        ({"rollout": {"min_p": 0.1}}, Wanted(True, 0.0, False)),
        ({"rollout": {"engine": "vllm"}, "loss": {"correction": "none"}}, Wanted(False, 0.0, False)),
        ({"loss": {"kl": 0.1}}, Wanted(False, 0.0, False)),
        ({"loss": {"kl": 0.1, "kl_kind": "reward"}}, Wanted(False, 0.1, False)),
        ({"algorithm": {"ppo": {"lam": 0.9}}}, Wanted(False, 0.0, True)),
    ],
)
def test_a_recipe_asks_for_what_it_needs_and_no_more(keys: dict[str, Any], expected: Wanted) -> None:
    assert Wanted.by(recipe(**keys)) == expected


def test_every_signal_stands_at_its_own_token() -> None:
    learner = make_learner(loss=LossConfig(kl=0.5, kl_kind="reward"), critic=CriticSettings())
    with torch.no_grad():  # away from the reference
        for parameter in learner.rank.policy.model.parameters():
            parameter.mul_(1.1)
    annotated = asyncio.run(annotate(GROUPS, learner, Wanted(True, 0.5, True)))
    for before, after in zip(GROUPS, annotated, strict=True):
        for raw, rollout in zip(before.rollouts, after.rollouts, strict=True):
            if not raw.ok:
                assert rollout is raw
                continue
            [batch] = mini_batches([samples_of(raw)], 1)
            old, reference = (
                asyncio.run(learner.logprobs(batch, reference=which)) for which in (False, True)
            )
            torch.testing.assert_close(torch.tensor(rollout.signals.old_logprobs), torch.cat(old))
            penalties = 0.5 * (torch.cat(old) - torch.cat(reference))
            torch.testing.assert_close(torch.tensor(rollout.signals.penalties), penalties)
            assert rollout.signals.values == (0.0,) * len(penalties), "a new critic expects nothing"
            assert penalties.abs().max() > 0
            samples = samples_of(rollout)
            assert torch.cat([each.old_logprobs for each in samples]).tolist() == pytest.approx(
                rollout.signals.old_logprobs
            )
            assert all(
                torch.equal(one.sampler_logprobs, other.sampler_logprobs)
                for one, other in zip(samples, samples_of(raw), strict=True)
            )


def test_nothing_is_asked_where_nothing_is_wanted() -> None:
    quiet = Wanted(False, 0.0, False)
    assert asyncio.run(annotate(GROUPS, make_learner(), quiet)) == GROUPS
    assert asyncio.run(annotate([], make_learner(), Wanted(True, 0.0, False))) == []


def test_the_critic_learns_the_returns_and_comes_back_from_a_checkpoint(tmp_path: Any) -> None:
    def returns_of(groups: Sequence[Any]) -> Batch:
        [batch] = mini_batches(assemble(groups, ppo(groups)), len(groups))
        return batch

    learner = make_learner(critic=CriticSettings(lr=0.02, clip=10.0))
    losses = []
    for _ in range(30):
        groups = asyncio.run(annotate(GROUPS, learner, Wanted(False, 0.0, True)))
        losses.append(dict(asyncio.run(learner.step(returns_of(groups))).metrics)["critic_loss"])
    assert losses[-1] < losses[0] / 3
    asyncio.run(learner.save(tmp_path / "saved", {}))
    asyncio.run(learner.saved())
    other = make_learner(critic=CriticSettings())
    asyncio.run(other.load(tmp_path / "saved"))
    batch = returns_of(GROUPS)
    assert all(map(torch.equal, asyncio.run(learner.values(batch)), asyncio.run(other.values(batch))))


def test_an_unknown_setting_of_the_critic_is_an_error() -> None:
    with pytest.raises(ConfigError, match="does not know rate; its options are: lr, clip"):
        CriticSettings.of({"rate": 1})


@pytest.mark.parametrize("policy", sorted(set(LOSSES) - {"nll"}))
def test_every_loss_raises_the_probability_of_what_did_better(policy: str) -> None:
    learner = make_learner(loss=LossConfig(policy=policy))
    advantages = dr_grpo(GROUPS)
    [batch] = mini_batches(assemble(GROUPS, advantages), len(GROUPS))
    # On-policy: the learner's own log-probs stand as the sampler's.
    groups = asyncio.run(annotate(GROUPS, learner, Wanted(True, 0.0, False)))
    [batch] = mini_batches(assemble(groups, advantages), len(groups))

    def gained(before: list[Tensor], after: list[Tensor]) -> float:
        rows = zip(before, after, batch.samples, strict=True)
        return sum(float(((b - a) * sample.advantages).sum()) for a, b, sample in rows)

    before = asyncio.run(learner.logprobs(batch, reference=False))
    asyncio.run(learner.step(batch))
    assert gained(before, asyncio.run(learner.logprobs(batch, reference=False))) > 0
    assert resolve("policy loss", policy, LOSSES).__doc__


def row(step: int, **metrics: float | None) -> dict[str, Any]:
    return {"step": step, "samples_trained": 8.0, **metrics}


def test_a_metric_beyond_its_bound_for_some_steps_in_a_row_stops_the_run() -> None:
    watch = Watch({"entropy_below": 0.1, "truncated_above": 0.9})
    for step in range(PATIENCE - 1):
        watch.look(row(step, entropy=0.05, truncated=0.0))
    watch.look(row(9, entropy=0.2, truncated=0.0))
    for step in range(PATIENCE - 1):
        watch.look(row(step, entropy=None, truncated=0.0))  # not a number
    with pytest.raises(Collapsed, match=r"entropy was below 0\.1 for 5 steps"):
        watch.look(row(20, entropy=0.0, truncated=0.95))


def test_a_resumed_run_counts_on_and_is_not_stopped_for_what_it_was_stopped_for() -> None:
    watch = Watch({"entropy_below": 0.1})
    for step in range(PATIENCE):
        watch.count(row(step, entropy=0.05))
    watch.look(row(PATIENCE, entropy=0.05))


def test_a_step_that_had_nothing_to_learn_from_says_nothing_of_entropy() -> None:
    watch = Watch({"entropy_below": 0.1})
    for step in range(PATIENCE - 1):
        watch.look(row(step, entropy=0.05))
    watch.look(row(PATIENCE, samples_trained=0.0))
    with pytest.raises(Collapsed):
        watch.look(row(PATIENCE + 1, entropy=0.05))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [({"entropy": 1.0}, "METRIC_below"), ({"entorpy_below": 1.0}, "did you mean 'entropy'")],
)
def test_a_bound_that_means_nothing_is_an_error(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Watch(bounds).look(row(1, entropy=1.0))
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_signals_are_empty_unless_asked_for() -> None:
    assert Signals() == Signals((), (), ())
