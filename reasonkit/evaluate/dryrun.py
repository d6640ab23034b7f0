"""What an evaluation would do, before any model is loaded: how much, where, and what it could tell apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonkit.dialogue import Dialogue
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.stats import minimum_detectable_effect
from reasonkit.evaluate.work import TaskPlan, kept
from reasonkit.models import FoundModel
from reasonkit.records import Record

Count = Callable[[Record], int]

CHARACTERS_A_TOKEN = 4
"""Where no tokenizer is at hand."""
TOKENISED = 20
"""Prompts that are tokenised to estimate the length of all."""
HALFWAY = 0.25
"""The variance of one reply's score where half of the replies are right: the hardest case to tell apart."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One model on one task."""

    model: str
    task: str
    items: int
    k: int
    missing: int
    """Samples still to be drawn; the folder has the others."""
    prompt_tokens: int
    """Of the missing samples, estimated."""
    most_tokens: int
    """Of their replies, at most."""
    placement: str
    detectable: float
    """The smallest true difference from another model that this many items would show four times in five."""


def dry_run(
    models: Sequence[FoundModel],
    plans: Sequence[TaskPlan],
    folder: EvaluationDir,
    concurrency: int | None,
    on_gpus: bool,
) -> list[Planned]:
    rows = []
    for found in models:
        count = _counter(found.folder)
        for plan in plans:
            missing = sum(1 for _ in kept(folder, found, plan).missing())
            rows.append(
                Planned(
                    model=found.label,
                    task=plan.name,
                    items=len(plan.records),
                    k=plan.k,
                    missing=missing,
                    prompt_tokens=round(missing * _mean_length(plan.records, count)),
                    most_tokens=missing * plan.sampling.max_tokens,
                    placement=_placement(found, concurrency or found.in_flight, on_gpus),
                    detectable=detectable(len(plan.records), plan.k),
                )
            )
    return rows


def detectable(items: int, k: int) -> float:
    """For two models that are right half the time, whose replies' variance lies half between the items, and whose
    true item scores correlate by a half: assumptions, since nothing has been measured yet."""
    between = within = HALFWAY / 2
    return minimum_detectable_effect(items, 2 * between * (1 - 0.5), 2 * within / k)


def _placement(found: FoundModel, concurrency: int, on_gpus: bool) -> str:
    if found.folder is None:
        return f"{found.engine} API, {concurrency} at once"
    gpus = found.tensor_parallel
    device = f"{gpus} GPU{'s' if gpus > 1 else ''}" if on_gpus else "CPU"
    each = f"{found.engines} engines, each " if found.engines > 1 else ""
    return f"{each}{found.engine} on {device}, {concurrency} at once"


def _mean_length(records: Sequence[Record], count: Count) -> float:
    some = records[:: max(1, len(records) // TOKENISED)]
    return sum(count(record) for record in some) / len(some)


def _counter(folder: Path | None) -> Count:
    """Counts a prompt's tokens: by the model's own tokenizer, or by its characters."""
    if folder is None:
        return lambda record: sum(len(turn["content"]) for turn in record.prompt) // CHARACTERS_A_TOKEN
    from transformers import AutoTokenizer

    dialogue = Dialogue(AutoTokenizer.from_pretrained(folder))
    return lambda record: len(dialogue.record_ids(record, record.prompt))
