"""What a recipe would do, without loading a model: its names, its sizes, the verifiers on real records, one prompt.

Finds before a run what otherwise shows after an hour: a name or an option that nobody knows (checks.py, where a
real start begins too), a source that cannot be, a verifier that rejects the gold answer or accepts an empty one. It
looks at a few records of every source: others may still be wrong, or not fit. Weights are never read. What cannot
be looked at from here (a model or a data set that is on the Hub only) is said, and the rest is done.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from reasonkit.data.gold import gold_reply
from reasonkit.data.load import check_source, sample
from reasonkit.data.sources import Split
from reasonkit.dialogue import Dialogue
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.models import base_of, checkpoint_of
from reasonkit.recipe import DataConfig, Part, Recipe, SourceConfig
from reasonkit.records import Record, Status
from reasonkit.train.checks import check_recipe
from reasonkit.train.judging import Judge, open_judge
from reasonkit.train.memory import Shapes, engine_memory, fewest_learners, learner_memory
from reasonkit.train.model import (
    check_context,
    is_fetched,
    load_config,
    load_tokenizer,
    make_architecture,
    make_tokenizer,
)
from reasonkit.train.shapes import known_shape
from reasonkit.train.topology import describe

SAMPLE = 8
"""Records a source that are built and judged."""
CARD_GIB = 72.0
"""Of an 80 GiB card, what is left when a tenth stays free."""


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
    placement: str
    """Where learner and engines are to be."""
    learners: int
    """Devices that the learner's memory is counted for."""
    learner_gib: dict[str, float]
    engine_gib: dict[str, float]
    fewest_learners: int | None
    """Devices of CARD_GIB that the learner needs."""
    checks: list[SourceCheck]
    prompt: str
    prompt_ids: list[int]
    longest_prompt: int
    unchecked: list[str]

    @property
    def problems(self) -> list[str]:
        return [f"{check.source}: {problem}" for check in self.checks for problem in check.problems]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "problems": self.problems}


def dry_run(recipe: Recipe) -> DryRun:
    """Raises what a run would be refused for; what verifiers get wrong is in the result's `problems`."""
    check_recipe(recipe)
    unchecked: list[str] = []
    tokenizer, config = _shapes(recipe, unchecked)
    by_source = _sample_records(recipe.data, recipe.seed, unchecked)
    prompts = _prompts(tokenizer, by_source)
    samples = recipe.train.prompts * recipe.rollout.n
    shapes = Shapes.of(config)
    learners = recipe.cluster.learners or max(torch.cuda.device_count(), 1)
    dialogue = Dialogue(tokenizer) if tokenizer is not None else None
    return DryRun(
        recipe=recipe.name,
        samples_a_step=samples,
        updates_a_step=recipe.updates_per_rollout,
        steps=recipe.train.steps,
        samples=samples * recipe.train.steps,
        most_tokens_a_step=samples * recipe.rollout.max_tokens,
        parameters=shapes.parameters,
        placement=describe(recipe),
        learners=learners,
        learner_gib=learner_memory(recipe, shapes, learners),
        engine_gib=engine_memory(recipe, shapes),
        fewest_learners=fewest_learners(recipe, shapes, CARD_GIB),
        checks=asyncio.run(_check_all(by_source, recipe.verifier, unchecked)),
        prompt=dialogue.text_with_specials(prompts[0]) if dialogue is not None and prompts else "",
        prompt_ids=prompts[0] if prompts else [],
        longest_prompt=max(map(len, prompts), default=0),
        unchecked=unchecked,
    )


def _shapes(recipe: Recipe, unchecked: list[str]) -> tuple[PreTrainedTokenizerBase | None, PreTrainedConfig]:
    if recipe.model.init is not None:
        made = make_tokenizer(str(recipe.model.init["alphabet"]))
        return made, make_architecture(recipe.model, made)
    name = str(recipe.model.path)
    path, known = checkpoint_of(name) or Path(name).expanduser(), known_shape(name)
    if known is None or path.exists() or is_fetched(name):
        config = load_config(base_of(path))
        check_context(config, recipe.model.context, path)
        return load_tokenizer(path), config
    unchecked.append(f"the tokenizer and chat template of {name}, which is not on this machine")
    check_context(known, recipe.model.context, name)
    return None, known


def _prompts(
    tokenizer: PreTrainedTokenizerBase | None, by_source: dict[str, list[Record]]
) -> list[list[int]]:
    if tokenizer is None:
        return []
    dialogue = Dialogue(tokenizer)
    return [
        dialogue.record_ids(record, record.prompt) for records in by_source.values() for record in records
    ]


def _sample_records(data: DataConfig, seed: int, unchecked: list[str]) -> dict[str, list[Record]]:
    """A few records of every source, by what the recipe calls it."""
    found: dict[str, list[Record]] = {}
    missing: defaultdict[str, list[str]] = defaultdict(list)
    wanted: list[tuple[str, SourceConfig, Split]] = [
        *((source.title, source, "train") for source in data.train),
        *((f"{source.title} (held out)", source, "test") for source in data.held_out),
    ]
    for title, source, split in wanted:
        try:
            check_source(source, split)
            found[title] = sample(source, split, seed, SAMPLE)
        except UsageError:
            raise
        except ReasonkitError as error:  # a source that is not here and cannot be fetched now
            missing[error.message].append(title)
    unchecked += [f"the records of {', '.join(titles)}: {why}" for why, titles in missing.items()]
    return found


async def _check_all(
    by_source: dict[str, list[Record]], verifier: Part, unchecked: list[str]
) -> list[SourceCheck]:
    if verifier.name == "remote":
        unchecked.append(f"the verdicts of {verifier.options.get('url', 'the reward server')}")
        return []
    async with open_judge(verifier) as judge:
        judge.check(record for records in by_source.values() for record in records)
        return [await _check(name, records, judge) for name, records in by_source.items()]


async def _check(name: str, records: Sequence[Record], grader: Judge) -> SourceCheck:
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
