"""Attention within each of the sequences of a packed row, whose prompts may be shared (packing.Layout).

Registered with transformers under a name of ours, so that a model's own forward runs on packed rows: projections,
norms and rotary embeddings see neither padding nor a prompt twice. Whole sequences are put together for attention
alone. On a GPU in half precision all of them are one call of torch's attention for sequences of any length;
elsewhere those of one length share a call of its fused causal attention. Neither holds a matrix of scores. Left
out: attention to a cache, and windows shorter than a sequence.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from reasonkit.errors import ReasonkitError
from reasonkit.train.packing import Layout
from reasonkit.train.ulysses import Neighbours

PACKED = "reasonkit_packed"


def use_packed_attention(model: PreTrainedModel) -> None:
    """From here on the model's forward takes `layout=`, which says how sequences lie in its one row of tokens."""
    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    layout: Layout,
    neighbours: Neighbours | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_other: Any,
) -> tuple[Tensor, None]:
    """Takes [1, heads, tokens, width], gives [1, tokens, heads, width], as transformers calls it, never with a
    mask."""
    longest = layout.lengths[0]
    if sliding_window is not None and longest > sliding_window:
        raise ReasonkitError(
            f"a sequence of {longest} tokens is longer than the attention window of {sliding_window} of "
            f"{type(module).__name__}",
            f"--set model.context={sliding_window}",
        )
    if neighbours is not None:
        tokens = len(layout.gather)
        query, key, value = (neighbours.to_heads(each, tokens) for each in (query, key, value))
    query, key, value = (
        tensor[0].transpose(0, 1).index_select(0, layout.spread) for tensor in (query, key, value)
    )
    at_once = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    attended = (_attend_at_once if at_once else _attend_by_length)(query, key, value, layout.lengths, scaling)
    result = attended.index_select(0, layout.gather)[None]
    return result if neighbours is None else neighbours.to_tokens(result), None


def _attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float | None
) -> Tensor:
    """Causal attention within each of the sequences that lie one after another: [sum of lengths, heads, width]."""
    ends = torch.tensor([0, *lengths], device=query.device).cumsum(0, dtype=torch.int32)
    attended = varlen_attn(
        query,
        key,
        value,
        ends,
        ends,
        lengths[0],
        lengths[0],
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor), "nothing more was asked for"
    return attended


def _attend_by_length(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float | None
) -> Tensor:
    """The same, those of one length at a time."""
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    parts = (tensor.split([length * count for length, count in runs]) for tensor in (query, key, value))
    attended = [
        _attend(*run, length=length, count=count, scaling=scaling)
        for (length, count), *run in zip(runs, *parts, strict=True)
    ]
    return torch.cat(attended)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, length: int, count: int, scaling: float | None
) -> Tensor:
    """Causal attention within each of `count` sequences of one `length`: [count · length, heads, width]."""
    query, key, value = (rows.unflatten(0, (count, length)).transpose(1, 2) for rows in (query, key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return attended.transpose(1, 2).flatten(0, 1)
