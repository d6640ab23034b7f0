"""Evaluations as plain data for a report: results from folders or files, and what there is to draw of them.

An input is the folder of an evaluation, or a results file of one task or of several; a file that lies where `eval`
wrote it brings its replies along, one that was copied elsewhere has the numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from reasonkit.errors import UsageError, nearest
from reasonkit.evaluate.folder import EVALUATION, EvaluationDir
from reasonkit.evaluate.results import TaskResult, read_results
from reasonkit.evaluate.stats import Estimate, mean_interval
from reasonkit.report.series import Chart, Curve

BINS = 8
"""Parts of equal numbers of replies, by length."""


@dataclass(frozen=True, slots=True)
class Source:
    """One model's result on one task, and the folder of the evaluation that it came from, where that is known."""

    result: TaskResult
    folder: EvaluationDir | None
    kept_as: str
    """The model's label in that folder."""


@dataclass(frozen=True, slots=True)
class Bar:
    model: int
    score: Estimate


@dataclass(frozen=True, slots=True)
class Bars:
    """Scores with intervals side by side: a row a task, or a row a part of one."""

    key: str
    title: str
    rows: Sequence[tuple[str, Sequence[Bar]]]


def is_evaluation(path: Path) -> bool:
    """Whether a report of `path` is one of evaluations: their folder, or a results file."""
    return path.suffix == ".json" or (path / EVALUATION).is_file() or _is_pair(path)


def read_evaluations(paths: Sequence[Path], rename: Mapping[str, str]) -> list[Source]:
    """All results of `paths`, their models under distinct labels: their own, with the folder where that is not
    enough, or what `rename` calls them."""
    groups = [(path, [_source(path, result) for result in read_results(path)]) for path in paths]
    seen = [(source.result.model, source.result.task) for _, sources in groups for source in sources]
    twice = {model for model, task in seen if seen.count((model, task)) > 1}
    labelled = [
        _labelled(source, f"{source.result.model} ({_name(path)})")
        if source.result.model in twice
        else source
        for path, sources in groups
        for source in sources
    ]
    labels = models_of(labelled)
    unknown = [name for name in rename if name not in labels]
    if unknown:
        raise UsageError(f"--rename: no model is called '{unknown[0]}'", nearest(unknown[0], labels))
    renamed = [_labelled(source, rename.get(source.result.model, source.result.model)) for source in labelled]
    pairs = [(source.result.model, source.result.task) for source in renamed]
    for model, task in pairs:
        if pairs.count((model, task)) > 1:
            raise UsageError(
                f"{task} is there twice for a model called '{model}'", "tell them apart with --rename"
            )
    return renamed


def models_of(sources: Sequence[Source]) -> list[str]:
    return list(dict.fromkeys(source.result.model for source in sources))


def tasks_of(sources: Sequence[Source]) -> list[str]:
    return list(dict.fromkeys(source.result.task for source in sources))


def bars_of(sources: Sequence[Source]) -> list[Bars]:
    """The scores by task, and of every task with a breakdown by its parts."""
    models = models_of(sources)
    tasks = tasks_of(sources)
    scores = {(source.result.model, source.result.task): source.result.score for source in sources}
    by_task = [
        (task, _bars(models, {model: scores.get((model, task)) for model in models})) for task in tasks
    ]
    title = "Score by task" if len(tasks) > 1 else "Score"
    charts = [Bars("tasks", title, [(task, bars) for task, bars in by_task if bars])]
    for task in tasks:
        found = {
            source.result.model: source.result.scores[source.result.grader].breakdown
            for source in sources
            if source.result.task == task and source.result.score is not None
        }
        for name in dict.fromkeys(name for parts in found.values() for name in parts):
            values = dict.fromkeys(value for parts in found.values() for value in parts.get(name, {}))
            rows = [
                (
                    value,
                    _bars(models, {model: parts.get(name, {}).get(value) for model, parts in found.items()}),
                )
                for value in values
            ]
            charts.append(Bars(f"{task}-{name}", f"{task} by {name}", rows))
    return [chart for chart in charts if chart.rows]


def summary_of(sources: Sequence[Source]) -> dict[str, list[float | None]]:
    """Each model's scores, task by task, and their mean at the end where it has all of them."""
    scores = {(source.result.model, source.result.task): source.result.score for source in sources}
    summary: dict[str, list[float | None]] = {}
    for model in models_of(sources):
        found = [scores.get((model, task)) for task in tasks_of(sources)]
        means = [each.mean for each in found if each is not None]
        whole = len(means) == len(found)
        summary[model] = [
            *(None if each is None else each.mean for each in found),
            fmean(means) if whole else None,
        ]
    return summary


def length_chart(sources: Sequence[Source]) -> Chart | None:
    """Score against reply length: replies of a model in parts of equal number, with intervals over problems."""
    models = models_of(sources)
    curves = []
    for index, model in enumerate(models):
        replies = sorted(
            (tokens, score, (source.result.task, item["uid"]))
            for source in sources
            if source.result.model == model
            for item in source.result.items
            for tokens, score in zip(item["tokens"], item["scores"], strict=True)
            if score is not None
        )
        parts = _parts(replies)
        if len(parts) < 2:
            continue
        estimates = [
            mean_interval([score for _, score, _ in part], clusters=[uid for *_, uid in part])
            for part in parts
        ]
        points = [
            (sum(tokens for tokens, *_ in part) / len(part), estimate.mean)
            for part, estimate in zip(parts, estimates, strict=True)
        ]
        curves.append(Curve("score", index, points, intervals=[(each.low, each.high) for each in estimates]))
    if not curves:
        return None
    return Chart("length", "Score against reply length in tokens", "percent", curves, along="tokens")


def _parts(replies: Sequence[tuple[int, float, Any]]) -> list[Sequence[tuple[int, float, Any]]]:
    """Parts of about equal size whose lengths do not overlap."""
    count = min(BINS, len(replies) // 10)
    if count < 2:
        return []
    edges = [replies[len(replies) * place // count][0] for place in range(count)]
    bounds = [*dict.fromkeys([-math.inf, *edges[1:]]), math.inf]
    parts = [[reply for reply in replies if low <= reply[0] < high] for low, high in pairwise(bounds)]
    return [part for part in parts if part]


def _bars(models: Sequence[str], scores: Mapping[str, Estimate | None]) -> list[Bar]:
    return [
        Bar(index, score) for index, model in enumerate(models) if (score := scores.get(model)) is not None
    ]


def _source(path: Path, result: TaskResult) -> Source:
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, folder.parent.parent):  # of all its results, or of one model's on one task
        if (candidate / EVALUATION).is_file():
            return Source(result, EvaluationDir(candidate), result.model)
    return Source(result, None, result.model)


def _labelled(source: Source, label: str) -> Source:
    return replace(source, result=replace(source.result, model=label))


def _is_pair(path: Path) -> bool:
    return (path / "results.json").is_file()


def _name(path: Path) -> str:
    """What tells an input from others: its folder's name, or a file's."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "results.json" else resolved.stem
