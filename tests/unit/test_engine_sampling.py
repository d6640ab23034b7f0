"""Draws are a function of seed and position, distributions are right, log-probs are the processed ones."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from reasonkit.engines.sampling import Draws, invert_cdf, sample, uniforms

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0, -30.0])
MASK_64 = (1 << 64) - 1


def draws(
    rows: int, *, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0, top_k: int = 0
) -> Draws:
    """The first draw of `rows` requests with seeds 0, 1, 2, …"""
    return Draws(
        temperature=torch.full((rows,), temperature),
        top_p=torch.full((rows,), top_p),
        min_p=torch.full((rows,), min_p),
        top_k=torch.full((rows,), top_k),
        seed=torch.arange(rows),
        position=torch.zeros(rows, dtype=torch.long),
    )


def drawn(rows: int = 20_000, **settings: float) -> tuple[list[int], list[float]]:
    tokens, logprobs = sample(LOGITS.repeat(rows, 1), draws(rows, **settings))  # type: ignore[arg-type]
    return tokens.tolist(), logprobs.tolist()


def chi_square(tokens: list[int], probabilities: torch.Tensor) -> tuple[float, int]:
    """The statistic over the cells that expect at least 5, and its degrees of freedom."""
    counts, total = Counter(tokens), len(tokens)
    expected = {token: total * p for token, p in enumerate(probabilities.tolist()) if total * p >= 5}
    statistic = sum((counts[token] - cell) ** 2 / cell for token, cell in expected.items())
    return statistic, len(expected) - 1


# The 1 - 1e-4 quantiles of chi-square; draws are seeded, so a pass stays a pass.
LIMITS = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution_at_the_temperature(temperature: float) -> None:
    tokens, _ = drawn(temperature=temperature)
    statistic, freedom = chi_square(tokens, (LOGITS / temperature).softmax(-1))
    assert freedom >= 4
    assert statistic < LIMITS[freedom]


def test_positions_of_one_request_are_independent_draws() -> None:
    positions = torch.arange(20_000)
    one = uniforms(torch.full_like(positions, 7), positions)
    counts = torch.histc(one, bins=7, min=0, max=1)
    assert float(((counts - 20_000 / 7) ** 2 / (20_000 / 7)).sum()) < LIMITS[6]
    correlation = torch.corrcoef(torch.stack([one[:-1], one[1:]]))[0, 1]
    assert abs(float(correlation)) < 0.03


def test_neighbouring_seeds_do_not_share_a_shifted_stream() -> None:
    positions = torch.arange(500)
    streams = [set(uniforms(torch.full_like(positions, seed), positions).tolist()) for seed in range(4)]
    assert len(set.union(*streams)) >= 1995  # a few of 2,000 draws of 24 bits may collide


def splitmix64(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK_64
    return state ^ (state >> 31)


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (1, 0), (0, 1), (2**63 - 1, 4095), (123_456_789, 77)])
def test_a_uniform_is_the_top_of_a_splitmix_hash(seed: int, position: int) -> None:
    hashed = splitmix64((splitmix64(seed) + (position + 1) * 0x9E3779B97F4A7C15) & MASK_64)
    value = float(uniforms(torch.tensor([seed]), torch.tensor([position])))
    assert value == (hashed >> 40) / 2**24
    assert 0 <= value < 1


def test_greedy_takes_the_first_of_equal_logits() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    tokens, logprobs = sample(logits.clone(), draws(2, temperature=0.0))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    settings = draws(400)
    settings.temperature[::2] = 0.0
    tokens, _ = sample(LOGITS.repeat(400, 1), settings)
    assert set(tokens[::2].tolist()) == {0}
    assert len(set(tokens[1::2].tolist())) > 3


def test_logprobs_are_those_at_the_temperature() -> None:
    tokens, logprobs = drawn(100, temperature=0.6)
    expected = (LOGITS / 0.6).log_softmax(-1)[tokens]
    torch.testing.assert_close(torch.tensor(logprobs), expected)


def test_top_k_keeps_k_tokens_and_renormalises() -> None:
    tokens, logprobs = drawn(top_k=3)
    assert set(tokens) == {0, 1, 2}
    kept = LOGITS[:3].softmax(-1)
    statistic, freedom = chi_square(tokens, kept)
    assert statistic < LIMITS[freedom]
    torch.testing.assert_close(torch.tensor(logprobs), kept.log()[tokens])


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    probabilities = LOGITS.softmax(-1)
    enough = int((probabilities.cumsum(-1) < 0.8).sum()) + 1
    tokens, logprobs = drawn(top_p=0.8)
    assert set(tokens) == set(range(enough))
    mass = probabilities[:enough].sum()
    torch.testing.assert_close(torch.tensor(logprobs), (probabilities[tokens] / mass).log())


def test_top_p_keeps_at_least_the_likeliest_token() -> None:
    tokens, logprobs = drawn(50, top_p=1e-6)
    assert set(tokens) == {0}
    assert logprobs == pytest.approx([0.0] * 50)


def test_min_p_keeps_tokens_relative_to_the_likeliest() -> None:
    tokens, _ = drawn(min_p=math.exp(-2.25))  # logits down to 2 - 2.25
    assert set(tokens) == {0, 1, 2, 3}


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    """Of the two kept tokens, with 0.73 and 0.27 of the mass, top-p 0.7 leaves one; alone it would leave two."""
    assert set(drawn(2_000, top_k=2, top_p=0.7)[0]) == {0}
    assert set(drawn(2_000, top_p=0.7)[0]) == {0, 1}


def test_truncation_of_one_row_leaves_its_neighbours_alone() -> None:
    settings = draws(2_000)
    plain, plain_logprobs = sample(LOGITS.repeat(2_000, 1), draws(2_000))
    settings.top_k[::2] = 2
    tokens, logprobs = sample(LOGITS.repeat(2_000, 1), settings)
    assert tokens[1::2].equal(plain[1::2])
    assert logprobs[1::2].equal(plain_logprobs[1::2])
    assert set(tokens[::2].tolist()) == {0, 1}


def test_a_draw_at_the_very_end_takes_a_token_that_has_probability() -> None:
    probabilities = torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 2 / 3, 0.0]])
    assert invert_cdf(probabilities, torch.tensor([1.0, 1.0])).tolist() == [1, 1]
    assert invert_cdf(probabilities, torch.tensor([0.0, 0.0])).tolist() == [0, 0]


def test_a_draw_at_zero_skips_tokens_without_probability() -> None:
    assert invert_cdf(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0.0])).tolist() == [2]
