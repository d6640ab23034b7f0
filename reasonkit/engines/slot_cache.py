"""The key-value cache of the transformers engine, and the attention over it.

One slot a sequence, live sequences in slots 0 … n-1. A model's own forward writes through `update` and reads
through `attend`, the two places where transformers lets others in, so every full-attention decoder works
unchanged. A sequence stands at columns 0 … length-1 of its slot; later columns hold leftovers that the mask
hides. Left out: paging, sliding windows. Memory is slots × longest sequence, and grows as they do, up to a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig

COLUMN_GRAIN = 64  # columns are added in multiples of this


def token_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Of a token's keys and values in all layers."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    channels = text.to_dict().get("head_dim") or text.hidden_size // heads
    size: int = 2 * text.num_hidden_layers * (text.num_key_value_heads or heads) * channels * dtype.itemsize
    return size


def grained(columns: int) -> int:
    """So many columns are held for a sequence of this length."""
    return -(-columns // COLUMN_GRAIN) * COLUMN_GRAIN


@dataclass(frozen=True, slots=True)
class Prefill:
    """The coming forward writes whole prompts, from column 0 on, into these slots."""

    slots: Tensor


@dataclass(frozen=True, slots=True)
class Decode:
    """The coming forward writes one token for each of the first slots, at these columns."""

    columns: Tensor
    width: int
    """Columns to attend to: one more than the largest of `columns`."""


class SlotCache:
    """Keys and values of all layers: (layer, slot, head, column, channel)."""

    def __init__(self, layers: int, max_slots: int, max_columns: int, room: int) -> None:
        """`room` is the product of slots and columns that memory allows."""
        self._layers = layers
        self._max_slots = max_slots
        self._max_columns = max_columns
        self._room = room
        self._slots = 0
        self._columns = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._coming: Prefill | Decode | None = None
        self._targets: Tensor | None = None

    def reserve(self, slots: int, columns: int) -> None:
        """Makes room for so many slots and columns, which hold all that is live, and for some more where memory
        allows, since growing copies what is held."""
        if slots <= self._slots and columns <= self._columns:
            return
        more_slots, more_columns = self._slots, self._columns
        if slots > more_slots:
            more_slots = min(max(slots, 2 * more_slots), self._max_slots)
        if columns > more_columns:
            more_columns = min(grained(max(columns, more_columns * 5 // 4)), self._max_columns)
        if more_slots * more_columns > self._room:
            more_slots, more_columns = slots, min(grained(columns), self._max_columns)
        self._slots, self._columns = more_slots, more_columns
        if self._keys is not None and self._values is not None:
            self._keys = self._resized(
                self._keys
            )  # one after the other: both old and new take twice their memory
            self._values = self._resized(self._values)

    def expect(self, coming: Prefill | Decode) -> None:
        """Says what the coming forward is, for all its layers."""
        self._coming = coming
        self._targets = None

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Called by the model's attention: stores what is new and returns what to attend to."""
        if self._keys is None or self._values is None:
            self._keys, self._values = self._allocated(keys), self._allocated(values)
        held_keys, held_values = self._keys[layer], self._values[layer]
        match self._coming:
            case Prefill(slots):
                width = keys.shape[2]
                held_keys[:, :, :width].index_copy_(0, slots, keys)
                held_values[:, :, :width].index_copy_(0, slots, values)
                return keys, values
            case Decode(columns, width):
                rows, heads = keys.shape[:2]
                if self._targets is None:
                    first = torch.arange(rows * heads, device=keys.device) * self._columns
                    self._targets = first + columns.repeat_interleave(heads)
                held_keys.view(-1, keys.shape[3]).index_copy_(0, self._targets, keys.flatten(0, 2))
                held_values.view(-1, values.shape[3]).index_copy_(0, self._targets, values.flatten(0, 2))
                return held_keys[:rows, :, :width], held_values[:rows, :, :width]
            case None:
                raise RuntimeError("expect() says what a forward is before the forward")

    def copy(self, sources: Tensor, targets: Tensor, width: int) -> None:
        """The first `width` columns of slots `sources` into slots `targets`."""
        for held in (self._keys, self._values):
            if held is not None:
                held[:, targets, :, :width] = held[:, sources, :, :width]

    def _allocated(self, new: Tensor) -> Tensor:
        # Zeros, because a NaN in memory never written would outlive a mask: 0 × NaN is NaN.
        return new.new_zeros(self._layers, self._slots, new.shape[1], self._columns, new.shape[3])

    def _resized(self, held: Tensor) -> Tensor:
        resized = held.new_zeros(self._layers, self._slots, held.shape[2], self._columns, held.shape[4])
        slots, columns = min(self._slots, held.shape[1]), min(self._columns, held.shape[3])
        resized[:, :slots, :, :columns] = held[:, :slots, :, :columns]
        return resized


def attend(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_ignored: object,
) -> tuple[Tensor, None]:
    """An attention function for transformers' AttentionInterface: causal without a mask, one query with one.

    transformers' own repeats keys and values for each query head whenever there is a mask, which copies the whole
    cache at every layer of every step. Here the query heads that share a key head are one query of several tokens.
    """
    if attention_mask is None:
        output = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return output.transpose(1, 2).contiguous(), None
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[3])
    if query.device.type == "cpu" and query.dtype == torch.float32:
        # For a single query two batched products read the cache at 1.3 times the rate of the CPU's fused kernel.
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        scores = torch.matmul(grouped * scale, key.transpose(2, 3)).add_(attention_mask)
        output = torch.matmul(scores.softmax(-1), value)
    else:
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(query.shape).transpose(1, 2).contiguous(), None
