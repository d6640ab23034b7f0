"""Statistics of evaluation: what a score says about the problems that were not asked.

The unit is the item (the problem), never the sample: k replies to one problem are not k independent
measurements, and an interval that counts them so covers a third of what it promises. So everything takes
one number an item: `item_scores` makes it from the samples. Fractional scores are welcome.

    mean_interval            mean over items; t-interval, clustered where items share a source, Wilson at 0 and 1
    bootstrap_interval       the same mean by resampling items, for small n
    variance_parts           how much of the error more samples would remove, and how much only more items
    paired_difference        two models on the same items: interval, and McNemar's or a permutation test
    holm, suite_mean         several tests at once; the mean over a fixed set of tasks
    minimum_detectable_effect
    pass_at_k, pass_hat_k, maj_at_k

No model, file or table is known here; who prints an interval says how it was made (`Estimate.method`).
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Literal

Scores = Sequence[float]
"""One number an item: its score, or the mean over its samples."""
Samples = Sequence[Sequence[float]]
"""One inner list an item, holding the scores of its samples."""

Method = Literal["t", "clustered t", "Wilson", "bootstrap", "single item"]

EXACT_PERMUTATION_ITEMS = 14
"""Up to so many differing items all sign patterns are enumerated (16,384); above, they are drawn."""
PERMUTATION_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Estimate:
    mean: float
    low: float
    high: float
    error: float
    """Standard error over items (or clusters)."""
    n: int
    """Items."""
    method: Method


@dataclass(frozen=True, slots=True)
class VarianceParts:
    """The variance of a mean over items, split by what would reduce it."""

    items: float
    """Part that only more items reduce: Var(true item score) / n."""
    sampling: float
    """Part that more samples an item reduce: E(variance within an item) / (n·K)."""

    @property
    def sampling_share(self) -> float:
        total = self.items + self.sampling
        return self.sampling / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A − B on the same items."""

    mean: float
    low: float
    high: float
    error: float
    p: float
    n: int
    """Items."""
    better: int
    """Items on which A scores higher; `worse` counts those on which B does."""
    worse: int
    test: Literal["McNemar", "permutation"]


def item_scores(samples: Samples) -> list[float]:
    if not samples or not all(samples):
        raise ValueError("every item needs at least one sample, and there must be an item")
    return [fmean(scores) for scores in samples]


