"""The sliced head: the values and gradients of full logits, in memory that does not grow with the tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reasonkit.train import lm_head
from reasonkit.train.lm_head import score, slice_rows

WIDTH, VOCABULARY, TOKENS = 8, 50, 23


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).requires_grad_()
    bias = torch.randn(VOCABULARY).requires_grad_()
    return hidden, weight, bias, torch.randint(VOCABULARY, (TOKENS,))


def by_full_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logprobs = (torch.nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(1)
    return logprobs.gather(1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(1)


@pytest.fixture(params=[1, 5, 23, 100], ids="{}-rows".format)
def sliced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices that divide the tokens, that do not, and one that holds them all."""
    monkeypatch.setattr(lm_head, "slice_rows", lambda _vocabulary: request.param)


@pytest.mark.usefixtures("sliced")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("upstream", ["logprobs", "entropy", "both"])
def test_equals_full_logits_with_gradients(temperature: float, with_bias: bool, upstream: str) -> None:
    results = []
    for function in (score, by_full_logits):
        hidden, weight, bias, targets = tensors()
        logprobs, entropy = function(hidden, weight, bias if with_bias else None, targets, temperature)
        torch.manual_seed(1)
        a, b = torch.randn(2, TOKENS)
        loss = {"logprobs": logprobs @ a, "entropy": entropy @ b, "both": logprobs @ a + entropy @ b}[
            upstream
        ]
        loss.backward()
        grads = [each.grad for each in (hidden, weight, bias if with_bias else None) if each is not None]
        results.append([logprobs.detach(), entropy.detach(), *grads])
    torch.testing.assert_close(*results, rtol=1e-4, atol=5e-6)


def test_half_precision_hidden_states_are_normalised_in_float32() -> None:
    hidden, weight, _, targets = tensors(torch.bfloat16)
    logprobs, entropy = score(hidden, weight, None, targets, 1.0)
    logits = (hidden @ weight.to(torch.bfloat16).T).float()
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, logits.log_softmax(1).gather(1, targets[:, None])[:, 0])
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.untyped_storage().nbytes() // result.element_size())
        return result


def largest_tensor(function: Any, tokens: int, vocabulary: int) -> int:
    hidden = torch.randn(tokens, 4).requires_grad_()
    weight = torch.randn(vocabulary, 4).requires_grad_()
    with LargestTensor() as largest:
        logprobs, entropy = function(hidden, weight, None, torch.zeros(tokens, dtype=torch.long), 1.0)
        (logprobs.sum() + entropy.sum()).backward()
    return largest.elements


def test_no_tensor_is_larger_than_a_slice_however_many_the_tokens() -> None:
    vocabulary = 20_000
    slice_size = slice_rows(vocabulary) * vocabulary
    assert largest_tensor(score, 1000, vocabulary) == slice_size
    assert largest_tensor(score, 300, vocabulary) == slice_size
    assert largest_tensor(by_full_logits, 500, vocabulary) == 500 * vocabulary, "the measure itself works"
