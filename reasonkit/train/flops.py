"""Floating-point operations of training, counted from a model's own shapes, for MFU: how much of a GPU is used.

Counted is what the algorithm needs: matrix products of weights and, in attention, of tokens with those before
them. Forward once and backward twice that. What is computed again to save memory does not count, as is usual;
frozen weights (LoRA) need no gradient of their own. Left out: norms, rotary embeddings and softmax (below 1 %),
mixtures of experts, PPO's critic.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch

PEAKS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "H20": 148e12,
    "H800": 989e12,
    "A800": 312e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 products with float32 sums, a second, as their makers say; by what a GPU's name has in it."""


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """Of one forward pass."""

    layers: float
    """For each token of a row: the matrices of all layers."""
    head: float
    """For each token that is scored."""
    attention: float
    """For each pair of a token and itself or one before it."""

    @classmethod
    def of(cls, config: Any) -> ModelFlops:
        """Of a Llama-like architecture, from its transformers configuration."""
        config = config.get_text_config()
        width, heads = config.hidden_size, config.num_attention_heads
        head_width = config.to_dict().get("head_dim") or width // heads
        queries, keys = heads * head_width, config.num_key_value_heads * head_width
        matrices = width * (2 * queries + 2 * keys) + 3 * width * config.intermediate_size
        return cls(
            layers=2.0 * config.num_hidden_layers * matrices,
            head=2.0 * width * config.vocab_size,
            attention=4.0 * config.num_hidden_layers * queries,
        )

    def forward(self, tokens: int, scored: int, lengths: Iterable[int]) -> float:
        """Of `tokens` in rows that share prompts, `scored` of them by the head, in whole sequences of `lengths`."""
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        return self.layers * tokens + self.head * scored + self.attention * pairs

    def training(self, tokens: int, scored: int, lengths: Iterable[int], *, frozen: bool = False) -> float:
        """Forward and backward. With `frozen` weights backward computes no gradient of them, only through them."""
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        matrices = self.layers * tokens + self.head * scored
        return (2.0 if frozen else 3.0) * matrices + 3.0 * self.attention * pairs


def peak_flops(device: str) -> float | None:
    """A second, of a GPU by its name; None where it is not known."""
    known = [name for name in PEAKS if name in device]
    return PEAKS[max(known, key=len)] if known else None


@dataclass(slots=True)
class Meter:
    """What one rank makes of its device in an update: MFU and peak memory. Of a CPU it says neither."""

    device: torch.device
    flops: ModelFlops
    peak: float | None
    """Operations a second that the device is able to."""
    neighbours: int
    """Ranks that compute a row together."""
    frozen: bool
    _operations: float = 0.0
    _started: float = 0.0

    @classmethod
    def of(cls, device: torch.device, config: Any, *, neighbours: int, frozen: bool) -> Self:
        peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        return cls(device, ModelFlops.of(config), peak, neighbours, frozen)

    def start(self) -> None:
        self._operations, self._started = 0.0, time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def count(self, tokens: int, scored: int, lengths: Iterable[int], *, reference: bool) -> None:
        """A row has been learned from; `reference`: another model went over it too."""
        lengths = list(lengths)
        self._operations += self.flops.training(tokens, scored, lengths, frozen=self.frozen)
        if reference:
            self._operations += self.flops.forward(tokens, scored, lengths)

    def read(self) -> dict[str, float]:
        """Since the start."""
        measured = {}
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            measured["memory_peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        if self.peak is not None:
            able = self.peak * (time.perf_counter() - self._started) * self.neighbours
            measured["mfu"] = self._operations / able
        return measured
