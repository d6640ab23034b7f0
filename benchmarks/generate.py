"""Tokens per second of the embedded engine beside `model.generate`, in one run.

    OMP_NUM_THREADS=1 python benchmarks/generate.py --threads 1

The model is a Llama of 0.67M parameters with random weights, all sampling is at temperature 1, prompts are 32
tokens. Lengths are dictated, by max_tokens for the engine and by the longest row of the batch for `generate`, so
both do what they would do on replies that end there; only tokens that were asked for count. `uniform` is 64 tokens
each; `tail` is long-tailed, at most 128 with a mean of a quarter of that. The engine also returns each token's
log-probability; `generate` does not. An engine serves all rounds, as in training, where it lives as long as the
run. Contenders take turns; the table shows medians, and ratios are medians over the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reasonkit.engines import Sampling
from reasonkit.engines.transformers import TransformersEngine

VOCABULARY = 256
PROMPT = 32
LONGEST = 128
UNIFORM = 64


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=244,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def tail_lengths(count: int) -> list[int]:
    """Quantiles of an exponential distribution with mean a quarter of the longest, cut there, shuffled."""
    quantiles = (torch.arange(count) + 0.5) / count
    lengths = (-torch.log1p(-quantiles) * LONGEST / 4).ceil().clamp(1, LONGEST).int()
    return lengths[torch.randperm(count, generator=torch.Generator().manual_seed(1))].tolist()


def generate_rate(
    model: LlamaForCausalLM, prompts: torch.Tensor, lengths: Sequence[int], batch: int
) -> float:
    started = time.perf_counter()
    for first in range(0, len(lengths), batch):
        ids = prompts[first : first + batch]
        longest = max(lengths[first : first + batch])
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=longest,
            min_new_tokens=longest,
        )
    return sum(lengths) / (time.perf_counter() - started)


def engine_rate(engine: TransformersEngine, prompts: torch.Tensor, lengths: Sequence[int]) -> float:
    async def all_requests() -> list[int]:
        requests = (
            engine.generate(prompt, Sampling(max_tokens=length, seed=place))
            for place, (prompt, length) in enumerate(zip(prompts.tolist(), lengths, strict=True))
        )
        return [len(completion.token_ids) for completion in await asyncio.gather(*requests)]

    started = time.perf_counter()
    sampled = asyncio.run(all_requests())
    seconds = time.perf_counter() - started
    assert sampled == list(lengths)
    return sum(lengths) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = small_llama()
    prompts = torch.randint(VOCABULARY, (options.requests, PROMPT))
    engines = {slots: TransformersEngine(small_llama(), eos_ids=[], slots=slots) for slots in (256, 64)}
    contenders: dict[str, Callable[[Sequence[int]], float]] = {
        "generate, batch 256": lambda lengths: generate_rate(model, prompts, lengths, 256),
        "generate, batch 64": lambda lengths: generate_rate(model, prompts, lengths, 64),
        "engine, 256 slots": lambda lengths: engine_rate(engines[256], prompts, lengths),
        "engine, 64 slots": lambda lengths: engine_rate(engines[64], prompts, lengths),
    }
    workloads = {"tail": tail_lengths(options.requests), "uniform": [UNIFORM] * options.requests}
    rates: dict[tuple[str, str], list[float]] = {
        (name, load): [] for name in contenders for load in workloads
    }
    for repeat in range(options.repeats + 1):
        for (name, load), seen in rates.items():
            rate = contenders[name](workloads[load])
            if repeat > 0:  # the first round warms up
                seen.append(rate)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, {options.requests} requests, threads: {options.threads}; tokens/s")
    print(f"{'':24}{'tail':>10}{'uniform':>10}")
    for name in contenders:
        print(f"{name:24}" + "".join(f"{statistics.median(rates[name, load]):>10,.0f}" for load in workloads))
    for ours in ("engine, 256 slots", "engine, 64 slots"):
        for theirs in ("generate, batch 256", "generate, batch 64"):
            ratios = [ratio(rates[ours, load], rates[theirs, load]) for load in workloads]
            print(f"{ours} / {theirs}: tail {ratios[0]:.2f} x, uniform {ratios[1]:.2f} x")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds, whose two measurements are close in time: a busy machine slows both."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
