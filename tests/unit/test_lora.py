"""Adapters: what they train, what they leave, what engines and files get, and what the reference then is."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from reasonkit.advantages import grpo
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.recipe import LossConfig, Recipe, TrainConfig
from reasonkit.rundir import RunDir
from reasonkit.train.dryrun import _shapes
from reasonkit.train.launch import _model_path
from reasonkit.train.learner import LocalLearner
from reasonkit.train.lora import lora_config
from reasonkit.train.model import load_model, load_tokenizer
from reasonkit.train.packing import Batch, assemble, mini_batches
from reasonkit.train.policy import AdaptersOff, Policy
from tests.learners import local_learner
from tests.rollout_batches import random_groups
from tests.tiny_models import Shape, save_tiny_model, tiny_model

VOCABULARY = 40
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_learner(shape: Shape = "qwen2", **lora: Any) -> LocalLearner:
    return local_learner(
        tiny_model(shape, VOCABULARY),
        loss=LossConfig(kl=0.1),
        train=TrainConfig(lr=1e-2, token_budget=60),
        total_updates=4,
        max_tokens=32,
        lora={"r": 4, **lora},
    )


def batch_of(seed: int = 0) -> Batch:
    groups = random_groups(VOCABULARY, seed=seed)
    [batch] = mini_batches(assemble(groups, grpo(groups)), len(groups))
    return batch


def weights(learner: LocalLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.weights()}


def train(learner: LocalLearner, updates: int = 2) -> list[float]:
    return [asyncio.run(learner.step(batch_of(seed))).metrics["kl_reference"] for seed in range(updates)]


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["embed_tokens"]}, {"bias": "all"}],
    ids=str,
)
def test_engines_get_the_model_that_the_adapters_make(fields: dict[str, Any]) -> None:
    shape: Shape = "llama" if "modules_to_save" in fields else "qwen2"
    learner = make_learner(shape, **fields)
    before = weights(learner)
    assert before.keys() == tiny_model(shape, VOCABULARY).state_dict().keys()
    train(learner)
    after = weights(learner)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj.weight" in name for name in changed)
    assert any("embed_tokens" in name for name in changed) == ("modules_to_save" in fields)
    whole = tiny_model(shape, VOCABULARY)
    whole.load_state_dict(after)
    probes = Policy(whole, 1.0, torch.float32, CPU).probe()
    torch.testing.assert_close(probes, learner.rank.policy.probe(), rtol=0, atol=1e-4)


def test_only_adapters_are_trained_and_saved(tmp_path: Path) -> None:
    learner = make_learner()
    trained = [each for each in learner.rank.model.parameters() if each.requires_grad]
    assert sum(each.numel() for each in trained) < 0.3 * sum(
        each.numel() for each in learner.rank.model.parameters()
    )
    train(learner)

    async def save() -> None:
        await learner.save(tmp_path / "step_2", {})
        await learner.saved()

    asyncio.run(save())
    assert not (tmp_path / "step_2" / "model.safetensors").exists()
    other = make_learner()
    asyncio.run(other.load(tmp_path / "step_2"))
    for each in (learner, other):
        train(each, 1)
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(learner).items())


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, AdaptersOff),
        ({"use_rslora": True}, AdaptersOff),
        ({"bias": "all"}, Policy),
        ({"init_lora_weights": False}, Policy),
        ({"init_lora_weights": "pissa"}, Policy),
    ],
    ids=str,
)
def test_the_reference_is_the_starting_model_without_a_copy_only_where_that_is_right(
    fields: dict[str, Any], kind: type
) -> None:
    learner = make_learner(**fields)
    assert isinstance(learner.rank._reference, kind)
    start = local_learner(
        tiny_model("qwen2", VOCABULARY),
        loss=LossConfig(),
        train=TrainConfig(token_budget=60),
        total_updates=1,
        max_tokens=1,
    )
    expected = asyncio.run(start.logprobs(batch_of(), reference=False))
    for _ in range(2):
        reference = asyncio.run(learner.logprobs(batch_of(), reference=True))
        for one, other in zip(reference, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        train(learner)


def test_adapters_learn() -> None:
    learner = local_learner(
        tiny_model("llama", VOCABULARY),
        loss=LossConfig(policy="nll"),
        train=TrainConfig(lr=0.02),
        total_updates=60,
        max_tokens=32,
        lora={"r": 8},
    )
    groups = random_groups(VOCABULARY)
    [demonstrations] = mini_batches(
        assemble(groups, [[1.0] * len(group.rollouts) for group in groups]), len(groups)
    )
    losses = [asyncio.run(learner.step(demonstrations)).metrics["loss"] for _ in range(60)]
    assert losses[-1] < losses[0] / 2


def test_adapters_begin_the_same_for_the_same_seed() -> None:
    one, other = make_learner(), make_learner()
    train(one)
    train(other)
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(one).items())


def learner_beside(base: Path) -> LocalLearner:
    return local_learner(
        load_model(base),
        tokenizer=load_tokenizer(base),
        loss=LossConfig(),
        train=TrainConfig(lr=1e-2),
        total_updates=1,
        max_tokens=1,
        lora={"r": 2},
    )


def test_a_model_that_was_loaded_is_named_as_the_base(tmp_path: Path) -> None:
    learner = learner_beside(save_tiny_model(tmp_path / "base"))
    assert learner.rank.model.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


def test_a_run_of_adapters_is_trained_from_as_the_whole_model_that_they_make(tmp_path: Path) -> None:
    learner = learner_beside(save_tiny_model(tmp_path / "base"))
    run, following = RunDir(tmp_path / "run"), RunDir(tmp_path / "next")
    asyncio.run(learner.step(batch_of()))
    asyncio.run(learner.save(run.checkpoint(1), {}))
    asyncio.run(learner.saved())
    run.update_info(state="finished")
    model = {"path": f"{run.path}@1", "context": 256}
    recipe = Recipe.model_validate({"name": "next", "model": model, "rollout": {"max_tokens": 16}})
    assert _shapes(recipe, [])[1].model_type == "llama", "what a dry run looks at"
    start = _model_path(recipe, following, Mock())
    held = load_model(start).state_dict()
    for name, weight in weights(learner).items():
        torch.testing.assert_close(held[name], weight)
    shutil.rmtree(run.path)
    assert _model_path(recipe, following, Mock()) == start, "a run that is resumed has its own"
    assert load_tokenizer(start).chat_template


def test_wrong_fields_are_errors_that_name_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="no field 'lora_alfa'") as raised:
        lora_config({"lora_alfa": 16})
    assert "lora_alpha" in raised.value.hint
    with pytest.raises(ConfigError, match=r"lora_dropout is 0\.1"):
        lora_config({"lora_dropout": 0.1})
    with pytest.raises(ConfigError, match="tie_word_embeddings"):
        make_learner("qwen2", modules_to_save=["embed_tokens"])
    with pytest.raises(ConfigError, match=r"model\.lora: .*q_porj"):
        make_learner(target_modules=["q_porj"])


def test_a_batch_too_large_for_memory_shows_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner()
    limit = 100

    def forward(*_: Any, **inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > limit:
            raise torch.OutOfMemoryError("the fake card is full")
        return original(**inputs)

    original = learner.rank.model.base_model.forward
    monkeypatch.setattr(learner.rank.model.base_model, "forward", forward)
    before = weights(learner)
    asyncio.run(learner.rehearse(30))
    assert all(torch.equal(weight, before[name]) for name, weight in weights(learner).items())
    assert not learner.rank.optimizer.state
    limit = 20
    with pytest.raises(ReasonkitError, match="micro-batch of 60 tokens does not fit") as raised:
        asyncio.run(learner.rehearse(30))
    for key in ("train.token_budget (60)", "model.context (30)", "checkpoint_activations"):
        assert key in raised.value.hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo looks at .grad of what has none
def test_a_compiled_model_computes_the_same() -> None:
    plain, compiled = (
        local_learner(
            tiny_model("llama", VOCABULARY),
            loss=LossConfig(),
            train=TrainConfig(lr=1e-3, token_budget=60, compile=compile_),
            total_updates=4,
            max_tokens=32,
        )
        for compile_ in (False, True)
    )
    for seed in range(2):
        metrics = [dict(asyncio.run(each.step(batch_of(seed))).metrics) for each in (plain, compiled)]
        assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-5)
    for name, weight in weights(compiled).items():
        torch.testing.assert_close(weight, weights(plain)[name], rtol=1e-3, atol=1e-4, msg=name)
