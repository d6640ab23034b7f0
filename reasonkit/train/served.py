"""An engine in its actor's process, and the weights that come to it: whole ones, or adapters alone.

Adapters are merged here, into a base that is read once from the folder that the learner read it from (all nodes see
it); so an update moves what training changed, and any engine takes it. The base is kept in float32 in the memory of
the actor's machine, as the learner keeps it. Left out: starting the actor (topology.py), and who sends what
(remote.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reasonkit.cluster import get
from reasonkit.engines import Engine, Sampling, Sleeper, WeightSource, open_engine
from reasonkit.recipe import ModelConfig, Part
from reasonkit.records import Completion
from reasonkit.train.lora import add_adapters, fill_adapters
from reasonkit.train.model import load_model
from reasonkit.train.parcels import Parcel, unpack
from reasonkit.train.weights import ModelWeights


@dataclass(frozen=True, slots=True)
class Parcels:
    """Weights that left the learner, which may go on."""

    references: tuple[Any, ...]
    bytes: int
    base: str | None = None
    """Where the model is that these are the adapters of; None for whole weights."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return unpack([get(reference) for reference in self.references])


class ServedEngine:
    """An engine, in its actor's process."""

    def __init__(self, path: str, part: Part, model: ModelConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        self._engine: Engine = open_engine(path, part, model)
        on_gpu = part.name == "vllm" and torch.cuda.is_available()
        self._device = "cuda" if on_gpu else "cpu"  # from where vLLM hands them to its own processes
        self._lora = model.lora
        self._dtype: torch.dtype = getattr(torch, model.dtype)
        self._adapted: Any = None

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self._engine.generate(prompt_ids, sampling)

    async def load(self, version: int, base: str | None, *parcels: Parcel) -> None:
        weights: WeightSource = _Unpacked(parcels)
        if base is not None:
            weights = await asyncio.to_thread(self._merged, base, weights)
        await self._engine.load_weights(_On(self._device, weights), version)

    async def sleep(self) -> None:
        """Leave the device to the learner rank beside it until the next `load`. An engine that cannot stays."""
        if isinstance(self._engine, Sleeper):
            await self._engine.sleep()
        torch.cuda.empty_cache()  # what tensors on their way took; nothing, without a GPU

    async def close(self) -> None:
        await self._engine.close()

    def _merged(self, base: str, adapters: WeightSource) -> WeightSource:
        if self._adapted is None:
            assert self._lora is not None, "adapters come of a recipe with model.lora"
            self._adapted = load_model(base)
            add_adapters(self._adapted, self._lora, seed=0)  # every one is overwritten
        fill_adapters(self._adapted, adapters)
        return ModelWeights(self._adapted, self._dtype)


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """Iterated as often as the engine likes; one tensor at a time is anywhere but in the object store."""

    parcels: Sequence[Parcel]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return unpack(self.parcels)


@dataclass(frozen=True, slots=True)
class _On:
    """The same, on a device."""

    device: str
    weights: WeightSource

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights:
            yield name, tensor.to(self.device)
