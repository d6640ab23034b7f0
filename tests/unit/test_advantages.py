"""Advantages: published numbers, and what happens where there is nothing to compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from reasonkit.advantages import (
    ADVANTAGES,
    WITH_CRITIC,
    Advantage,
    Credit,
    dr_grpo,
    grpo,
    grpo_loo,
    ppo,
    reinforce_pp,
    reinforce_pp_baseline,
    rloo,
)
from reasonkit.records import Failure, Group, Record, Rollout, Segment, Signals, Turn, Verdict
from reasonkit.registry import resolve

RECORD = Record("r1", "test", ({"role": "user", "content": "?"},), "42")
EVERY = pytest.mark.parametrize(
    "advantage", [resolve("algorithm", name, ADVANTAGES) for name in ADVANTAGES if name not in WITH_CRITIC]
)


def rollout(reward: float | None, tokens: int = 2) -> Rollout:
    """One prompt token and `tokens` sampled ones; a reward of None is a failed attempt."""
    segment = Segment((5, *range(tokens)), (0, *[1] * tokens), (0.0, *[-1.0] * tokens))
    failed = reward is None
    return Rollout(
        uid="r1",
        sample=0,
        segments=(segment,),
        text="",
        finish_reason="stop",
        verdict=None if failed else Verdict.wrong("", "test", score=0.0),
        reward=0.0 if reward is None else reward,
        failure=Failure("verify", "it broke") if failed else None,
    )


def group(*rewards: float | None, tokens: Sequence[int] | None = None) -> Group:
    return Group(RECORD, tuple(map(rollout, rewards, tokens or [2] * len(rewards))))


def test_grpo_divides_by_the_unbiased_deviation() -> None:
    assert grpo([group(1, 0, 0, 1)]) == [pytest.approx([0.866024, -0.866024, -0.866024, 0.866024], abs=1e-6)]


def test_grpo_with_a_larger_epsilon_gives_trl_numbers() -> None:
    [row] = grpo([group(1, 0, 0, 1)], epsilon=1e-4)
    assert row == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875], abs=1e-6)


def test_dr_grpo_only_subtracts_the_mean() -> None:
    assert dr_grpo([group(1, 0, 0, 1)]) == [[0.5, -0.5, -0.5, 0.5]]


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    assert rloo([group(1, 0, 0, 0)]) == [pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])]


def test_leave_one_out_grpo_divides_only_where_the_others_differ() -> None:
    [row] = grpo_loo([group(1, 0, 0, 0)], epsilon=0.0)
    # The others of the first are all 0: no deviation. Those of the rest are {1, 0, 0}: mean 1/3, deviation 0.57735.
    assert row == pytest.approx([1.0, *[-0.577350] * 3], abs=1e-6)


def test_reinforce_pp_whitens_over_tokens_so_that_longer_replies_weigh_more() -> None:
    rows = reinforce_pp([group(1, tokens=[2]), group(0, tokens=[4])])
    assert rows == [pytest.approx([1.290994], abs=1e-6), pytest.approx([-0.645497], abs=1e-6)]


def two_turns(*given: float, weight: float = 1.0, verified: float = 2.0) -> Rollout:
    """Two sampled tokens, two of the environment's, three sampled ones; and what each turn earned."""
    segment = Segment(tuple(range(8)), (0, 1, 1, 0, 0, 1, 1, 1), (0.0,) * 8)
    first, second = given
    return replace(
        rollout(weight * (first + second) + verified),
        segments=(segment,),
        turns=(Turn("", "stop", first, (), 0, 3), Turn("", "stop", second, (), 0, 8)),
        parts={"env": weight * (first + second), "correctness": verified},
    )


def test_each_turn_may_be_rewarded_at_its_end() -> None:
    """Returns 2.5 (its own 1, then -0.5 and 2) twice and 1.5 three times: mean 1.9, variance 0.3."""
    [[credit]] = reinforce_pp([Group(RECORD, (two_turns(1.0, -0.5),))], per_turn=True)
    assert isinstance(credit, Credit)
    assert credit.tokens == pytest.approx([*[1.095445] * 2, *[-0.730297] * 3], abs=1e-6)
    assert reinforce_pp([Group(RECORD, (two_turns(1.0, -0.5),))]) == [[0.0]]


