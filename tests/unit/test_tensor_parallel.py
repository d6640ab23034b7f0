"""Ranks that share each block's matrices compute what one does; what cannot be shared evenly is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reasonkit.advantages import ppo
from reasonkit.errors import ConfigError
from reasonkit.recipe import LossConfig
from reasonkit.train.critic import CriticSettings
from reasonkit.train.fsdp import blocks_of
from reasonkit.train.lora import add_adapters
from reasonkit.train.mesh import Mesh
from reasonkit.train.packing import assemble, mini_batches
from reasonkit.train.ranks import Ranks
from reasonkit.train.signals import Wanted, annotate
from reasonkit.train.tensor_parallel import check_split, plan_of
from tests.learners import local_learner
from tests.rollout_batches import random_groups
from tests.sharded_bench import VOCABULARY, Bench, make_bench
from tests.tiny_models import Shape, tiny_model
from tests.unit.test_sharded import assert_same, assert_same_gradients, batch_of, call, settings


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2, make_bench, {"tensor": 2}, threads=1)
    yield ranks
    ranks.close()


@pytest.fixture
def one() -> Bench:
    torch.set_num_threads(1)
    return Bench(Mesh(torch.device("cpu")))


@pytest.mark.parametrize(
    "shape", ["qwen3", *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("llama", "qwen2"))]
)
def test_ranks_that_share_matrices_compute_what_one_does(one: Bench, two: Ranks, shape: Shape) -> None:
    one.make(shape, settings(grad_clip=0.5), 1.1)
    two.call("make", shape, settings(grad_clip=0.5, token_budget=60), 1.1)
    assert_same_gradients(one, two, batch_of())
    for seed in range(2):
        batch = batch_of(random_groups(VOCABULARY, seed=seed))
        mine, theirs = one.step(batch), two.call("step", batch)[0]
        assert mine["grad_norm"] > 0.5, "it must be clipped, or clipping is not tested"
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5)
    weights = one.weights()
    for shared in two.call("weights"):
        assert_same(weights, shared, tolerance=2e-4)
    assert max(two.call("held")) < 0.56 * one.held(), "each holds half, and all of the few norms"
    first, second = two.call("logprobs", batch_of(), True)
    assert first.keys() == second.keys() == one.logprobs(batch_of(), True).keys()


@pytest.mark.slow
@pytest.mark.parametrize("saved_by", ["one", "two"])
@pytest.mark.parametrize("shape", ["llama", "qwen2"])
def test_a_checkpoint_is_that_of_the_whole_model(
    one: Bench, two: Ranks, tmp_path: Path, saved_by: str, shape: Shape
) -> None:
    """Three updates are one, a checkpoint, and two by the others; Hugging Face reads the folder as it is."""
    batches = [batch_of(random_groups(VOCABULARY, seed=seed)) for seed in range(3)]
    saver, reader = (one, two) if saved_by == "one" else (two, one)
    for bench in (one, two):
        call(bench, "make", shape, settings())
    call(saver, "step", batches[0])
    call(saver, "save", tmp_path / "step_1")
    call(reader, "load", tmp_path / "step_1")
    mine, theirs = one.weights(), two.call("weights")[0]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step_1").state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all(torch.equal(mine[name], loaded[name]) for name in mine)
    for batch in batches[1:]:
        one.step(batch)
        two.call("step", batch)
    assert_same(one.weights(), two.call("weights")[0], tolerance=2e-4)


@pytest.mark.slow
def test_four_ranks_share_matrices_by_two_and_split_the_batch_by_two(one: Bench, tmp_path: Path) -> None:
    """With a reference and a critic, which are shared likewise; saved, and gone on with by one."""
    four = Ranks(4, make_bench, {"tensor": 2}, threads=1)
    with_critic = replace(settings(), critic=CriticSettings(lr=0.01))
    local = local_learner(
        tiny_model("qwen3", VOCABULARY),
        **{name: getattr(with_critic, name) for name in with_critic.__slots__},
    )
    groups = asyncio.run(annotate(random_groups(VOCABULARY), local, Wanted(False, 0.0, True)))
    [batch] = mini_batches(assemble(groups, ppo(groups)), len(groups))
    try:
        for bench in (one, four):
            call(bench, "make", "qwen3", with_critic)
        assert_same_gradients(one, four, batch_of())
        for _ in range(2):
            mine, theirs = one.step(batch), four.call("step", batch)[0]
            assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
        assert_same(one.weights(), four.call("weights")[0], tolerance=2e-4)
        assert max(four.call("held")) < 0.3 * one.held()
        four.call("save", tmp_path / "step_2")
        one.load(tmp_path / "step_2")
        mine, theirs = one.step(batch), four.call("step", batch)[0]
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
    finally:
        four.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["checkpoint_activations", "offload_optimizer", "offload_parameters"])
def test_saving_memory_changes_nothing_else(one: Bench, two: Ranks, way: str) -> None:
    one.make("llama", settings())
    two.call("make", "llama", settings(save_memory=[way]))
    for seed in range(2):
        batch = batch_of(random_groups(VOCABULARY, seed=seed))
        one.step(batch)
        two.call("step", batch)
    assert_same(one.weights(), two.call("weights")[0], tolerance=2e-4)


@pytest.mark.slow
def test_half_precision_keeps_float32_masters(one: Bench, two: Ranks) -> None:
    half = replace(settings(LossConfig()), dtype=torch.bfloat16)
    for bench in (one, two):
        call(bench, "make", "qwen3", half)
    mine, theirs = one.step(batch_of()), two.call("step", batch_of())[0]
    assert theirs["entropy"] == pytest.approx(mine["entropy"], rel=0.02)
    assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=0.1)
    assert two.call("dtypes")[0] == {"masters": {torch.float32}, "weights": {torch.bfloat16}}


@pytest.mark.parametrize(
    ("shards", "tensor", "said", "hint"),
    [
        (1, 3, "tensor (3) does not divide the model's 4 attention heads", "cluster.parallel.tensor=2"),
        (1, 4, "tensor (4) does not divide the model's 2 key-value heads", "cluster.parallel.tensor=2"),
        (5, 2, "learners (10) does not divide the 48 rows of self_attn.q_proj", "cluster.learners=8"),
    ],
)
def test_what_cannot_be_shared_evenly_is_refused(shards: int, tensor: int, said: str, hint: str) -> None:
    model = tiny_model("llama", VOCABULARY)
    with pytest.raises(ConfigError) as raised:
        check_split(model, blocks_of(model), plan_of(model), shards, tensor)
    assert said in raised.value.message
    assert raised.value.hint is not None
    assert hint in raised.value.hint


def test_adapters_and_architectures_without_a_plan_are_refused() -> None:
    model = tiny_model("llama", VOCABULARY)
    model.config.base_model_tp_plan = {"layers.*.self_attn.q_proj": "colwise_gather_output"}
    with pytest.raises(ConfigError, match="'colwise_gather_output', which the learner cannot carry out"):
        plan_of(model)
    model.config.base_model_tp_plan = None
    with pytest.raises(ConfigError, match="says nothing"):
        plan_of(model)
    adapted = tiny_model("llama", VOCABULARY)
    plan = plan_of(adapted)
    add_adapters(adapted, {"r": 2}, seed=0)
    with pytest.raises(ConfigError, match=r"model\.lora and cluster\.parallel\.tensor \(2\)"):
        check_split(adapted, blocks_of(adapted), plan, 1, 2)
