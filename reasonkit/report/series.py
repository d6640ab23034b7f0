"""Which curves a report draws: groups of metrics that belong together, and whatever else a run wrote down.

A curve exists where its metric has numbers; a run that lacks one simply has no such curve. The page and the
image files draw the same charts from this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from reasonkit.report.read import RunData

Point = tuple[float, float]

MOST_POINTS = 2000
"""Longer curves are drawn by the mean of neighbouring steps."""
SMOOTH_FROM = 60
"""Curves of at least so many points get a moving average, drawn over the faint raw values."""
SMOOTH_SHARE = 25
"""The moving average spans this fraction of a curve."""

Unit = Literal["plain", "percent"]


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    run: int
    points: Sequence[Point]
    average: Sequence[Point] = ()
    """A moving average of `points`, empty where the curve is short."""
    intervals: Sequence[tuple[float, float]] = ()
    """95 % interval of each point; a curve with intervals is drawn as separate marks."""


@dataclass(frozen=True, slots=True)
class Chart:
    key: str
    title: str
    unit: Unit
    curves: Sequence[Curve]
    along: str = "step"
    """What runs along the bottom."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A chart to draw if any of its metrics is there: metric name -> what the legend calls it."""

    key: str
    title: str
    metrics: Mapping[str, str]
    unit: Unit = "plain"
    validations: Mapping[str, str] = field(default_factory=dict)


PLANS = (
    Plan("reward", "Reward, mean of a step's rollouts", {"reward": "reward"}),
    Plan(
        "accuracy",
        "Accuracy",
        {"accuracy": "training rollouts"},
        "percent",
        {"sampled": "held out, sampled", "greedy": "held out, greedy"},
    ),
    Plan("length", "Reply length in tokens", {"length_mean": "mean", "length_max": "longest"}),
    Plan("entropy", "Entropy of the policy, nats a token", {"entropy": "entropy"}),
    Plan(
        "kl",
        "Divergence (KL)",
        {
            "kl_old": "from the sampling policy",
            "kl_reference": "from the starting model",
            "mismatch_kl": "engine, learner",
        },
    ),
    Plan("zero_variance", "Groups whose rollouts all earn the same", {"zero_variance": "groups"}, "percent"),
    Plan(
        "outcomes",
        "Rollouts without a usable answer",
        {
            "truncated": "cut at the length limit",
            "no_answer": "no answer found",
            "verify_timeout": "too costly to check",
            "failed": "failed",
        },
        "percent",
    ),
    Plan("tokens_per_second", "Tokens a second, whole step", {"tokens_per_second": "tokens/s"}),
    Plan(
        "speed",
        "Tokens a second while at work",
        {
            "tokens_per_second_rollout": "rollouts",
            "tokens_per_second_annotate": "scoring",
            "tokens_per_second_train": "training",
        },
    ),
    Plan(
        "idle",
        "Part of the step's time without work",
        {"time_idle_engines": "engines", "time_idle_learner": "learner"},
        "percent",
    ),
    Plan("mfu", "Model FLOPs utilisation of rank 0's GPU", {"mfu": "MFU"}, "percent"),
    Plan(
        "seconds",
        "Seconds a step",
        {
            "seconds_rollout": "rollouts",
            "seconds_train": "training",
            "seconds_verify": "verification, all workers",
            "seconds_sync": "weight transfer",
        },
    ),
    Plan(
        "staleness", "Weight updates that samples lag behind", {"staleness": "mean", "staleness_max": "most"}
    ),
    Plan(
        "tokens", "Tokens", {"tokens_rollout": "sampled, a step", "tokens_trained": "trained on, an update"}
    ),
    Plan("clip", "Tokens whose ratio is clipped", {"clip_low": "below", "clip_high": "above"}, "percent"),
    Plan("ratio", "Probability ratio of new to old policy, mean", {"ratio": "ratio"}),
    Plan("loss", "Loss", {"loss": "loss"}),
    Plan("grad_norm", "Gradient norm before clipping", {"grad_norm": "norm"}),
    Plan("samples_trained", "Rollouts that an update learns from", {"samples_trained": "rollouts"}),
    Plan("lr", "Learning rate", {"lr": "rate"}),
)

