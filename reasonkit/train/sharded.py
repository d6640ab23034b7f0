"""A learner of several processes of this machine, a rank and a device each: FSDP2 over NCCL, on CPUs over gloo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from reasonkit.engines import WeightSource
from reasonkit.errors import ConfigError
from reasonkit.recipe import Recipe
from reasonkit.train.learner import Learner, LocalLearner, StepStats
from reasonkit.train.mesh import check_parallel, open_mesh
from reasonkit.train.packing import Batch
from reasonkit.train.rank import Rank
from reasonkit.train.ranks import STALLED, Ranks

T = TypeVar("T")


def open_learner(recipe: Recipe, path: Path | str) -> Learner:
    """The learner of a recipe on this machine: on all its GPUs, on as many ranks as `cluster.learners` says, or in
    this very process where one rank does."""
    devices = torch.cuda.device_count()
    device = "cuda" if devices else "cpu"
    count = recipe.cluster.learners or max(devices, 1)
    check_parallel(count, recipe.cluster.parallel)
    if devices and count > devices:
        raise ConfigError(
            f"cluster.learners ({count}) is more than this machine's {devices} GPUs",
            f"--set cluster.learners={devices}, or run it on more machines: reasonkit slurm",
        )
    if count == 1:
        return LocalLearner.from_recipe(recipe, path, device)
    threads = 0 if devices else max(torch.get_num_threads() // count, 1)
    return ShardedLearner.from_recipe(recipe, path, count, device, threads=threads)


class ShardedLearner:
    """Implements Learner. The work waits in a thread, so that the controller's loop stays alive."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="learner")

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        path: Path | str,
        count: int,
        device: str = "cpu",
        *,
        threads: int = 0,
        stalled: float = STALLED,
    ) -> Self:
        """The learner of a recipe, of `count` ranks, on the model and tokenizer at `path`."""
        return cls(Ranks(count, make_rank, recipe, str(path), device, threads=threads, stalled=stalled))

    async def step(self, batch: Batch) -> StepStats:
        return StepStats((await self._in_worker(lambda: self._ranks.call("step", batch)))[0])

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]:
        parts = await self._in_worker(
            lambda: self._ranks.call("logprobs", batch.samples, reference=reference)
        )
        return _merged(parts, len(batch.samples))

    async def values(self, batch: Batch) -> list[Tensor]:
        return _merged(
            await self._in_worker(lambda: self._ranks.call("values", batch.samples)), len(batch.samples)
        )

    def weights(self) -> WeightSource:
        return _Gathered(self._ranks)

    async def rehearse(self, longest: int) -> None:
        await self._in_worker(lambda: self._ranks.call("rehearse", longest))

    async def save(self, path: Path, state: Mapping[str, Any]) -> None:
        await self._in_worker(lambda: self._ranks.call("save", path, dict(state)))

    async def saved(self) -> None:
        await self._in_worker(lambda: self._ranks.call("saved"))

    async def load(self, path: Path) -> None:
        await self._in_worker(lambda: self._ranks.call("load", path))

    async def close(self) -> None:
        try:
            if not self._ranks.broken:
                await self.saved()
        finally:
            await self._in_worker(self._ranks.close)
            self._worker.shutdown()

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


class RankProcess(Rank):
    """A rank as its process is asked for it: tensors travel through a pipe."""

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights():
            yield name, tensor.detach().cpu()


def make_rank(
    rank: int, count: int, address: str, tick: Callable[[], None], recipe: Recipe, path: str, device: str
) -> Rank:
    mesh = open_mesh(rank, count, device=device, address=address, parallel=recipe.cluster.parallel, tick=tick)
    return RankProcess.from_recipe(recipe, path, mesh)


class _Gathered:
    """The weights as they are when iterated, put together from the ranks' shards one tensor at a time."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._ranks.stream("gathered")


def _merged(parts: Sequence[Mapping[int, Tensor]], count: int) -> list[Tensor]:
    """Every rank's share, in the order of the samples. Neighbours say the same."""
    whole = {place: numbers for part in parts for place, numbers in part.items()}
    return [whole[place] for place in range(count)]
