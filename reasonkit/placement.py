"""Where evaluation and filtering load their models: in this process, or as engines that are actors of a cluster.

    one GPU or none, and no RAY_ADDRESS        one engine, in this process
    more GPUs, --engines, or RAY_ADDRESS       an engine for every --tp GPUs, each a process, on any node with room

Models that are fewer than the engines run side by side and share them out, so that one model has several copies;
models that are more take an engine each, and the next in line takes the engine of the one that ends. A copy is
loaded once for all tasks. A request decides its own draws, so it does not matter which copy answers it: one that is
lost is started anew, and what it was asked is asked again. Training places its processes by its recipe
(train/topology.py); models behind an API take no place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reasonkit.cluster import ADDRESS, Actor, Cluster, Needs, gpus
from reasonkit.cluster_host import VISIBLE
from reasonkit.engines import Engine, Sampling
from reasonkit.errors import UsageError
from reasonkit.evaluate.run import Opener
from reasonkit.models import FoundModel, load_engine, open_model
from reasonkit.records import Completion

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True, slots=True)
class Places:
    """How many engines there may be at once, and what each takes."""

    engines: int = 1
    tensor_parallel: int = 1
    on_gpus: bool = False
    actors: bool = False
    """Whether they are processes of their own."""

    def share(self, models: Sequence[FoundModel]) -> list[FoundModel]:
        """The models, each with the number of engines that load it."""
        loaded = [found for found in models if found.folder is not None]
        each, more = divmod(self.engines, max(len(loaded), 1))
        copies = {found.label: max(each + (turn < more), 1) for turn, found in enumerate(loaded)}
        return [
            replace(found, engines=copies[found.label], tensor_parallel=self.tensor_parallel)
            if found.folder is not None
            else found
            for found in models
        ]

    def at_once(self, models: Sequence[FoundModel]) -> int:
        """How many of the models are evaluated side by side."""
        if not self.actors:
            return 1
        loaded = sum(found.folder is not None for found in models)
        return self.engines if loaded > self.engines else max(len(models), 1)


def find_places(
    given: str | None, tensor_parallel: int, engines: int | None, models: Sequence[FoundModel]
) -> Places:
    """What the flags --gpus, --tp and --engines come to on this machine, or on the cluster of RAY_ADDRESS."""
    if all(found.folder is None for found in models):
        return Places()
    for found in models:
        if tensor_parallel > 1 and found.engine == "transformers":
            raise UsageError(
                f"--tp {tensor_parallel} splits a model over GPUs, which the transformers engine that loads "
                f"'{found.label}' cannot",
                f"-m vllm:{found.text.removeprefix('hf:')}",
            )
    available = _available(given)
    most = available // tensor_parallel if available else engines or 1
    if available and (engines or 1) > most:
        raise UsageError(
            f"--engines {engines or 1} with --tp {tensor_parallel} take {(engines or 1) * tensor_parallel} GPUs, "
            f"and {available} are to be used",
            f"--engines {max(most, 1)}, a smaller --tp or more --gpus",
        )
    count = engines or most
    return Places(count, tensor_parallel, available > 0, ADDRESS in os.environ or count > 1)


def _available(given: str | None) -> int:
    """How many GPUs to use: all that are there, the first so many, or those of this machine that are named."""
    if given is None:
        return _there()
    if not _RANGES.fullmatch(given) or given == "0":
        raise UsageError(f"--gpus '{given}' is neither a number nor a list", "--gpus 4, or --gpus 0-3,6")
    if given.isdecimal():
        wanted = int(given)
    elif ADDRESS in os.environ:
        raise UsageError(
            f"--gpus {given} names GPUs of one machine, but {ADDRESS} is set",
            "--gpus 8 takes that many of it",
        )
    else:
        numbers = _numbers(given)
        wanted = len(numbers)
        os.environ[VISIBLE] = ",".join(map(str, numbers))
    there = _there()
    if wanted > there:
        raise UsageError(f"--gpus {given} asks for {wanted} GPUs, and {there} are there", "reasonkit doctor")
    return wanted


def _there() -> int:
    import torch

    return gpus() if ADDRESS in os.environ else torch.cuda.device_count()


def _numbers(ranges: str) -> list[int]:
    """`0-2,5` as 0, 1, 2, 5."""
    numbers: dict[int, None] = {}
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return list(numbers)


@contextlib.contextmanager
def placed(places: Places, logs: Path) -> Iterator[Opener]:
    """What opens models there. `logs` is where processes of their own write what they print."""
    if not places.actors:
        yield open_model
        return
    needs = [Needs(gpus=places.tensor_parallel if places.on_gpus else 0)] * places.engines
    cluster = Cluster(needs, logs, fewer="set --engines and --tp to that")
    try:
        yield partial(open_model, load=_Placed(cluster, places).load)
    finally:
        cluster.close()


class _Placed:
    """The places of a cluster, and who has them at the moment."""

    def __init__(self, cluster: Cluster, places: Places) -> None:
        import torch

        self._cluster = cluster
        self._free = list(range(places.engines))
        # On a CPU all of them may be on one machine.
        self._threads = 0 if places.on_gpus else max(torch.get_num_threads() // places.engines, 1)

    @contextlib.asynccontextmanager
    async def load(self, found: FoundModel, in_flight: int) -> AsyncIterator[Engine]:
        from reasonkit.train.remote import RemoteEngines  # seconds, for what training needs of it

        assert found.folder is not None
        here = replace(found, folder=found.folder.resolve())
        share = -(-in_flight // found.engines)
        taken, self._free = self._free[: found.engines], self._free[found.engines :]

        async def place(number: int) -> Actor:
            actor = await self._cluster.place(taken[number], f"engine-{taken[number]}", waits=True)
            await actor.started()
            await actor.make(PlacedEngine, here, share, self._threads)
            return actor

        try:
            engines = RemoteEngines(
                await asyncio.gather(*(place(number) for number in range(len(taken)))), place
            )
            try:
                yield engines
            finally:
                await engines.close()
        finally:
            self._free += taken


class PlacedEngine:
    """One copy of a found model, in its actor's process; its weights never change. `threads` at 0 leaves them to
    torch."""

    def __init__(self, found: FoundModel, in_flight: int, threads: int) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._engine = load_engine(found, in_flight)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self._engine.generate(prompt_ids, sampling)

    async def close(self) -> None:
        await self._engine.close()
