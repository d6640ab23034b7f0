"""Log-probabilities and entropies of chosen tokens, without ever holding all logits.

The head is applied to a slice of hidden states at a time. Backward computes each slice's logits once more rather
than keeping them, so memory is that of one slice, whatever the number of tokens. Float32 from the
logits on, at the sampling temperature, because that is the distribution that the tokens were drawn from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SLICE_LOGITS = 2**21
SLICE_ROWS = 256
"""A slice is so many tokens, or as many as make SLICE_LOGITS logits: small vocabularies stay in the cache, and
large ones still give a matrix product worth its start."""


def score(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """[n, width], [vocabulary, width], [n] -> log-probabilities [n] and entropies [n], differentiable."""
    return _Score.apply(hidden, weight, bias, targets, temperature)  # type: ignore[no-any-return,no-untyped-call]


def slice_rows(vocabulary: int) -> int:
    return max(SLICE_ROWS, SLICE_LOGITS // vocabulary)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropy, normaliser = torch.empty_like(logprobs), torch.empty_like(logprobs)
        head = _Head(weight, bias, hidden.dtype, temperature)
        for rows in _slices(hidden, weight):
            logits = head(hidden[rows])
            normaliser[rows] = torch.logsumexp(logits, 1)
            every = logits.sub_(normaliser[rows, None])
            logprobs[rows] = every.gather(1, targets[rows, None])[:, 0]
            entropy[rows] = every.exp().mul_(every).sum(1).neg_()
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropy)
        ctx.temperature = temperature
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, logprob_gradient: Tensor, entropy_gradient: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden)
        # A frozen head, under adapters, needs no gradient as large as itself.
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        wants_entropy = bool(entropy_gradient.any())
        head = _Head(weight, bias, hidden.dtype, ctx.temperature)
        for rows in _slices(hidden, weight):
            logprobs = head(hidden[rows]).sub_(normaliser[rows, None])
            gradient = logprobs.exp()
            if wants_entropy:
                # d entropy / d logit = −p · (log p + entropy), d log p(chosen) / d logit = [chosen] − p
                logprobs.add_(entropy[rows, None]).mul_(entropy_gradient[rows, None])
                gradient.mul_(logprobs.add_(logprob_gradient[rows, None]).neg_())
            else:
                gradient.mul_(-logprob_gradient[rows, None])
            gradient.scatter_add_(1, targets[rows, None], logprob_gradient[rows, None])
            gradient = gradient.div_(ctx.temperature).to(hidden.dtype)
            torch.mm(gradient, head.weight, out=to_hidden[rows])
            if to_weight is not None:
                to_weight += gradient.T @ hidden[rows]
            if to_bias is not None:
                to_bias += gradient.sum(0)
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), to_bias, None, None


def _slices(hidden: Tensor, weight: Tensor) -> list[slice]:
    rows = slice_rows(weight.shape[0])
    return [slice(start, start + rows) for start in range(0, hidden.shape[0], rows)]


class _Head:
    """The head in the dtype of the hidden states, cast once."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, temperature: float) -> None:
        self.weight = weight.to(dtype)
        self._bias = None if bias is None else bias.to(dtype)
        self._temperature = temperature

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden, self.weight, self._bias).float()
        return logits if self._temperature == 1.0 else logits.div_(self._temperature)
