"""One model on one task: which samples are wanted, which are there, what they come to.

Nothing here samples or judges (run.py does). A Pair needs nothing of any other, so that each can be a worker's
of its own: tasks × models is a set of independent Pairs, grouped by model because a model is dear to load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasonkit.engines import Sampling
from reasonkit.engines.http_ledger import Price
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.results import Item, Metric, Scores, TaskResult, evaluate_items, item_rows
from reasonkit.evaluate.samples import (
    GAME,
    SAMPLING_FIELDS,
    Sample,
    Samples,
    item_key,
    read_samples,
    sample_key,
)
from reasonkit.models import FoundModel
from reasonkit.records import Record, dumps
from reasonkit.tasks import Task
from reasonkit.verifiers import Mode

MODES: tuple[Mode, ...] = ("strict", "reasoning360")


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What is asked of every model: a task's items, how often, and how replies are drawn."""

    task: Task
    records: Sequence[Record]
    k: int
    sampling: Sampling
    seed: int = 0
    pass_at: int | None = None
    """The k of the pass@k that is reported; None takes k itself."""
    pins: Mapping[str, str] | None = None
    """Hashes of the files that the items were read from."""
    suite: str | None = None

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def samples(self) -> int:
        return len(self.records) * self.k


class Pair:
    """A TaskPlan for one model, over the samples that it has so far."""

    def __init__(self, model: str, identity: str, plan: TaskPlan, samples: Samples) -> None:
        self.model = model
        self.plan = plan
        self.samples = samples
        env = plan.task.env
        played = f"{env.name} {dumps(env.options)}" if env.options else env.name
        self.keys = {
            record.uid: item_key(identity, record, played, plan.sampling, plan.seed)
            for record in plan.records
        }

    def missing(self) -> Iterator[tuple[Record, int]]:
        """What is still to be sampled, in order; what failed before is tried again."""
        for record in self.plan.records:
            for number in range(self.plan.k):
                sample = self._sample(record, number)
                if sample is None or sample.failure is not None:
                    yield record, number

    def unjudged(self, mode: Mode) -> Iterator[tuple[Record, Sample]]:
        """Replies without a verdict of this grader, or with one that says that the grader failed."""
        for record, sample in self.replies():
            verdict = sample.verdict(mode)
            if verdict is None or verdict.status.is_failure:
                yield record, sample

    def replies(self) -> Iterator[tuple[Record, Sample]]:
        for record in self.plan.records:
            for number in range(self.plan.k):
                sample = self._sample(record, number)
                if sample is not None and sample.failure is None and GAME not in sample.verdicts:
                    yield record, sample

    def key(self, record: Record, number: int) -> str:
        return sample_key(self.keys[record.uid], number)

    def items(self) -> list[Item]:
        task = self.plan.task
        return [
            Item(
                uid=record.uid,
                key=self.keys[record.uid],
                prompt=_digest(record),
                cluster=task.cluster_of(record),
                groups={
                    name: str(record.metadata[name]) for name in task.breakdown if name in record.metadata
                },
                samples=[
                    sample
                    for number in range(self.plan.k)
                    if (sample := self._sample(record, number)) is not None
                ],
            )
            for record in self.plan.records
        ]

    def result(self, mode: Mode, price: Price | None = None) -> TaskResult:
        """What the samples come to, under `mode` and under any other grader that has judged them."""
        plan, items = self.plan, self.items()
        drawn = [sample for item in items for sample in item.samples]
        pass_at = plan.pass_at or plan.k
        prompt, completion = (
            sum(getattr(sample, name) for sample in drawn) for name in ("prompt_tokens", "completion_tokens")
        )
        return TaskResult(
            model=self.model,
            task=plan.name,
            grader=mode,
            metric=plan.task.metric,
            n=len(plan.records),
            k=plan.k,
            pass_at=pass_at,
            sampling={
                **{name: getattr(plan.sampling, name) for name in SAMPLING_FIELDS},
                "stop": list(plan.sampling.stop),
            },
            seed=plan.seed,
            drawn=sum(sample.failure is None for sample in drawn),
            judged=sum(_is_judged(sample, mode) for sample in drawn),
            scores=_scores(items, mode, plan.task.metric, plan.k, pass_at),
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=None if price is None else price.of(prompt, completion),
            about=_about(plan),
            items=item_rows(items, mode, plan.task.metric),
        )

    def _sample(self, record: Record, number: int) -> Sample | None:
        return self.samples.by_key.get(self.key(record, number))


def kept(folder: EvaluationDir, found: FoundModel, plan: TaskPlan) -> Pair:
    """The pair with the samples that the folder has of it, to look at."""
    samples = Samples()
    samples.by_key = read_samples(folder.pair(found.label, plan.name))
    return Pair(found.label, found.identity, plan, samples)


def rejudged(result: TaskResult, samples: Samples, mode: Mode) -> TaskResult:
    """`result` under another grader, or under new verdicts of the same."""
    items = [
        Item(
            uid=row["uid"],
            key=row["key"],
            prompt=row["prompt"],
            cluster=row["cluster"],
            groups=row["groups"],
            samples=[
                sample
                for number in range(result.k)
                if (sample := samples.by_key.get(sample_key(row["key"], number))) is not None
            ],
        )
        for row in result.items
    ]
    return replace(
        result,
        grader=mode,
        judged=sum(_is_judged(sample, mode) for item in items for sample in item.samples),
        scores=_scores(items, mode, result.metric, result.k, result.pass_at),
        items=item_rows(items, mode, result.metric),
    )


def _scores(items: Sequence[Item], mode: Mode, metric: Metric, k: int, pass_at: int) -> dict[str, Scores]:
    """By grader: `mode`, and any other whose verdicts are there too."""
    drawn = [sample for item in items for sample in item.samples]
    modes: list[Mode] = [mode, *(each for each in MODES if each != mode and _judged_by(drawn, each))]
    found = {each: evaluate_items(items, each, metric, k, pass_at) for each in modes}
    return {each: scores for each, scores in found.items() if scores is not None}


def _is_judged(sample: Sample, mode: Mode) -> bool:
    verdict = sample.verdict(mode)
    return verdict is not None and not verdict.status.is_failure


def _judged_by(samples: Sequence[Sample], mode: Mode) -> bool:
    return any(mode in sample.verdicts for sample in samples)


def _digest(record: Record) -> str:
    return hashlib.blake2b(dumps(list(record.prompt)).encode(), digest_size=6).hexdigest()


def _about(plan: TaskPlan) -> dict[str, Any]:
    task = plan.task
    return {
        "about": task.about,
        "suite": plan.suite,
        "reference": dict(task.reference),
        "verifier": task.verifier,
        "breakdown": list(task.breakdown),
        "data": dict(plan.pins or {}),
    }
