"""Evaluation statistics: published values, exact small cases, and simulated coverage."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import numpy as np
import pytest

from reasonkit.evaluate import stats


def aime_like(generator: np.random.Generator, items: int, samples: int, mean: float) -> list[list[float]]:
    """Items of very different difficulty (most nearly hopeless, some easy), as on AIME."""
    rates = generator.beta(0.35, 0.35 * (1 - mean) / mean, size=items)
    return generator.binomial(1, rates[:, None], size=(items, samples)).astype(float).tolist()


class TestMeanInterval:
    def test_is_the_students_t_interval_over_item_means(self) -> None:
        interval = stats.mean_interval(stats.item_scores([[1, 1], [1, 0], [0, 0], [1, 0], [0, 0]]))
        # Item means 1, .5, 0, .5, 0: mean .4, sample variance .175, t(4) at 97.5 % = 2.7764.
        assert interval.mean == pytest.approx(0.4)
        assert interval.error == pytest.approx(math.sqrt(0.175 / 5))
        assert interval.high == pytest.approx(0.4 + 2.7764451 * math.sqrt(0.175 / 5))
        assert interval.low == 0.0, "clipped: a score cannot be negative"
        assert (interval.n, interval.method) == (5, "t")

    def test_repeating_samples_of_an_item_does_not_narrow_it(self) -> None:
        once = stats.mean_interval([1, 0, 1, 0, 0])
        often = stats.mean_interval(stats.item_scores([[score] * 50 for score in (1, 0, 1, 0, 0)]))
        assert (often.low, often.high) == (once.low, once.high)

    @pytest.mark.parametrize(("score", "low", "high"), [(0.0, 0.0, 0.278), (1.0, 0.722, 1.0)])
    def test_all_right_or_all_wrong_gives_wilsons_interval(
        self, score: float, low: float, high: float
    ) -> None:
        interval = stats.mean_interval([score] * 10)
        assert interval.method == "Wilson"
        assert interval.low == pytest.approx(low, abs=5e-4)
        assert interval.high == pytest.approx(high, abs=5e-4)

    def test_one_item_says_nothing_about_others(self) -> None:
        interval = stats.mean_interval([0.5])
        assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)
        assert interval.method == "single item"

    def test_every_item_in_its_own_cluster_equals_no_clusters(self) -> None:
        scores = [1.0, 0.0, 0.5, 1.0, 0.25]
        clustered = stats.mean_interval(scores, clusters=range(5))
        assert clustered.error == pytest.approx(stats.mean_interval(scores).error)

    def test_copies_of_an_item_in_one_cluster_add_no_information(self) -> None:
        plain = stats.mean_interval([1.0, 0.0, 0.5, 1.0])
        copied = stats.mean_interval(
            [s for s in (1.0, 0.0, 0.5, 1.0) for _ in range(6)], clusters=[i // 6 for i in range(24)]
        )
        assert copied.error == pytest.approx(plain.error)
        assert copied.high == pytest.approx(plain.high)
        assert copied.method == "clustered t"

    def test_nothing_to_average_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one item"):
            stats.mean_interval([])
        with pytest.raises(ValueError, match="at least one sample"):
            stats.item_scores([[1.0], []])


class TestCoverage:
    """How often a nominal 95 % interval holds the true mean, with new items every time."""

    TRIALS = 1500

    @pytest.mark.parametrize("mean", [0.15, 0.176, 0.5, 0.8])
    def test_item_level_interval_covers_at_n_30_k_32(self, mean: float) -> None:
        generator = np.random.default_rng(7)
        intervals = [
            stats.mean_interval(stats.item_scores(aime_like(generator, 30, 32, mean)))
            for _ in range(self.TRIALS)
        ]
        assert fmean(i.low <= mean <= i.high for i in intervals) >= 0.92

    def test_counting_samples_as_items_does_not(self) -> None:
        generator = np.random.default_rng(7)
        covered = 0
        for _ in range(self.TRIALS):
            flat = [score for item in aime_like(generator, 30, 32, 0.176) for score in item]
            interval = stats.mean_interval(flat)
            covered += interval.low <= 0.176 <= interval.high
        assert covered / self.TRIALS < 0.6, "this is the mistake that the item-level interval avoids"

    def test_clustered_interval_covers_where_the_plain_one_fails(self) -> None:
        generator = np.random.default_rng(7)
        clusters = [i // 8 for i in range(240)]
        plain = clustered = 0
        for _ in range(400):
            rates = np.repeat(generator.beta(0.5, 0.5, size=30), 8)
            scores = generator.binomial(1, rates).astype(float).tolist()
            interval = stats.mean_interval(scores)
            plain += interval.low <= 0.5 <= interval.high
            interval = stats.mean_interval(scores, clusters=clusters)
            clustered += interval.low <= 0.5 <= interval.high
        assert clustered / 400 >= 0.92
        assert plain / 400 < 0.75

    def test_bootstrap_covers_at_n_30(self) -> None:
        generator = np.random.default_rng(7)
        intervals = [
            stats.bootstrap_interval(stats.item_scores(aime_like(generator, 30, 32, 0.176)), resamples=1000)
            for _ in range(300)
        ]
        assert fmean(i.low <= 0.176 <= i.high for i in intervals) >= 0.89

    def test_paired_interval_covers(self) -> None:
        generator = np.random.default_rng(7)
        covered = 0
        for _ in range(600):
            rates = generator.uniform(0, 0.8, size=30)
            a = generator.binomial(1, (rates + 0.2)[:, None], size=(30, 8)).astype(float).tolist()
            b = generator.binomial(1, rates[:, None], size=(30, 8)).astype(float).tolist()
            difference = stats.paired_difference(stats.item_scores(a), stats.item_scores(b))
            covered += difference.low <= 0.2 <= difference.high
        assert covered / 600 >= 0.92


class TestBootstrap:
    def test_agrees_with_the_t_interval_on_many_items(self) -> None:
        samples = stats.item_scores(aime_like(np.random.default_rng(1), 400, 4, 0.4))
        by_t, by_bootstrap = stats.mean_interval(samples), stats.bootstrap_interval(samples)
        assert by_bootstrap.low == pytest.approx(by_t.low, abs=0.005)
        assert by_bootstrap.high == pytest.approx(by_t.high, abs=0.005)
        assert by_bootstrap.error == pytest.approx(by_t.error, rel=0.05)

    def test_is_the_same_every_time(self) -> None:
        samples = stats.item_scores(aime_like(np.random.default_rng(1), 20, 4, 0.4))
        assert stats.bootstrap_interval(samples) == stats.bootstrap_interval(samples)

    def test_without_spread_it_is_wilsons(self) -> None:
        assert stats.bootstrap_interval([1.0] * 10).method == "Wilson"


class TestVarianceParts:
    def test_recovers_the_parts_that_made_the_data(self) -> None:
        generator = np.random.default_rng(3)
        rates = generator.choice([0.2, 0.8], size=4000)  # Var(x) = .09, E(σ²) = .16
        samples = generator.binomial(1, rates[:, None], size=(4000, 4)).astype(float).tolist()
        parts = stats.variance_parts(samples)
        assert parts.items * 4000 == pytest.approx(0.09, rel=0.05)
        assert parts.sampling * 4000 == pytest.approx(0.16 / 4, rel=0.05)
        assert parts.sampling_share == pytest.approx(0.04 / 0.13, rel=0.06)

    def test_the_parts_add_up_to_the_squared_error(self) -> None:
        samples = aime_like(np.random.default_rng(4), 50, 8, 0.4)
        parts = stats.variance_parts(samples)
        assert parts.items + parts.sampling == pytest.approx(
            stats.mean_interval(stats.item_scores(samples)).error ** 2
        )

    def test_single_samples_cannot_be_split(self) -> None:
        with pytest.raises(ValueError, match="two samples"):
            stats.variance_parts([[1.0], [0.0]])


class TestPairedDifference:
    def test_single_right_or_wrong_samples_use_mcnemar(self) -> None:
        a = [1.0] * 9 + [0.0] * 1 + [1.0] * 10
        b = [0.0] * 9 + [1.0] * 1 + [1.0] * 10
        difference = stats.paired_difference(a, b)
        assert difference.test == "McNemar"
        assert (difference.better, difference.worse) == (9, 1)
        assert difference.mean == pytest.approx(0.4)
        assert difference.p == pytest.approx(2 * (1 + 10) / 2**10)

    def test_fractional_scores_use_an_exact_permutation_when_few_items_differ(self) -> None:
        a, b = [0.9, 0.7, 0.8, 0.4], [0.1, 0.2, 0.2, 0.4]
        differences = [0.8, 0.5, 0.6, 0.0]
        by_hand = fmean(
            abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= sum(differences) - 1e-9
            for signs in itertools.product((1, -1), repeat=4)
        )
        difference = stats.paired_difference(a, b)
        assert difference.test == "permutation"
        assert difference.p == pytest.approx(by_hand)

    def test_drawn_permutations_agree_with_the_t_test_on_many_items(self) -> None:
        generator = np.random.default_rng(5)
        noise = generator.normal(0, 0.1, size=200)
        a, b = (0.52 + noise).tolist(), [0.5] * 200
        difference = stats.paired_difference(a, b)
        z = difference.mean / difference.error
        assert difference.p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.01)

    def test_no_change_is_not_proof_of_equality(self) -> None:
        difference = stats.paired_difference([1.0, 0.0] * 5, [1.0, 0.0] * 5)
        assert difference.mean == 0.0
        assert difference.p == 1.0
        assert difference.low < -0.2 < 0.2 < difference.high, "ten items rule out little"

    def test_clusters_widen_it(self) -> None:
        a = [1.0] * 8 + [0.0] * 8 + [1.0] * 8
        b = [0.0] * 24
        clusters = [i // 8 for i in range(24)]
        assert (
            stats.paired_difference(a, b, clusters=clusters).error > 2 * stats.paired_difference(a, b).error
        )

    def test_different_items_cannot_be_paired(self) -> None:
        with pytest.raises(ValueError, match="there are 2 and 1"):
            stats.paired_difference([1.0, 0.0], [1.0])

    def test_false_alarms_stay_at_the_level(self) -> None:
        generator = np.random.default_rng(6)
        alarms = 0
        for _ in range(300):
            rates = generator.uniform(size=12)[:, None]
            a, b = (generator.binomial(1, rates, size=(12, 4)).astype(float).tolist() for _ in range(2))
            alarms += stats.paired_difference(stats.item_scores(a), stats.item_scores(b)).p < 0.05
        assert alarms / 300 <= 0.08

    @pytest.mark.parametrize(("test", "items"), [("permutation", 11), ("McNemar", 200)])
    def test_p_values_are_uniform_where_nothing_differs(self, test: str, items: int) -> None:
        """Up to what exact tests of few outcomes must give away: p ≤ α never more often than α."""
        generator, trials = np.random.default_rng(9), 600
        values = []
        for _ in range(trials):
            if test == "McNemar":
                rates = generator.beta(0.5, 0.5, size=items)
                a, b = (generator.binomial(1, rates).astype(float).tolist() for _ in range(2))
            else:
                level = generator.uniform(size=items)
                a, b = ((level + generator.normal(size=items)).tolist() for _ in range(2))
            difference = stats.paired_difference(a, b)
            assert difference.test == test
            values.append(difference.p)
        for level in (0.05, 0.1, 0.25, 0.5, 0.75):
            below, spread = fmean(p <= level for p in values), (level * (1 - level) / trials) ** 0.5
            assert below <= level + 3 * spread
            assert below >= level - 3 * spread - (0.15 if test == "McNemar" else 0.0)


class TestSeveral:
    def test_holm_adjusts_stepwise_and_keeps_the_order(self) -> None:
        assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_holm_never_exceeds_one(self) -> None:
        assert stats.holm([0.6, 0.9]) == [1.0, 1.0]

    def test_suite_mean_treats_tasks_as_fixed(self) -> None:
        tasks = [stats.mean_interval([1, 0] * 50), stats.mean_interval([1, 1, 1, 0] * 25)]
        suite = stats.suite_mean(tasks)
        assert suite.mean == pytest.approx(0.625)
        assert suite.error == pytest.approx(math.hypot(tasks[0].error, tasks[1].error) / 2)

    def test_suite_of_one_task_is_that_task(self) -> None:
        task = stats.mean_interval([1, 0, 1, 1, 0])
        suite = stats.suite_mean([task])
        assert (suite.mean, suite.error) == (task.mean, task.error)
        assert suite.high - suite.mean == pytest.approx(2.7764451 * task.error)

    def test_minimum_detectable_effect_is_found_with_the_power_asked_for(self) -> None:
        effect = stats.minimum_detectable_effect(100, item_variance=0.04, sampling_variance=0.05)
        generator = np.random.default_rng(8)
        found = 0
        for _ in range(300):
            differences = generator.normal(effect, math.sqrt(0.09), size=100)
            result = stats.mean_interval(differences.tolist())
            found += result.low > 0
        assert 0.72 <= found / 300 <= 0.88


class TestAtK:
    @pytest.mark.parametrize(
        ("samples", "correct", "k"), [(6, 2, 1), (6, 2, 3), (6, 0, 2), (5, 5, 5), (7, 3, 7)]
    )
    def test_pass_at_k_and_pass_hat_k_equal_enumeration(self, samples: int, correct: int, k: int) -> None:
        outcomes = [1] * correct + [0] * (samples - correct)
        subsets = list(itertools.combinations(outcomes, k))
        assert stats.pass_at_k(samples, correct, k) == pytest.approx(fmean(max(s) for s in subsets))
        assert stats.pass_hat_k(samples, correct, k) == pytest.approx(fmean(min(s) for s in subsets))

    def test_k_beyond_the_samples_is_refused(self) -> None:
        with pytest.raises(ValueError, match="k = 5 of 4 samples"):
            stats.pass_at_k(4, 2, 5)

    def test_majority_of_all_replies(self) -> None:
        assert stats.maj_at_k(["7", "7", "8"], [1, 1, 0], 3) == 1.0
        assert stats.maj_at_k(["7", "8", "8"], [1, 0, 0], 3) == 0.0

    def test_a_tie_is_shared_and_missing_answers_do_not_vote(self) -> None:
        assert stats.maj_at_k(["7", "8", None, None, None], [1, 0, 0, 0, 0], 5) == 0.5
        assert stats.maj_at_k([None, None], [0, 0], 2) == 0.0

    def test_a_smaller_k_averages_over_subsets(self) -> None:
        answers, scores = ["7", "7", "7", "8", "8"], [1, 1, 1, 0, 0]
        exact = fmean(
            1.0 if sum(scores[i] for i in subset) >= 2 else 0.0
            for subset in itertools.combinations(range(5), 3)
        )
        assert stats.maj_at_k(answers, scores, 3, draws=4000) == pytest.approx(exact, abs=0.03)
