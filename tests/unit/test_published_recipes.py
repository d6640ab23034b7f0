"""The shipped recipes against the settings that were published: number for number, one line a setting."""

from __future__ import annotations

from typing import Any

import pytest

from reasonkit.config import resolve_recipe

GURU = {
    "algorithm": "grpo",
    "loss.policy": {"clipped": {"low": 0.2, "high": 0.2, "dual": 10.0}},
    "loss.aggregation": "token_mean",
    "loss.kl": 0.0,
    "loss.entropy": 0.0,
    "rollout.n": 16,
    "rollout.temperature": 1.0,
    "rollout.max_tokens": 8192,
    "rollout.engine": {"vllm": {"tensor_parallel": 2}},
    "model.context": 4096 + 8192,
    "data.filter_overlong_prompts": 4096,
    "train.prompts": 512,
    "train.mini_batch": 64,
    "train.lr": 1e-6,
    "train.lr_schedule": {"constant": {"warmup": 10}},
    "train.optimizer": {"adamw": {"weight_decay": 0.1}},
    "train.grad_clip": 1.0,
    "train.token_budget": 24576,
}
LOGIC_RL = {
    "algorithm": "reinforce_pp",
    "loss.policy": {"clipped": {"low": 0.2, "high": 0.2}},
    "loss.aggregation": "token_mean",
    "loss.kl": 0.001,
    "loss.kl_kind": "k3",
    "rollout.n": 8,
    "train.prompts": 8,
    "train.mini_batch": None,
    "train.grad_clip": 1.0,
}
REASONIO = LOGIC_RL | {
    "rollout.temperature": 0.7,
    "rollout.max_tokens": 8192,
    "rollout.engine": {"vllm": {"tensor_parallel": 4}},
    "model.context": 4096 + 8192,
    "train.lr": 4e-7,
    "train.steps": 5 * 2000 // 8,
    "train.save_memory": ["checkpoint_activations", "offload_optimizer", "offload_parameters"],
}
SHORT = {"rollout.max_tokens": 4096, "model.context": 4096 + 4096}
PUBLISHED: dict[str, dict[str, Any]] = {
    "guru-7b": GURU | {"model.path": "Qwen/Qwen2.5-7B", "train.steps": 10 * 91_900 // 512},
    "guru-7b-math3k": GURU | {"model.path": "Qwen/Qwen2.5-7B", "train.steps": 10 * 3000 // 512},
    "guru-32b": GURU | {"model.path": "Qwen/Qwen2.5-32B", "train.steps": 5 * 91_900 // 512},
    "logic-rl-7b": LOGIC_RL
    | {
        "rollout.temperature": 1.0,
        "rollout.max_tokens": 4096,
        "rollout.engine": {"vllm": {"tensor_parallel": 2}},
        "model.context": 512 + 4096,
        "loss.entropy": 0.001,
        "reward": {"logic_rl": 1.0},
        "train.lr": 5e-7,
        "train.steps": 5 * 900 // 8,
    },
    "reasonio-7b": REASONIO,
    "reasonio-7b-ablation": REASONIO | SHORT,
    "kk-7b": REASONIO | SHORT | {"reward": {"logic_rl": 1.0}},
    "ii-thought-1.5b": {
        "algorithm": "grpo",
        "loss.policy": {"clipped": {"low": 0.2, "high": 0.2}},
        "loss.kl": 0.001,
        "loss.kl_kind": "k3",
        "rollout.n": 5,
        "rollout.temperature": 0.6,
        "rollout.max_tokens": 8192,
        "model.context": 1024 + 8192,
        "data.filter_overlong_prompts": 1024,
        "train.prompts": 128,
        "train.mini_batch": 64,
        "train.lr": 1e-6,
        "train.token_budget": 32768,
        "verifier": {"remote": {"url": "http://localhost:8000", "max_workers": 20, "timeout": 60}},
    },
    "dapo-32b": {
        "algorithm": "grpo",
        "loss.policy": {"clipped": {"low": 0.2, "high": 0.28, "dual": 10.0}},
        "loss.aggregation": "token_mean",
        "loss.kl": 0.0,
        "rollout.n": 16,
        "rollout.max_tokens": 20480,
        "reward": {
            "correctness": {"weight": 2.0, "options": {}},
            "overlong": {"weight": 1.0, "options": {"max_tokens": 20480, "buffer": 4096}},
        },
        "train.prompts": 512,
        "train.mini_batch": 32,
        "train.refill": 10,
        "train.lr": 1e-6,
        "train.lr_schedule": {"constant": {"warmup": 10}},
        "train.optimizer": {"adamw": {"weight_decay": 0.1}},
    },
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_recipe_is_what_was_published(preset: str) -> None:
    recipe = resolve_recipe(preset).recipe.model_dump(mode="json")
    found = {}
    for name in PUBLISHED[preset]:
        value: Any = recipe
        for part in name.split("."):
            value = value[part]
        found[name] = value
    assert found == PUBLISHED[preset]


def test_logic_rl_moves_from_three_people_to_seven_and_is_always_validated_on_five() -> None:
    data = resolve_recipe("logic-rl-7b").recipe.data
    assert [stage.records for stage in data.stages] == [900, 900, 900, 900, None]
    assert [list(stage.weights) for stage in data.stages] == [[f"{people}ppl"] for people in range(3, 8)]
    assert [source.options for source in data.held_out] == [{"people": 5}]
