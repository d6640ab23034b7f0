"""Attention within each of several sequences that lie end to end in one row of tokens.

Registered with transformers under a name of ours, so that a model's own forward runs on packed rows: linear layers,
norms and rotary embeddings see no padding at all. Neighbouring sequences of one length share one call of
torch's fused causal attention, which never holds a matrix of scores. Left out: attention to a cache, and windows
shorter than a sequence.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from reasonkit.errors import ReasonkitError

PACKED = "reasonkit_packed"


def use_packed_attention(model: PreTrainedModel) -> None:
    """From here on the model's forward takes `lengths=`, the sequences' lengths in its one row of tokens."""
    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    lengths: tuple[int, ...],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_other: Any,
) -> tuple[Tensor, None]:
    """Takes [1, heads, tokens, width], gives [1, tokens, heads, width], as transformers calls it, never with a
    mask."""
    if sliding_window is not None and max(lengths) > sliding_window:
        raise ReasonkitError(
            f"a sequence of {max(lengths)} tokens is longer than the attention window of {sliding_window} of "
            f"{type(module).__name__}",
            f"lower model.context to {sliding_window}",
        )
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    parts = [
        _attend(*triple, length=length, count=count, scaling=scaling)
        for (length, count), *triple in zip(
            runs, *(_rows(tensor).split(sizes) for tensor in (query, key, value)), strict=True
        )
    ]
    return torch.cat(parts)[None], None


def _rows(tensor: Tensor) -> Tensor:
    """[1, heads, tokens, width] -> [tokens, heads, width], as it lies in memory."""
    return tensor[0].transpose(0, 1)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, length: int, count: int, scaling: float | None
) -> Tensor:
    """Causal attention within each of `count` sequences of one `length`."""
    query, key, value = (rows.unflatten(0, (count, length)).transpose(1, 2) for rows in (query, key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return attended.transpose(1, 2).flatten(0, 1)
