"""A step's row of metrics: pass rates by source, how fast each side was, and how long it had nothing to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reasonkit.records import Signals, Verdict
from reasonkit.train.journal import summarise, utilisation
from reasonkit.train.learner import StepStats
from tests.rollout_batches import random_groups

STATS = [StepStats({"tokens_trained": 30.0}), StepStats({"tokens_trained": 10.0})]
SPENT = {"rollout": 5.0, "annotate": 0.5, "train": 2.0, "sync": 0.5}


def test_each_side_is_measured_over_the_time_that_it_worked() -> None:
    sampled = [
        replace(rollout, signals=Signals()) for group in random_groups(40) for rollout in group.rollouts
    ]
    tokens = sum(rollout.sampled_tokens for rollout in sampled)
    row = utilisation(sampled, STATS, SPENT, {"seconds_step": 8.0, "seconds_engines_idle": 4.0})
    assert row == {
        "tokens_per_second_train": 20.0,
        "tokens_per_second_rollout": tokens / 4.0,
        "time_idle_engines": 0.5,
        "time_idle_learner": pytest.approx(5 / 8),
    }, "nothing was scored, whatever it took to find that out"
    scored = [replace(rollout, signals=Signals((0.0,) * rollout.sampled_tokens)) for rollout in sampled]
    assert utilisation(scored, STATS, SPENT, {})["tokens_per_second_annotate"] == tokens / 0.5


def test_pass_rates_are_told_by_source() -> None:
    right = Verdict.correct("42", "test")
    easy, hard = (
        replace(group, record=replace(group.record, source=source))
        for group, source in zip(random_groups(40, groups=2), ("easy", "hard"), strict=True)
    )
    solved = replace(easy, rollouts=tuple(replace(each, verdict=right) for each in easy.rollouts))
    row = summarise([solved, hard])
    assert row["pass_rates"] == {"easy": 1.0, "hard": 0.0}
    assert row["accuracy"] == 0.5


def test_a_step_without_time_or_work_divides_by_nothing() -> None:
    row = utilisation([], [], {}, {"seconds_step": 1.0, "seconds_engines_idle": 1.0})
    assert row == {"tokens_per_second_rollout": 0.0, "time_idle_engines": 1.0, "time_idle_learner": 1.0}
