"""Operations counted from shapes: by hand, against torch's own counter, and against a published model."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config

from reasonkit.train.flops import Meter, ModelFlops, peak_flops
from tests.tiny_models import SHAPES, Shape, tiny_config, tiny_model

QWEN_7B = Qwen2Config(
    vocab_size=152_064,
    hidden_size=3584,
    intermediate_size=18_944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)


def test_a_model_counted_by_hand() -> None:
    """Width 48, 4 heads (2 of keys and values) of 12, 96 inside, 2 layers, 40 words; 10 tokens, 4 scored."""
    flops = ModelFlops.of(tiny_config("llama", 40))
    layer = 48 * 48 + 48 * 24 + 48 * 24 + 48 * 48 + 3 * 48 * 96
    pairs = 6 * 7 // 2 + 4 * 5 // 2
    forward = 2 * 2 * layer * 10 + 2 * 48 * 40 * 4 + 2 * (2 * 48 + 2 * 48) * pairs
    assert flops.forward(10, 4, [6, 4]) == forward
    assert flops.training(10, 4, [6, 4]) == 3 * forward
    attention = 2 * (2 * 48 + 2 * 48) * pairs
    assert flops.training(10, 4, [6, 4], frozen=True) == 2 * (forward - attention) + 3 * attention


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_what_torch_counts(shape: Shape) -> None:
    """Torch counts all pairs of a sequence, ours those that causal attention needs."""
    model, length = tiny_model(shape, 40), 16
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, length, dtype=torch.long))
    flops = ModelFlops.of(model.config)
    every_pair = flops.forward(length, length, []) + flops.attention * length**2
    rotary = length * (flops.attention / (4 * 2)) / model.config.num_attention_heads
    assert counter.get_total_flops() == pytest.approx(every_pair, abs=2 * rotary)


def test_a_7b_model_at_8k_tokens_is_near_six_operations_a_parameter_and_token() -> None:
    parameters = 7.07e9  # without the embedding, which is looked up
    tokens = 8192
    without_attention = ModelFlops.of(QWEN_7B).training(tokens, tokens, [])
    assert without_attention == pytest.approx(6 * parameters * tokens, rel=0.01)
    with_attention = ModelFlops.of(QWEN_7B).training(tokens, tokens, [tokens])
    assert 1.05 < with_attention / without_attention < 1.15


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", 70e12),
        ("Somebody's card", None),
    ],
)
def test_peaks_by_name(device: str, peak: float | None) -> None:
    assert peak_flops(device) == peak


def test_a_meter_reads_what_was_computed_over_what_the_device_is_able_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flops = ModelFlops.of(tiny_config("llama", 40))
    meter = Meter(torch.device("cpu"), flops, peak=1e6, neighbours=2, frozen=False)
    now = iter([10.0, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    meter.start()
    meter.count(10, 4, [6, 4], reference=False)
    meter.count(5, 5, [5], reference=True)
    measured = meter.read()
    monkeypatch.undo()
    done = 3 * flops.forward(10, 4, [6, 4]) + 4 * flops.forward(5, 5, [5])
    assert measured == {"mfu": pytest.approx(done / (1e6 * 2.0 * 2))}


def test_of_a_cpu_nothing_is_said() -> None:
    meter = Meter.of(torch.device("cpu"), tiny_config("llama", 40), neighbours=1, frozen=False)
    meter.start()
    meter.count(10, 4, [6, 4], reference=False)
    assert meter.read() == {}
