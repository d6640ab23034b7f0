"""What a recipe would do, without loading a model: sizes, the verifiers on real records, one prompt as tokens.

Finds before a run what otherwise shows after an hour: a prompt that does not fit, a verifier that rejects the gold
answer or accepts an empty one. Memory is counted from shapes and leaves out activations, which depend on
train.token_budget; weights are never read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from reasonkit.data.gold import gold_reply
from reasonkit.data.load import sample
from reasonkit.dialogue import Dialogue
from reasonkit.engines.transformers import SLOTS
from reasonkit.recipe import DataConfig, Recipe
from reasonkit.records import Record, Status
from reasonkit.rewards import RewardSum
from reasonkit.train.model import (
    check_context,
    load_config,
    load_tokenizer,
    make_architecture,
    make_tokenizer,
)
from reasonkit.verifiers import Grader

SAMPLE = 8
"""Records a source that are built and judged."""
FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """A verifier's verdicts on replies whose verdict is known."""

    source: str
    records: int
    gold_right: int
    """Gold answers found correct; of a source that gives none, 0 of 0 in `gold_given`."""
    gold_given: int
    empty_right: int
    other_right: int
    """Records for which another record's gold answer was found correct."""

    @property
    def problems(self) -> list[str]:
        found = []
        if self.gold_right < self.gold_given:
            found.append(
                f"{self.gold_given - self.gold_right} of {self.gold_given} gold answers are not accepted"
            )
        if self.empty_right:
            found.append(f"{self.empty_right} of {self.records} empty replies are accepted")
        if self.other_right > self.records // 2:
            found.append(f"{self.other_right} of {self.records} answers to another record are accepted")
        return found


@dataclass(frozen=True, slots=True)
class DryRun:
    recipe: str
    samples_a_step: int
    updates_a_step: int
    steps: int
    samples: int
    most_tokens_a_step: int
    """Were every reply as long as rollout.max_tokens."""
    parameters: int
    memory_gib: dict[str, float]
    checks: list[SourceCheck]
    prompt: str
    prompt_ids: list[int]
    longest_prompt: int

    @property
    def problems(self) -> list[str]:
        return [f"{check.source}: {problem}" for check in self.checks for problem in check.problems]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "problems": self.problems}


def dry_run(recipe: Recipe) -> DryRun:
    """Resolve everything that a run resolves, but its weights."""
    RewardSum(recipe.reward)
    tokenizer, config = _shapes(recipe)
    dialogue = Dialogue(tokenizer)
    by_source = _sample_records(recipe.data, recipe.seed)
    prompts = [
        dialogue.record_ids(record, record.prompt) for records in by_source.values() for record in records
    ]
    samples = recipe.train.prompts * recipe.rollout.n
    parameters = _count_parameters(config)
    return DryRun(
        recipe=recipe.name,
        samples_a_step=samples,
        updates_a_step=recipe.updates_per_rollout,
        steps=recipe.train.steps,
        samples=samples * recipe.train.steps,
        most_tokens_a_step=samples * recipe.rollout.max_tokens,
        parameters=parameters,
        memory_gib=_memory(recipe, config, parameters),
        checks=asyncio.run(_check_all(by_source)),
        prompt=dialogue.text_with_specials(prompts[0]) if prompts else "",
        prompt_ids=prompts[0] if prompts else [],
        longest_prompt=max(map(len, prompts), default=0),
    )


def _shapes(recipe: Recipe) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig]:
    if recipe.model.init is not None:
        tokenizer = make_tokenizer(str(recipe.model.init["alphabet"]))
        return tokenizer, make_architecture(recipe.model, tokenizer)
    path = Path(str(recipe.model.path)).expanduser()
    config = load_config(path)
    check_context(config, recipe.model.context, path)
    return load_tokenizer(path), config


def _sample_records(data: DataConfig, seed: int) -> dict[str, list[Record]]:
    """A few records of every source, by what the recipe calls it."""
    return {source.title: sample(source, "train", seed, SAMPLE) for source in data.train}


async def _check_all(by_source: dict[str, list[Record]]) -> list[SourceCheck]:
    async with Grader() as grader:
        return [await _check(name, records, grader) for name, records in by_source.items()]


async def _check(name: str, records: Sequence[Record], grader: Grader) -> SourceCheck:
    golds = [gold_reply(record) for record in records]
    others = [*golds[1:], *golds[:1]]

    async def count_right(replies: Sequence[str | None]) -> int:
        verdicts = [
            await grader.verify(record, reply)
            for record, reply in zip(records, replies, strict=True)
            if reply is not None
        ]
        return sum(verdict.status is Status.CORRECT for verdict in verdicts)

    return SourceCheck(
        source=name,
        records=len(records),
        gold_right=await count_right(golds),
        gold_given=sum(gold is not None for gold in golds),
        empty_right=await count_right([""] * len(records)),
        other_right=await count_right(others) if len(records) > 1 else 0,
    )


def _count_parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def _memory(recipe: Recipe, config: PreTrainedConfig, parameters: int) -> dict[str, float]:
    """GiB by purpose, in the one process that learns and samples."""
    width = torch.finfo(getattr(torch, recipe.model.dtype)).bits // 8
    text = config.get_text_config()
    heads = text.num_key_value_heads or text.num_attention_heads
    head_dim = text.to_dict().get("head_dim") or text.hidden_size // text.num_attention_heads
    cached = (
        2
        * text.num_hidden_layers
        * heads
        * head_dim
        * recipe.model.context
        * recipe.rollout.engine.options.get("slots", SLOTS)
    )
    sizes = {
        "learner weights": parameters * FLOAT32,
        "gradients": parameters * FLOAT32,
        "optimizer": parameters * FLOAT32 * 2,
        "reference weights": parameters * FLOAT32 if recipe.loss.kl else 0,
        "engine weights": parameters * width,
        "engine cache": cached * width,
    }
    return {name: round(size / 2**30, 4) for name, size in sizes.items()}
