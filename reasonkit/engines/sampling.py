"""From logits to sampled tokens and their log-probabilities, for a whole batch at once.

Draws are a function of (request seed, position in the reply) alone: one uniform each, turned into a token by
inverse CDF over the vocabulary in its own order. No generator state exists, so neither the other requests in
a batch nor an interruption can shift a draw.

Log-probabilities are *processed*, as vLLM's `processed_logprobs`: of the distribution that the token was
drawn from, at its temperature and, where a request truncates (min-p, then top-k, then top-p), renormalised
over what was kept. Without truncation that is log_softmax(logits / temperature), which training recomputes;
with truncation it is larger by the log of the mass that was cut. Greedy requests get the log-probability
at temperature 1, untruncated. Left out: penalties, bad words, guided decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # splitmix64's constants, as signed 64-bit integers
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True, slots=True)
class Draws:
    """How each row of a batch is drawn: one entry a row."""

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    top_k: Tensor
    seed: Tensor
    position: Tensor


def sample(logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """A token and its log-probability for every row of float32 `logits`, which are used up."""
    greedy = draws.temperature == 0
    choice = logits.argmax(-1) if bool(greedy.any()) else None
    logits.div_(torch.where(greedy, 1.0, draws.temperature).unsqueeze(1))
    truncating = ((draws.top_p < 1) | (draws.min_p > 0) | (draws.top_k > 0)) & ~greedy
    if bool(truncating.any()):
        rows = truncating.nonzero().squeeze(1)
        logits[rows] = _truncate(logits[rows], draws.min_p[rows], draws.top_k[rows], draws.top_p[rows])
    logprobs = logits.log_softmax(-1)
    tokens = invert_cdf(logprobs.exp(), uniforms(draws.seed, draws.position))
    if choice is not None:
        tokens = torch.where(greedy, choice, tokens)
    return tokens, logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """One float32 in [0, 1) for each (seed, position): 24 bits of a hash, the same on every device."""
    return _shift(_mix(_mix(seeds) + (positions + 1) * _GAMMA), 40).to(torch.float32) * 2.0**-24


def invert_cdf(probabilities: Tensor, draws: Tensor) -> Tensor:
    """The first token at which the cumulated probability exceeds the row's draw."""
    cumulated = probabilities.cumsum(-1)
    total = cumulated[:, -1:]
    # Rounding may lift draw × total to the total itself, beyond the last token that has any probability.
    target = torch.minimum(draws.unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, target, right=True).squeeze(1)


def _truncate(logits: Tensor, min_p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Logits with -inf wherever min-p, top-k or top-p cuts. Ties with the last kept token are kept."""
    floor = logits.amax(-1, keepdim=True) + min_p.log().unsqueeze(1)
    logits = logits.masked_fill(logits < floor, -torch.inf)
    vocabulary = logits.shape[1]
    kept = torch.where(top_k > 0, top_k, vocabulary).clamp(max=vocabulary)
    if bool((top_k > 0).any()):
        best = logits.topk(int(kept.max()), sorted=True).values
        logits = logits.masked_fill(logits < best.gather(1, kept.unsqueeze(1) - 1), -torch.inf)
    if bool((top_p < 1).any()):
        best = logits.sort(-1, descending=True).values
        mass = best.softmax(-1)
        before = mass.cumsum(-1) - mass
        kept = (before < top_p.unsqueeze(1)).sum(-1).clamp(min=1)
        logits = logits.masked_fill(logits < best.gather(1, kept.unsqueeze(1) - 1), -torch.inf)
    return logits


def _mix(state: Tensor) -> Tensor:
    """splitmix64's finaliser. torch has no unsigned arithmetic; signed products wrap to the same bits."""
    state = (state ^ _shift(state, 30)) * _MIX_1
    state = (state ^ _shift(state, 27)) * _MIX_2
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
