"""What test_memory.py measures, in its own process or in every rank's: a real step's peak in torch's allocator."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from reasonkit.recipe import Recipe
from reasonkit.train.mesh import Mesh, open_mesh
from reasonkit.train.packing import Batch, Sample, Targets, make_batch
from reasonkit.train.rank import LearnerSettings, Rank

SECOND = "the second step"
SEQUENCES = 4
"""A micro-batch."""


def architecture(sizes: Mapping[str, Any]) -> PreTrainedConfig:
    return AutoConfig.for_model(
        "llama",
        **{
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "vocab_size": 256,
            "tie_word_embeddings": False,
            **sizes,
        },
    )


def full_batch(vocabulary: int, budget: int, parts: int) -> Batch:
    """Two full micro-batches a part, of prompts that share nothing."""
    length = budget // SEQUENCES
    scored = torch.arange(1, length + 1)
    nothing = torch.zeros(length)
    samples = []
    for number in range(2 * SEQUENCES * parts):
        ids = torch.full((length + 1,), number % vocabulary)
        samples.append(
            Sample(ids, scored, nothing, nothing, torch.ones(length), length, Targets(nothing, nothing))
        )
    return make_batch(samples)


def peak_bytes(sizes: Mapping[str, Any], recipe: Recipe, mesh: Mesh) -> int:
    """The most that is allocated at once from the beginning of the second step on, when there are moments."""
    budget = recipe.train.token_budget
    assert budget is not None
    torch.manual_seed(0)
    gc.collect()  # what an earlier rank left behind would be counted as given back
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        rank = Rank(
            AutoModelForCausalLM.from_config(architecture(sizes)), LearnerSettings.of(recipe), mesh=mesh
        )
        batch = full_batch(rank.model.config.vocab_size, budget, mesh.parts)
        rank.step(batch)
        gc.collect()  # what making the rank left behind
        with record_function(SECOND):
            rank.step(batch)
    events = measured.profiler.kineto_results.events()
    [start] = [event.start_ns() for event in events if event.name() == SECOND]
    memory = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = accumulate(size for _, size in memory)
    return max(now for (moment, _), now in zip(memory, held, strict=True) if moment >= start)


class Bench:
    """One rank of several."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def peak(self, sizes: Mapping[str, Any], recipe: Recipe) -> int:
        return peak_bytes(sizes, recipe, self._mesh)


def make_bench(
    rank: int, count: int, address: str, tick: Callable[[], None], parallel: dict[str, int]
) -> Bench:
    torch.set_num_threads(1)
    return Bench(open_mesh(rank, count, device="cpu", address=address, parallel=parallel, tick=tick))
