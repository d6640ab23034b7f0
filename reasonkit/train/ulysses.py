"""Sequence parallelism after DeepSpeed-Ulysses: neighbours hold a stretch of each row, and swap tokens for heads.

All that works token by token is computed on a rank's own stretch. For attention the neighbours exchange: each gets
its share of the heads, for all tokens of the row, and gives its results back. Longer sequences then fit, because
what is kept for the backward pass is that of a stretch. Left out: rings, and more neighbours than key-value heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reasonkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Neighbours:
    group: dist.ProcessGroup
    count: int
    place: int
    """Of this rank: which stretch is its own."""

    def check_heads(self, heads: int) -> None:
        if heads % self.count:
            raise ConfigError(
                f"cluster.parallel.sequence ({self.count}) does not divide the model's {heads} key-value heads",
                f"--set cluster.parallel.sequence={max(n for n in range(1, self.count) if heads % n == 0)}",
            )

    def stretch(self, tokens: int) -> slice:
        """The places of a row that are this rank's. All are equally long, if need be beyond the row's end."""
        length = -(-tokens // self.count)
        return slice(self.place * length, (self.place + 1) * length)

    def own(self, row: Tensor) -> Tensor:
        """This rank's stretch of a [1, tokens] row, filled up with zeros."""
        length = -(-row.shape[1] // self.count)
        padded = torch.nn.functional.pad(row, (0, length * self.count - row.shape[1]))
        return padded[:, self.place * length : (self.place + 1) * length]

    def to_heads(self, mine: Tensor, tokens: int) -> Tensor:
        """[1, heads, stretch, width] -> [1, heads / count, tokens, width]"""
        _, heads, stretch, width = mine.shape
        sent = mine[0].reshape(self.count, heads // self.count, stretch, width)
        heard = _swapped(sent, self.group).transpose(0, 1)
        return heard.reshape(1, heads // self.count, self.count * stretch, width)[:, :, :tokens]

    def to_tokens(self, mine: Tensor) -> Tensor:
        """[1, tokens, heads / count, width] -> [1, stretch, heads, width]"""
        _, tokens, heads, width = mine.shape
        stretch = -(-tokens // self.count)
        padded = torch.nn.functional.pad(mine[0], (0, 0, 0, 0, 0, stretch * self.count - tokens))
        heard = _swapped(padded.reshape(self.count, stretch, heads, width), self.group)
        return heard.transpose(0, 1).reshape(1, stretch, self.count * heads, width)

    def together(self, own: Tensor, mine: Tensor) -> Tensor:
        """Numbers of all tokens, of which this rank has those where `own` says so."""
        row = mine.new_zeros(own.shape).masked_scatter(own, mine)
        result: Tensor = _Sum.apply(row, self.group)  # type: ignore[no-untyped-call]
        return result


def _swapped(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[count, …]: part i goes to neighbour i, and part i of the result comes from it."""
    result: Tensor = _Swap.apply(tensor, group)  # type: ignore[no-untyped-call]
    return result


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        result = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        dist.all_to_all_single(result, tensor.contiguous(), group=group)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _swapped(gradient, ctx.group), None


class _Sum(torch.autograd.Function):
    """Neighbours compute one and the same loss from the sum: each owes the gradient of its own part alone."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        del ctx
        result = tensor.clone()
        dist.all_reduce(result, group=group)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradient, None
