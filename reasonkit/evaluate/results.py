"""From samples to numbers: what one model scored on one task, as a results file holds it.

A results file is JSON that explains itself: the settings, the score with its interval and how that was made, what
went wrong how often, and every item's scores, so that two files can be compared without the samples. Failed
samples and verdicts of status `error` are no evidence about the model: they are left out of the scores and
counted, never scored 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from reasonkit.errors import UsageError
from reasonkit.evaluate.samples import Sample
from reasonkit.evaluate.stats import (
    Estimate,
    bootstrap_interval,
    item_scores,
    maj_at_k,
    mean_interval,
    pass_at_k,
    pass_hat_k,
    suite_mean,
    variance_parts,
)
from reasonkit.records import Status, Verdict
from reasonkit.verifiers import Mode

FORMAT = 1
FEW_ITEMS = 100
"""Below so many items the bootstrap's interval stands beside the t-interval."""

Row = Mapping[str, Any]
Metric = Literal["accuracy", "score"]
"""`accuracy` counts what is wholly right; `score` averages partial credit too."""


@dataclass(frozen=True, slots=True)
class Item:
    """One problem of a task and its samples, in order; what is missing has not been sampled (yet)."""

    uid: str
    key: str
    """Shared by the keys of its samples."""
    prompt: str
    """A digest of the prompt, so that two models are only ever paired on the same question."""
    cluster: str
    """What it shares with the items that depend on it; its own uid where nothing."""
    groups: Mapping[str, str]
    """Where it stands in each of the task's breakdowns."""
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Rates:
    """Fractions of the samples asked for that were drawn."""

    no_answer: float
    truncated: float
    timeout: float
    """The answer was too costly to check; it scores 0."""
    grader_error: float
    """The grader failed, not the model; left out of the score."""
    failed: float
    """No reply came; left out of the score."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the samples of a task come to under one grader."""

    score: Estimate
    bootstrap: Estimate | None
    at_k: dict[str, float]
    """pass@1, pass@K, pass^K and maj@K; a reply passes when it is wholly right."""
    sampling_share: float | None
    """Of the score's variance, the part that more samples an item would remove; None with one sample each."""
    breakdown: dict[str, dict[str, Estimate]]
    """The score of each part of the task, by what it is parted by."""
    rates: Rates


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One model on one task."""

    model: str
    task: str
    grader: Mode
    metric: Metric
    n: int
    k: int
    pass_at: int
    sampling: dict[str, Any]
    seed: int
    drawn: int
    """Replies that there are; n × k when nothing is missing."""
    judged: int
    """Of these, the ones that count: with a verdict of this grader that is no error."""
    scores: dict[str, Scores]
    """By grader: the one that was asked for, and any other whose verdicts are there too."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """In dollars, where the model has a price."""
    about: dict[str, Any]
    """The task: what it is, where its data came from, published results."""
    items: list[dict[str, Any]]

    @property
    def score(self) -> Estimate | None:
        own = self.scores.get(self.grader)
        return own.score if own else None

    @property
    def complete(self) -> bool:
        return self.judged == self.n * self.k

    def as_json(self) -> dict[str, Any]:
        content: dict[str, Any] = _plain(asdict(self))
        return {"format": FORMAT, **content}


def evaluate_items(items: Sequence[Item], mode: Mode, metric: Metric, k: int, pass_at: int) -> Scores | None:
    """The scores of `items` under one grader, or None where it has judged nothing."""
    kept = [(item, judged) for item in items if (judged := _judged(item, mode))]
    if not kept:
        return None
    scores = [[_value(verdict, metric) for _, verdict in judged] for _, judged in kept]
    means = item_scores(scores)
    clusters = [item.cluster for item, _ in kept]
    shared = len(set(clusters)) < len(clusters)
    several = len(kept) > 1 and min(map(len, scores)) > 1
    return Scores(
        score=mean_interval(means, clusters=clusters if shared else None),
        bootstrap=bootstrap_interval(means) if 1 < len(means) < FEW_ITEMS and not shared else None,
        at_k=_at_k([[verdict for _, verdict in judged] for _, judged in kept], k, pass_at),
        sampling_share=variance_parts(scores).sampling_share if several else None,
        breakdown=_breakdown([item for item, _ in kept], means),
        rates=_rates([sample for item in items for sample in item.samples], mode),
    )


def item_rows(items: Iterable[Item], mode: Mode, metric: Metric) -> list[dict[str, Any]]:
    """The items as a results file lists them: their scores and lengths, sample by sample."""
    return [
        {
            "uid": item.uid,
            "key": item.key,
            "prompt": item.prompt,
            "cluster": item.cluster,
            "groups": dict(item.groups),
            "scores": [
                None if verdict is None or verdict.status.is_failure else _value(verdict, metric)
                for verdict in (sample.verdict(mode) for sample in item.samples)
            ],
            "tokens": [sample.completion_tokens for sample in item.samples],
        }
        for item in items
    ]


def suites(results: Sequence[TaskResult]) -> dict[str, Estimate]:
    """Each model's unweighted mean over its tasks, where it has several."""
    found: dict[str, Estimate] = {}
    for model in dict.fromkeys(result.model for result in results):
        scores = [result.score for result in results if result.model == model and result.score is not None]
        if len(scores) > 1:
            mean = suite_mean(scores)
            found[model] = replace(mean, low=max(0.0, mean.low), high=min(1.0, mean.high))
    return found