NOT_CURVES = frozenset({"step", "time", "parts", "pass_rates"})


def charts_of(runs: Sequence[RunData]) -> list[Chart]:
    """Every chart that has something to show, in a fixed order, unforeseen metrics last."""
    planned = {name for plan in PLANS for name in plan.metrics}
    charts = [_draw(plan, runs) for plan in PLANS]
    charts.insert(2, _by_name(runs, "parts", "Reward by part, weighted", "plain"))
    charts.insert(3, _by_name(runs, "pass_rates", "Accuracy by source", "percent"))
    charts += [_draw(Plan(name, name, {name: name}), runs) for name in _other_metrics(runs, planned)]
    return [chart for chart in charts if chart.curves]


def legend(chart: Chart, curve: Curve, labels: Sequence[str]) -> str:
    """What tells a curve from the others of its chart: its run (or model), its metric, or both."""
    if len(labels) == 1:
        return curve.label
    run = labels[curve.run]
    return run if len({each.label for each in chart.curves}) == 1 else f"{run}: {curve.label}"


def _draw(plan: Plan, runs: Sequence[RunData]) -> Chart:
    curves: list[Curve] = []
    for index, run in enumerate(runs):
        for metric, label in plan.metrics.items():
            curves += _line(label, index, [(row["step"], row.get(metric)) for row in run.metrics])
        for decoding, label in plan.validations.items():
            curves += _marks(label, index, decoding, run)
    return Chart(plan.key, plan.title, plan.unit, curves)


def _by_name(runs: Sequence[RunData], key: str, title: str, unit: Unit) -> Chart:
    """What a metric is the sum or the mean of, name by name; of a single name the whole is drawn already."""
    curves: list[Curve] = []
    for index, run in enumerate(runs):
        names = sorted({name for row in run.metrics for name in row.get(key) or {}})
        if len(names) > 1:
            for name in names:
                pairs = [(row["step"], (row.get(key) or {}).get(name)) for row in run.metrics]
                curves += _line(name, index, pairs)
    return Chart(key, title, unit, curves)


def _other_metrics(runs: Sequence[RunData], planned: set[str]) -> list[str]:
    names = {name for run in runs for row in run.metrics for name, value in row.items() if _number(value)}
    return sorted(names - planned - NOT_CURVES)


def _line(label: str, run: int, pairs: Sequence[tuple[Any, Any]]) -> list[Curve]:
    points = [(float(step), float(value)) for step, value in pairs if _number(value)]
    if not points:
        return []
    return [Curve(label, run, _thinned(points), _thinned(moving_average(points)))]


def _marks(label: str, index: int, decoding: str, run: RunData) -> list[Curve]:
    looks = [(look["step"], look[decoding]) for look in run.validations if look.get(decoding)]
    if not looks:
        return []
    points = [(float(step), float(result["accuracy"])) for step, result in looks]
    return [Curve(label, index, points, intervals=[(result["low"], result["high"]) for _, result in looks])]


def moving_average(points: Sequence[Point]) -> list[Point]:
    """Each value's mean with its neighbours; the window shrinks towards the ends, which so stay in place."""
    if len(points) < SMOOTH_FROM:
        return []
    widest = len(points) // (2 * SMOOTH_SHARE)
    average: list[Point] = []
    for index, (step, _) in enumerate(points):
        reach = min(widest, index, len(points) - 1 - index)
        average.append((step, fmean(value for _, value in points[index - reach : index + reach + 1])))
    return average


def _thinned(points: Sequence[Point]) -> list[Point]:
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return list(points)
    buckets = [points[start : start + size] for start in range(0, len(points), size)]
    return [(bucket[-1][0], fmean(value for _, value in bucket)) for bucket in buckets]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
