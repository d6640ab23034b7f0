"""Two models on the same items: which is better, by how much, and on which items.

Paired by task and item, because most of a score's spread is the items' and not the models': the test of the
differences finds what two overlapping intervals hide. Several tasks are several looks, so their p-values are
adjusted by Holm; the suite's mean difference is one look, and is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean
from typing import Any

from reasonkit.errors import UsageError
from reasonkit.evaluate.results import TaskResult
from reasonkit.evaluate.stats import Difference, Estimate, holm, paired_difference, suite_mean

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Flip:
    """An item on which the two models differ."""

    uid: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class TaskComparison:
    task: str
    a: float
    b: float
    """Mean scores over the items that both were asked."""
    difference: Difference
    """A − B."""
    holm_p: float
    detectable: float
    """The smallest true difference that a comparison of this precision finds four times in five."""
    flips: Sequence[Flip]
    """Where A is better first, the largest differences first."""
    unpaired: int
    """Items that only one of the two has scores for."""


@dataclass(frozen=True, slots=True)
class Comparison:
    a: str
    b: str
    tasks: Sequence[TaskComparison]
    suite: Estimate | None
    """The mean difference over the tasks, where there are several."""


def compare(a: Sequence[TaskResult], b: Sequence[TaskResult]) -> Comparison:
    """Compare two models' results on the tasks that both have."""
    names = {result.model for result in a}, {result.model for result in b}
    assert all(len(each) == 1 for each in names), "one model a side"
    of_b = {result.task: result for result in b}
    shared = [(result, of_b[result.task]) for result in a if result.task in of_b]
    if not shared:
        raise UsageError(
            f"there is nothing to compare: {a[0].model} was asked {_tasks(a)}, {b[0].model} {_tasks(b)}",
            "evaluate both on the same tasks: reasonkit eval TASK -m A -m B",
        )
    pairs = [_pair(one, other) for one, other in shared]
    adjusted = holm([difference.p for difference, *_ in pairs])
    tasks = [
        TaskComparison(
            task=one.task,
            a=mean_a,
            b=mean_b,
            difference=difference,
            holm_p=p,
            detectable=_detectable(difference),
            flips=flips,
            unpaired=unpaired,
        )
        for (one, _), (difference, mean_a, mean_b, flips, unpaired), p in zip(
            shared, pairs, adjusted, strict=True
        )
    ]
    return Comparison(a[0].model, b[0].model, tasks, _suite(tasks))


def _pair(one: TaskResult, other: TaskResult) -> tuple[Difference, float, float, list[Flip], int]:
    if one.grader != other.grader:
        raise UsageError(
            f"{one.task} was judged by '{one.grader}' for {one.model} and by '{other.grader}' for {other.model}",
            f"reasonkit rescore EVALUATION --grader {one.grader}",
        )
    a, b = _item_means(one), _item_means(other)
    uids = [uid for uid in a if uid in b]
    if not uids:
        raise UsageError(
            f"{one.task}: the two evaluations share no item", "evaluate both with the same --ids"
        )
    prompts = {row["uid"]: row["prompt"] for row in other.items}
    clusters = {row["uid"]: row["cluster"] for row in one.items}
    for row in one.items:
        if row["uid"] in b and prompts[row["uid"]] != row["prompt"]:
            raise UsageError(
                f"{one.task}: item {row['uid']} has one prompt in the one evaluation and another in the other",
                "evaluate both with the same data and prompts",
            )
    kin = [clusters[uid] for uid in uids]
    clustered = len(set(kin)) < len(kin)
    scores_a, scores_b = [a[uid] for uid in uids], [b[uid] for uid in uids]
    difference = paired_difference(scores_a, scores_b, clusters=kin if clustered else None)
    flips = [Flip(uid, a[uid], b[uid]) for uid in uids if a[uid] != b[uid]]
    flips.sort(key=lambda flip: (flip.a < flip.b, -abs(flip.a - flip.b)))
    return difference, fmean(scores_a), fmean(scores_b), flips, len(a.keys() ^ b.keys())


def _item_means(result: TaskResult) -> dict[str, float]:
    scored = {row["uid"]: [score for score in row["scores"] if score is not None] for row in result.items}
    return {uid: fmean(scores) for uid, scores in scored.items() if scores}


def _suite(tasks: Sequence[TaskComparison]) -> Estimate | None:
    if len(tasks) < 2:
        return None
    return suite_mean([_as_estimate(task.difference) for task in tasks])


def _as_estimate(difference: Difference) -> Estimate:
    """Where no item differs, or there is one only, the interval says what the error cannot."""
    known = difference.error > 0
    return Estimate(
        difference.mean,
        difference.low,
        difference.high,
        difference.error if known else math.nan,
        difference.n,
        "t" if known else "Wilson",
    )


def _detectable(difference: Difference) -> float:
    normal = NormalDist()
    reach = normal.inv_cdf(0.975)
    error = difference.error if difference.error > 0 else (difference.high - difference.low) / 2 / reach
    return (reach + normal.inv_cdf(POWER)) * error


def _tasks(results: Sequence[TaskResult]) -> str:
    return ", ".join(result.task for result in results)


def as_json(comparison: Comparison) -> dict[str, Any]:
    return asdict(comparison)