def results_json(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Several results as one file holds them."""
    return {
        "format": FORMAT,
        "suites": {model: _plain(asdict(estimate)) for model, estimate in suites(results).items()},
        "results": [result.as_json() for result in results],
    }


def read_results(path: Path) -> list[TaskResult]:
    """The results of a file, whether it holds one task's or several, or of the folder of an evaluation."""
    file = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} holds no results: there is no {file}", "reasonkit eval TASK -m MODEL"
        ) from None
    except ValueError as error:
        raise UsageError(
            f"{file} is no results file: {error}", "give the results.json of an evaluation"
        ) from None
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UsageError(
            f"{file} is no results file of format {FORMAT}", "give the results.json of an evaluation"
        )
    rows = content.get("results", [content])
    return [_result(row) for row in rows]


def _plain(value: Any) -> Any:
    """What JSON can say: a standard error that is not known is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _judged(item: Item, mode: Mode) -> list[tuple[Sample, Verdict]]:
    """The samples that count, with their verdicts."""
    judged = ((sample, sample.verdict(mode)) for sample in item.samples)
    return [(sample, verdict) for sample, verdict in judged if verdict and not verdict.status.is_failure]


def _value(verdict: Verdict, metric: Metric) -> float:
    return verdict.score if metric == "score" else float(verdict.score >= 1.0)


def _breakdown(items: Sequence[Item], means: Sequence[float]) -> dict[str, dict[str, Estimate]]:
    parts: dict[str, dict[str, list[float]]] = {}
    for item, mean in zip(items, means, strict=True):
        for name, value in item.groups.items():
            parts.setdefault(name, {}).setdefault(value, []).append(mean)
    return {
        name: {value: mean_interval(found[value]) for value in sorted(found, key=_in_order)}
        for name, found in parts.items()
    }


def _in_order(value: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _at_k(items: Sequence[Sequence[Verdict]], k: int, pass_at: int) -> dict[str, float]:
    """An item with fewer verdicts than a k needs, because some failed, is left out of that k's mean."""
    values: dict[str, float] = {}
    for name, at, measure in (
        ("pass@1", 1, pass_at_k),
        (f"pass@{pass_at}", pass_at, pass_at_k),
        (f"pass^{k}", k, pass_hat_k),
    ):
        enough = [verdicts for verdicts in items if len(verdicts) >= at]
        if enough:
            values[name] = fmean(
                measure(len(verdicts), sum(verdict.score >= 1.0 for verdict in verdicts), at)
                for verdicts in enough
            )
    voting = [
        verdicts[:k] for verdicts in items if len(verdicts) >= k and any(each.answer for each in verdicts[:k])
    ]
    if k > 1 and voting:
        values[f"maj@{k}"] = sum(
            maj_at_k([each.answer for each in verdicts], [each.score for each in verdicts], k)
            for verdicts in voting
        ) / sum(len(verdicts) >= k for verdicts in items)
    return values


def _rates(samples: Sequence[Sample], mode: Mode) -> Rates:
    verdicts = [verdict for sample in samples if (verdict := sample.verdict(mode)) is not None]
    statuses = [verdict.status for verdict in verdicts]
    count = len(samples)
    return Rates(
        no_answer=statuses.count(Status.NO_ANSWER) / count,
        truncated=sum(sample.truncated and sample.failure is None for sample in samples) / count,
        timeout=statuses.count(Status.TIMEOUT) / count,
        grader_error=statuses.count(Status.ERROR) / count,
        failed=sum(sample.failure is not None for sample in samples) / count,
    )


def _result(row: Row) -> TaskResult:
    values = {field.name: row[field.name] for field in fields(TaskResult)}
    return TaskResult(**{**values, "scores": {mode: _scores(each) for mode, each in row["scores"].items()}})


def _scores(row: Row) -> Scores:
    return Scores(
        score=_estimate(row["score"]),
        bootstrap=_estimate(row["bootstrap"]) if row["bootstrap"] else None,
        at_k=dict(row["at_k"]),
        sampling_share=row["sampling_share"],
        breakdown={
            name: {value: _estimate(each) for value, each in parts.items()}
            for name, parts in row["breakdown"].items()
        },
        rates=Rates(**row["rates"]),
    )


def _estimate(row: Row) -> Estimate:
    return Estimate(**{**row, "error": math.nan if row["error"] is None else row["error"]})
