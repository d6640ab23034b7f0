"""Learners: what the controller trains with. Here the one that lives in the controller's own process.

Its rank computes in a worker thread, so that the controller's loop stays alive meanwhile. The learner of several
processes is sharded.py; both are the same Rank.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from reasonkit.engines import WeightSource
from reasonkit.recipe import Recipe
from reasonkit.train.mesh import Mesh, open_mesh
from reasonkit.train.packing import Batch
from reasonkit.train.rank import Rank

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepStats:
    """The numbers of one optimizer update. Means are over the tokens that went through the forward pass."""

    metrics: Mapping[str, float]


class Learner(Protocol):
    """A local object, or a group of processes behind the same face."""

    async def step(self, batch: Batch) -> StepStats:
        """One optimizer update."""

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]:
        """Of every sample's scored tokens, by the current weights, or by those that the learner began with."""

    async def values(self, batch: Batch) -> list[Tensor]:
        """Of every sample's scored tokens, by the critic."""

    def weights(self) -> WeightSource: ...

    async def rehearse(self, longest: int) -> None:
        """Compute the largest batch there can be, and forget it: what does not fit into memory shows at once."""

    async def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """Copy all that resuming needs, and begin to write it to the new folder `path`, with `state` as JSON.

        `path` appears once it is whole. What goes wrong with it is raised by the next `save` or `saved`.
        """

    async def saved(self) -> None:
        """Wait until the last `save` is on disk."""

    async def load(self, path: Path) -> None:
        """Continue exactly where `save` left off. The reference stays what the learner was made with."""

    async def close(self) -> None:
        """Ends the learner. What is being saved is finished first."""


class LocalLearner:
    """Implements Learner in this process."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="learner")

    @classmethod
    def from_recipe(cls, recipe: Recipe, path: Path | str, device: str = "cpu") -> Self:
        """The learner of a recipe, on the model and tokenizer at `path`. A GPU is a mesh of one rank: FSDP also
        casts weights as they are used, once a micro-batch, and offloads them where that is asked for."""
        if device == "cpu":
            return cls(Rank.from_recipe(recipe, path, Mesh(torch.device(device))))
        with tempfile.TemporaryDirectory(prefix="reasonkit-rank-") as folder:
            mesh = open_mesh(0, 1, device=device, address=f"file://{folder}/rendezvous", parallel={})
        return cls(Rank.from_recipe(recipe, path, mesh))

    async def step(self, batch: Batch) -> StepStats:
        return StepStats(await self._in_worker(lambda: self.rank.step(batch)))

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]:
        parts = await self._in_worker(lambda: self.rank.logprobs(batch.samples, reference=reference))
        return [parts[place] for place in range(len(batch.samples))]

    async def values(self, batch: Batch) -> list[Tensor]:
        parts = await self._in_worker(lambda: self.rank.values(batch.samples))
        return [parts[place] for place in range(len(batch.samples))]

    def weights(self) -> WeightSource:
        return self.rank.weights()

    async def rehearse(self, longest: int) -> None:
        await self._in_worker(lambda: self.rank.rehearse(longest))

    async def save(self, path: Path, state: Mapping[str, Any]) -> None:
        await self._in_worker(lambda: self.rank.save(path, state))

    async def saved(self) -> None:
        await self._in_worker(self.rank.saved)

    async def load(self, path: Path) -> None:
        await self._in_worker(lambda: self.rank.load(path))

    async def close(self) -> None:
        await self._in_worker(self.rank.saved)
        self._worker.shutdown()

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