def mean_interval(
    scores: Scores, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """The mean over items with its interval. Items of one cluster (a shared table, a puzzle) count as kin.

    When every item scores 0, or every item 1, the t-interval would have no width: Wilson's is given.
    """
    if not scores:
        raise ValueError("a mean needs at least one item")
    count, mean = len(scores), fmean(scores)
    units = count if clusters is None else len(set(clusters))
    if set(scores) in ({0.0}, {1.0}):
        low, high = wilson(round(mean) * units, units, level=level)
        return Estimate(mean, low, high, 0.0, count, "Wilson")
    if units == 1:
        return Estimate(mean, 0.0, 1.0, math.nan, count, "single item")
    error = standard_error(scores) if clusters is None else clustered_error(scores, clusters)
    reach = _t_quantile(level, units - 1) * error
    low, high = _within_scale(mean - reach, mean + reach, scores)
    return Estimate(mean, low, high, error, count, "t" if clusters is None else "clustered t")


def standard_error(scores: Scores) -> float:
    """√(Σ(sᵢ − s̄)² / (n(n − 1)))"""
    return math.sqrt(_variance(scores) / len(scores))


def clustered_error(scores: Scores, clusters: Sequence[Hashable]) -> float:
    """The standard error of a mean whose items come in clusters, with the G/(G − 1) small-sample factor."""
    if len(scores) != len(clusters):
        raise ValueError(f"{len(scores)} items but {len(clusters)} cluster ids")
    mean = fmean(scores)
    sums = _cluster_sums([score - mean for score in scores], clusters)
    factor = len(sums) / (len(sums) - 1)
    return math.sqrt(factor * sum(total**2 for total in sums)) / len(scores)


def bootstrap_interval(
    scores: Scores, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """The mean's bias-corrected and accelerated (BCa) bootstrap interval, resampling items."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(scores) < 2 or min(scores) == max(scores):
        return mean_interval(scores, level=level)
    result = bootstrap(
        (scores,), np.mean, confidence_level=level, n_resamples=resamples, rng=np.random.default_rng(seed)
    )
    low, high = (float(end) for end in result.confidence_interval)
    return Estimate(fmean(scores), low, high, float(result.standard_error), len(scores), "bootstrap")


def wilson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, scale = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    reach = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - reach), min(1.0, centre + reach)


def variance_parts(samples: Samples) -> VarianceParts:
    """Split the variance of the mean over items. Needs at least two items, each with at least two samples."""
    if len(samples) < 2 or min(len(scores) for scores in samples) < 2:
        raise ValueError("splitting the variance needs two items or more and two samples an item or more")
    count = len(samples)
    # Of each item, the variance of its own mean: unbiased, and right for unequal numbers of samples too.
    of_means = [_variance(scores) / len(scores) for scores in samples]
    sampling = fmean(of_means) / count
    return VarianceParts(max(0.0, _variance(item_scores(samples)) / count - sampling), sampling)


def paired_difference(
    a: Scores,
    b: Scores,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """A − B over the same items in the same order.

    The test is McNemar's exact one where every item is right or wrong, else a sign-flip permutation of the
    items' (or clusters') differences.
    """
    if len(a) != len(b):
        raise ValueError(f"pairing needs the same items on both sides, but there are {len(a)} and {len(b)}")
    differences = [score_a - score_b for score_a, score_b in zip(a, b, strict=True)]
    count, mean = len(differences), fmean(differences)
    better = sum(difference > 0 for difference in differences)
    worse = sum(difference < 0 for difference in differences)
    units = count if clusters is None else len(set(clusters))
    if units < 2:
        return Difference(mean, -1.0, 1.0, math.nan, 1.0, count, better, worse, "permutation")
    error = standard_error(differences) if clusters is None else clustered_error(differences, clusters)
    # Where nothing differs, the interval is what so few items can rule out, not a width of 0.
    reach = _t_quantile(level, units - 1) * error if error > 0 else wilson(0, units, level=level)[1]
    low, high = mean - reach, mean + reach
    if clusters is None and {*a, *b} <= {0.0, 1.0}:
        return Difference(mean, low, high, error, mcnemar(better, worse), count, better, worse, "McNemar")
    p = _sign_flip(differences if clusters is None else _cluster_sums(differences, clusters), seed)
    return Difference(mean, low, high, error, p, count, better, worse, "permutation")


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p-value that `better` against `worse` changed items is chance."""
    changed = better + worse
    tail = sum(math.comb(changed, count) for count in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being looked at together (Holm's step-down), in the order given."""
    count = len(p_values)
    adjusted, highest = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def suite_mean(tasks: Sequence[Estimate], *, level: float = 0.95) -> Estimate:
    """The unweighted mean over a fixed set of tasks; their errors are independent, and the tasks no sample."""
    if not tasks:
        raise ValueError("a suite needs at least one task")
    mean = fmean(task.mean for task in tasks)
    errors = [_error_of(task, level) for task in tasks]
    error = math.sqrt(sum(each**2 for each in errors)) / len(tasks)
    # Welch and Satterthwaite: a suite of small tasks has fewer degrees of freedom than items.
    spread = sum(each**4 / (task.n - 1) for each, task in zip(errors, tasks, strict=True) if task.n > 1)
    degrees = sum(each**2 for each in errors) ** 2 / spread if spread > 0 else math.inf
    reach = _t_quantile(level, degrees) * error
    return Estimate(mean, mean - reach, mean + reach, error, sum(task.n for task in tasks), "t")


def _error_of(task: Estimate, level: float) -> float:
    """A task's standard error; where its items are all alike, what its interval stands for, which is not 0."""
    if task.method == "t" or task.method == "clustered t":
        return task.error
    return (task.high - task.low) / 2 / NormalDist().inv_cdf((1 + level) / 2)


def minimum_detectable_effect(
    items: int,
    item_variance: float,
    sampling_variance: float = 0.0,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> float:
    """The smallest true paired difference that a comparison over `items` finds with probability `power`.

    `item_variance` is Var(xᴬ) + Var(xᴮ) − 2 Cov(xᴬ, xᴮ) of the true item scores; `sampling_variance` is
    σᴬ²/Kᴬ + σᴮ²/Kᴮ, the samples' part of one item's difference.
    """
    normal = NormalDist()
    quantiles = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
    return quantiles * math.sqrt((item_variance + sampling_variance) / items)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased chance that at least one of k replies is right, from `correct` of `samples`."""
    _check_k(samples, k)
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def pass_hat_k(samples: int, correct: int, k: int) -> float:
    """Unbiased chance that all of k replies are right (pass^k)."""
    _check_k(samples, k)
    return math.comb(correct, k) / math.comb(samples, k)


def maj_at_k(
    answers: Sequence[str | None], scores: Sequence[float], k: int, *, draws: int = 1000, seed: int = 0
) -> float:
    """Expected score of the commonest answer among k of one item's replies.

    Replies without an answer (None) have no vote. Ties share: each tied answer counts its part. With k below
    the number of replies, subsets are drawn without replacement.
    """
    if len(answers) != len(scores):
        raise ValueError(f"{len(answers)} answers but {len(scores)} scores")
    _check_k(len(answers), k)
    ballots = list(zip(answers, scores, strict=True))
    if k == len(ballots):
        return _vote(ballots)
    generator = random.Random(seed)
    return fmean(_vote(generator.sample(ballots, k)) for _ in range(draws))


def _vote(ballots: Sequence[tuple[str | None, float]]) -> float:
    votes = Counter(answer for answer, _ in ballots if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return fmean(fmean(score for answer, score in ballots if answer == winner) for winner in winners)


def _check_k(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} of {samples} samples: k must lie between 1 and the number of samples")


def _t_quantile(level: float, degrees: float) -> float:
    from scipy.special import stdtrit

    if math.isinf(degrees):
        return NormalDist().inv_cdf((1 + level) / 2)
    return float(stdtrit(degrees, (1 + level) / 2))


def _within_scale(low: float, high: float, scores: Scores) -> tuple[float, float]:
    """Clip to [0, 1] where scores live there; a score on another scale keeps its interval."""
    if all(0.0 <= score <= 1.0 for score in scores):
        return max(0.0, low), min(1.0, high)
    return low, high


def _variance(values: Sequence[float]) -> float:
    centre = fmean(values)
    return sum((value - centre) ** 2 for value in values) / (len(values) - 1)


def _cluster_sums(values: Sequence[float], clusters: Sequence[Hashable]) -> list[float]:
    sums: defaultdict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value
    return list(sums.values())


def _sign_flip(differences: Sequence[float], seed: int) -> float:
    """Two-sided p-value of the mean difference when each difference could as well have had the other sign."""
    import numpy as np

    changed = np.asarray([difference for difference in differences if difference != 0.0])
    if len(changed) == 0:
        return 1.0
    observed = abs(float(changed.sum())) * (1 - 1e-12)  # equal sums may differ in their last bit
    if len(changed) <= EXACT_PERMUTATION_ITEMS:
        patterns = np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed)) & 1
        return float((np.abs((2 * patterns - 1) @ changed) >= observed).mean())
    generator, as_large = np.random.default_rng(seed), 0
    for _ in range(PERMUTATION_DRAWS // 1000):  # in blocks: one matrix of all signs may not fit in memory
        signs = 2 * generator.integers(0, 2, size=(1000, len(changed)), dtype=np.int8) - 1
        as_large += int((np.abs(signs @ changed) >= observed).sum())
    return (as_large + 1) / (PERMUTATION_DRAWS + 1)