def test_turns_weigh_what_the_recipe_says_and_a_sum_of_zero_hides_none() -> None:
    """Weight 0.5 is read off the first rollout; the second's turns earn 1 - 1 = 0, so that only turns differ."""
    both = (two_turns(2.0, 2.0, weight=0.5), two_turns(1.0, -1.0, weight=0.5))
    signals = Signals(values=(0.0,) * 5)
    [[first, second]] = ppo(
        [Group(RECORD, tuple(replace(each, signals=signals) for each in both))], per_turn=True
    )
    assert isinstance(first, Credit)
    assert isinstance(second, Credit)
    assert first.returns == pytest.approx([4.0, 4.0, 3.0, 3.0, 3.0])
    assert second.returns == pytest.approx([2.0, 2.0, 1.5, 1.5, 1.5])


def test_turns_of_several_segments_are_found() -> None:
    whole = two_turns(1.0, -0.5)
    segment = whole.segments[0]
    parts = tuple(
        Segment(segment.ids[cut], segment.mask[cut], segment.logprobs[cut])
        for cut in (slice(0, 3), slice(3, 8))
    )
    turns = (whole.turns[0], replace(whole.turns[1], segment=1, end=5))
    [[one, other]] = reinforce_pp(
        [Group(RECORD, (whole, replace(whole, segments=parts, turns=turns)))], per_turn=True
    )
    assert one == other


def test_reinforce_pp_with_baseline_centres_groups_first() -> None:
    rows = reinforce_pp_baseline([group(1, 0, tokens=[2, 2]), group(1, 1, tokens=[1, 3])])
    assert rows == [pytest.approx([1.322876, -1.322876], abs=1e-6), [0.0, 0.0]]


def test_whitening_gives_zero_mean_and_unit_variance_over_tokens() -> None:
    lengths = [3, 1, 7, 5]
    rows = reinforce_pp([group(0.2, 1.0, tokens=lengths[:2]), group(0.9, -2.0, tokens=lengths[2:])])
    values = [value for row in rows for value in row]
    tokens = [value for value, length in zip(values, lengths, strict=True) for _ in range(length)]
    assert sum(tokens) == pytest.approx(0, abs=1e-9)
    assert sum(value**2 for value in tokens) / (len(tokens) - 1) == pytest.approx(1, abs=1e-6)


@EVERY
def test_failed_rollouts_change_nothing_for_the_others(advantage: Advantage) -> None:
    whole = advantage([group(1, 0, 0, 1), group(0, 1, 1, 1)])
    holed = advantage([group(1, None, 0, 0, None, 1), group(0, 1, 1, 1)])
    assert [holed[0][place] for place in (0, 2, 3, 5)] == whole[0]
    assert [holed[0][place] for place in (1, 4)] == [0.0, 0.0]
    assert holed[1] == whole[1]


@EVERY
@pytest.mark.parametrize("rewards", [(0.1, 0.1, 0.1), (1.0,), (None, None), (0.3, None), ()])
def test_nothing_to_compare_gives_exact_zeros(
    advantage: Advantage, rewards: tuple[float | None, ...]
) -> None:
    assert advantage([group(*rewards)]) == [[0.0] * len(rewards)]


@EVERY
def test_no_groups_give_no_advantages(advantage: Advantage) -> None:
    assert advantage([]) == []


@EVERY
def test_a_batch_keeps_its_shape_and_stays_finite(advantage: Advantage) -> None:
    batch = [group(1, 1), group(0.0, 1e-12), group(1e6, -1e6, 0), group(None), group(0.3, None, 0.7)]
    result = advantage(batch)
    assert [len(row) for row in result] == [len(each.rollouts) for each in batch]
    assert all(math.isfinite(value) for row in result for value in row)


@EVERY
def test_better_rewards_get_higher_advantages(advantage: Advantage) -> None:
    [row] = advantage([group(0.1, 0.9, 0.4, 0.2)])
    assert sorted(row) == [row[0], row[3], row[2], row[1]]


def test_rollouts_without_a_sampled_token_stay_out_of_whitening() -> None:
    with_empty = reinforce_pp([group(1, 0, 5, tokens=[2, 4, 0])])
    [without] = reinforce_pp([group(1, 0, tokens=[2, 4])])
    assert with_empty == [[*without, 0.0]]


