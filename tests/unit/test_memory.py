"""The dry run's memory, held against the measured peak of real steps; every shipped recipe's dry run, offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM

from reasonkit.config import preset_names, resolve_recipe
from reasonkit.recipe import Recipe
from reasonkit.train.dryrun import dry_run
from reasonkit.train.memory import GIB, Shapes, activation_bytes, fewest_learners, learner_memory
from reasonkit.train.mesh import Mesh, open_mesh
from reasonkit.train.packing import Sample, pack
from reasonkit.train.policy import Policy
from reasonkit.train.ranks import Ranks
from reasonkit.train.shapes import SHAPES, known_shape
from tests.memory_peaks import architecture, make_bench, peak_bytes
from tests.tiny_models import tiny_config

FIELDS = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}


def recipe(**keys: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "model": {"path": "m"}, **keys})


def saved_by_autograd(
    tokens: int, *, hidden: int, intermediate: int, layers: int, kv_heads: int
) -> tuple[int, Shapes]:
    """Bytes that a real forward pass keeps for backward, parameters left out."""
    config = AutoConfig.for_model(
        "llama",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        vocab_size=97,
    )
    model = AutoModelForCausalLM.from_config(config)
    policy = Policy(model, 1.0, torch.float32, torch.device("cpu"))
    scored = torch.arange(tokens // 4, tokens)
    nothing = torch.zeros(len(scored))
    sample = Sample(torch.randint(1, 97, (tokens,)), scored, nothing, nothing, nothing, len(scored))
    parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(pack([sample], [[0]]))
    saved = sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in parameters)
    return saved, Shapes.of(config)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 64, "intermediate": 192, "layers": 2, "kv_heads": 4},
        {"hidden": 64, "intermediate": 384, "layers": 4, "kv_heads": 2},
        {"hidden": 128, "intermediate": 192, "layers": 3, "kv_heads": 1},
    ],
)
def test_activations_are_what_autograd_saves(sizes: dict[str, int]) -> None:
    saved, shapes = saved_by_autograd(512, **sizes)
    asked = with_budget(512)
    assert activation_bytes(asked, shapes) == pytest.approx(saved, rel=0.05)


CHECKPOINTED = {"train": {"save_memory": ["checkpoint_activations"]}}
HALF = {"model": {"path": "m", "dtype": "bfloat16"}}
ADAPTERS = {"model": {"path": "m", "dtype": "float32", "lora": {"r": 4}}}
LARGE_HEAD = {"vocab_size": 8192, "num_hidden_layers": 1}


def with_budget(tokens: int, keys: Mapping[str, Any] | None = None, *, context: int = 16) -> Recipe:
    """Micro-batches of so many tokens, which no sequence exceeds."""
    keys = keys or {}
    return recipe(
        **keys
        | {
            "model": {"path": "m", "dtype": "float32", "context": context, **keys.get("model", {})},
            "rollout": {"max_tokens": 1},
            "train": {**keys.get("train", {}), "token_budget": tokens},
        }
    )


@pytest.mark.parametrize(
    ("sizes", "tokens", "keys", "within"),
    [
        pytest.param({}, 256, {}, 0.05, id="activations"),
        pytest.param({"num_key_value_heads": 1}, 16, {}, 0.05, id="parameters"),
        pytest.param(LARGE_HEAD, 512, {}, 0.05, id="a large head"),
        pytest.param({}, 256, CHECKPOINTED, 0.1, id="checkpointed"),
        pytest.param({}, 64, {"loss": {"kl": 0.1}}, 0.05, id="a reference"),
        pytest.param({}, 64, {"algorithm": "ppo"}, 0.05, id="a critic"),
        pytest.param({}, 128, ADAPTERS, 0.1, id="adapters"),
    ],
)
def test_the_formula_is_the_peak_of_a_real_step(
    sizes: dict[str, Any], tokens: int, keys: dict[str, Any], within: float
) -> None:
    asked = with_budget(tokens, keys)
    told = sum(learner_memory(asked, Shapes.of(architecture(sizes)), 1).values()) * GIB
    assert told == pytest.approx(peak_bytes(sizes, asked, Mesh(torch.device("cpu"))), rel=within)


@pytest.mark.parametrize(
    ("sizes", "tokens", "keys"),
    [
        pytest.param({}, 64, HALF, id="parameters"),
        pytest.param({}, 64, HALF | CHECKPOINTED, id="checkpointed"),
        pytest.param({}, 512, HALF, id="activations", marks=pytest.mark.slow),
        pytest.param(LARGE_HEAD, 512, HALF, id="a large head", marks=pytest.mark.slow),
    ],
)
def test_the_formula_is_near_the_peak_of_one_rank_that_casts_as_on_a_gpu(
    sizes: dict[str, Any], tokens: int, keys: dict[str, Any], tmp_path: Path
) -> None:
    asked = with_budget(tokens, keys)
    mesh = open_mesh(0, 1, device="cpu", address=f"file://{tmp_path}/rendezvous", parallel={})
    try:
        measured = peak_bytes(sizes, asked, mesh)
    finally:
        torch.distributed.destroy_process_group()
    told = sum(learner_memory(asked, Shapes.of(architecture(sizes)), 1).values()) * GIB
    assert told == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
def test_the_formula_is_near_the_peak_where_two_share_the_model() -> None:
    """Not where tokens are few and parameters most of it: buffers that gloo keeps for a while show there."""
    two = Ranks(2, make_bench, {}, threads=1)
    try:
        for sizes, tokens, keys in (
            ({}, 512, {}),
            ({}, 512, CHECKPOINTED),
            ({}, 512, HALF),
            (LARGE_HEAD, 512, {}),
            (LARGE_HEAD, 512, HALF),
            ({}, 64, {"loss": {"kl": 0.1}}),
        ):
            asked = with_budget(tokens, keys)
            told = sum(learner_memory(asked, Shapes.of(architecture(sizes)), 2).values()) * GIB
            assert told == pytest.approx(max(two.call("peak", sizes, asked)), rel=0.2), (sizes, keys)
    finally:
        two.close()


def test_what_saves_memory_is_counted_where_it_saves() -> None:
    shapes = Shapes.of(tiny_config("llama", 97))
    plain = learner_memory(recipe(loss={"kl": 0.1}), shapes, 1)
    checkpointed, offloaded = (
        learner_memory(recipe(train={"save_memory": [way]}), shapes, 1)
        for way in ("checkpoint_activations", "offload_optimizer")
    )
    assert checkpointed["activations"] < plain["activations"]
    assert "optimizer" not in offloaded, "activations leave more room than the update needs"
    assert plain["reference"] == plain["weights"]
    adapters = learner_memory(recipe(model={"path": "m", "lora": {"r": 2}}), shapes, 1)
    assert "reference" not in adapters
    assert adapters.get("gradients", 0.0) < plain["gradients"] / 2


def test_an_offloaded_optimizer_is_back_for_the_update_and_offloaded_weights_never() -> None:
    shapes = Shapes.of(known_shape("Qwen/Qwen2.5-7B") or pytest.fail("unknown"))
    plain, offloaded, all_away = (
        learner_memory(with_budget(1024, {"train": {"save_memory": ways}}), shapes, 2)
        for ways in ([], ["offload_optimizer"], ["offload_parameters"])
    )
    assert sum(offloaded.values()) == pytest.approx(4 * plain["weights"], rel=1e-4)
    assert all_away.keys() == {"gathered weights", "activations", "temporary"}


def test_a_sequence_longer_than_the_budget_is_a_row_of_its_own() -> None:
    shapes = Shapes.of(tiny_config("llama", 97))
    fits, exceeds, alone = (
        activation_bytes(with_budget(tokens, context=context), shapes)
        for tokens, context in ((100, 101), (100, 201), (200, 201))
    )
    assert 2 * fits == exceeds == alone


def test_neighbours_share_what_one_would_hold_alone() -> None:
    shapes = Shapes.of(tiny_config("llama", 97))
    alone, tokens, matrices = (
        learner_memory(recipe(cluster={"parallel": parallel}), shapes, 4)
        for parallel in ({}, {"sequence": 2}, {"tensor": 2})
    )
    assert tokens["activations"] == pytest.approx(alone["activations"] / 2, abs=1e-3)
    assert tokens["activations"] < matrices["activations"] < alone["activations"]
    assert matrices["weights"] == alone["weights"], (
        "all ranks together hold the model once, whatever they share"
    )


def test_more_learners_hold_less_each_until_a_card_is_enough() -> None:
    shapes = Shapes.of(known_shape("Qwen/Qwen2.5-7B") or pytest.fail("unknown"))
    needs = [sum(learner_memory(recipe(), shapes, learners).values()) for learners in (1, 2, 8)]
    assert needs == sorted(needs, reverse=True)
    checkpointing = recipe(train={"save_memory": ["checkpoint_activations"]})
    fewest = fewest_learners(checkpointing, shapes, 72.0)
    assert fewest is not None
    assert sum(learner_memory(checkpointing, shapes, fewest).values()) <= 72.0
    assert fewest_learners(recipe(train={"token_budget": 10**8}), shapes, 72.0) is None


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B", 0.494),
        ("Qwen/Qwen2.5-1.5B", 1.544),
        ("Qwen/Qwen2.5-7B", 7.616),
        ("Qwen/Qwen2.5-32B", 32.764),
    ],
)
def test_known_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    shape = known_shape(name)
    assert shape is not None
    assert Shapes.of(shape).parameters / 1e9 == pytest.approx(billions, abs=0.001)


@pytest.mark.parametrize("preset", preset_names())
def test_every_shipped_recipe_passes_its_dry_run_offline_and_says_what_it_could_not_check(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = resolve_recipe(preset).recipe
    found = dry_run(asked)
    assert found.problems == []
    on_hub = asked.model.path in SHAPES
    assert any("tokenizer and chat template" in each for each in found.unchecked) == on_hub
    assert found.parameters > 1e5
    checked = {check.source for check in found.checks}
    unchecked = " ".join(found.unchecked)
    remote = asked.verifier.name == "remote"
    assert all(remote or source.title in checked or source.title in unchecked for source in asked.data.train)