@pytest.mark.parametrize("options", [{"gamma": 0.5}, {"per_turn": True}])
def test_a_token_that_the_engine_gave_no_log_prob_counts_nowhere(options: dict[str, Any]) -> None:
    """Of two turns of two and three tokens, the first of the second turn is lost."""
    whole = two_turns(1.0, -0.5)
    lost = replace(whole.segments[0], logprobs=(*[0.0] * 5, math.nan, 0.0, 0.0))
    short = Segment(tuple(range(7)), (0, 1, 1, 0, 0, 1, 1), (0.0,) * 7)
    turns = (whole.turns[0], replace(whole.turns[1], end=7))
    [[credit]] = reinforce_pp([Group(RECORD, (replace(whole, segments=(lost,)),))], **options)
    [[expected]] = reinforce_pp([Group(RECORD, (replace(whole, segments=(short,), turns=turns),))], **options)
    assert credit == expected
    nothing = replace(whole, segments=(replace(lost, logprobs=(math.nan,) * 8),))
    [[unchanged, left_out]] = reinforce_pp([Group(RECORD, (whole, nothing))], **options)
    assert (unchanged, left_out) == (reinforce_pp([Group(RECORD, (whole,))], **options)[0][0], 0.0)


def with_signals(reward: float, **signals: tuple[float, ...]) -> Rollout:
    tokens = len(next(iter(signals.values())))
    return replace(rollout(reward, tokens), signals=Signals(**signals))


def test_a_penalty_in_the_reward_counts_in_every_algorithm() -> None:
    kept, left = with_signals(1.0, penalties=(0.0, 0.0)), with_signals(1.0, penalties=(0.25, 0.25))
    assert dr_grpo([Group(RECORD, (kept, left))]) == [[0.25, -0.25]]
    [[good, bad]] = reinforce_pp([Group(RECORD, (kept, left))])
    assert isinstance(good, Credit)
    assert isinstance(bad, Credit)
    # Returns 1, 1 and 0.5, 0.75: a token is not blamed for what came before it.
    mean, deviation = 0.8125, 0.239357
    assert good.tokens == pytest.approx([(1 - mean) / deviation] * 2, abs=1e-4)
    assert bad.tokens == pytest.approx([(0.5 - mean) / deviation, (0.75 - mean) / deviation], abs=1e-4)


def test_a_discount_makes_early_tokens_count_less() -> None:
    [[credit]] = reinforce_pp([group(1.0, tokens=[3])], gamma=0.5)
    assert isinstance(credit, Credit)
    assert credit.tokens == pytest.approx([-0.872872, -0.218218, 1.091089], abs=1e-5)  # 0.25, 0.5, 1 whitened


def test_ppo_estimates_against_the_critic_by_hand() -> None:
    attempt = with_signals(1.0, values=(0.5, 0.25, 0.75))
    [[credit]] = ppo([Group(RECORD, (attempt,))], gamma=1.0, lam=0.5)
    assert isinstance(credit, Credit)
    # deltas: 0.25 - 0.5, 0.75 - 0.25, 1 - 0.75; then each plus half of what follows it
    raw = [-0.25 + 0.5 * (0.5 + 0.5 * 0.25), 0.5 + 0.5 * 0.25, 0.25]
    assert credit.returns == pytest.approx([raw[0] + 0.5, raw[1] + 0.25, raw[2] + 0.75])
    mean = sum(raw) / 3
    deviation = math.sqrt(sum((each - mean) ** 2 for each in raw) / 2 + 1e-8)
    assert credit.tokens == pytest.approx([(each - mean) / deviation for each in raw])


def test_ppo_at_lambda_one_gives_returns_that_are_the_reward() -> None:
    rows = ppo([Group(RECORD, (with_signals(0.7, values=(0.1, 0.9)), with_signals(0.0, values=(0.3,))))])
    assert [credit.returns for row in rows for credit in row if isinstance(credit, Credit)] == [
        pytest.approx([0.7, 0.7]),
        pytest.approx([0.0]),
    ]


def test_ppo_leaves_failed_rollouts_out() -> None:
    [[credit, failed]] = ppo([Group(RECORD, (with_signals(1.0, values=(0.1, 0.9)), rollout(None)))])
    assert isinstance(credit, Credit)
    assert failed == 0.0
