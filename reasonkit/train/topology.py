"""Where a run's learner and engine live: in this process, in processes of this machine, or in actors of a cluster.

    RAY_ADDRESS is set, or cluster.engines is at least 1    actors: cluster.learners ranks, cluster.engines engines
    neither                                                 the engine here, the learner as sharded.py opens it

Only the two ends differ; whatever lies between them does not know. What a recipe asks for and nobody can honour is
refused here, before anything is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonkit.cluster import ADDRESS, Actor, Cluster, Lost, Needs, Where, gpus
from reasonkit.engines import Engine, WeightSource, open_engine
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.recipe import Recipe
from reasonkit.rundir import RunDir
from reasonkit.train.learner import Learner
from reasonkit.train.mesh import check_parallel
from reasonkit.train.remote import RemoteEngines, RemoteLearner
from reasonkit.train.served import ServedEngine
from reasonkit.train.sharded import open_learner
from reasonkit.train.supervised import is_supervised

LOGGER = logging.getLogger(__name__)


def uses_cluster(recipe: Recipe) -> bool:
    return ADDRESS in os.environ or recipe.cluster.engines > 0


def check_topology(recipe: Recipe) -> None:
    """Refuses what the recipe's keys ask for together and nobody can honour."""
    rollout, cluster = recipe.rollout, recipe.cluster
    if rollout.max_staleness and recipe.train.refill:
        raise ConfigError(
            f"train.refill ({recipe.train.refill}) draws records when a batch is judged, but with "
            f"rollout.max_staleness ({rollout.max_staleness}) later batches are drawn before",
            "--set train.refill=0   or   --set rollout.max_staleness=0",
        )
    if not uses_cluster(recipe):
        return
    if cluster.learners:
        check_parallel(cluster.learners, cluster.parallel)
    if rollout.engine.options.get("transfer") == "nccl":
        raise ConfigError(
            "rollout.engine.vllm.transfer is nccl, but in a cluster weights come to the engines' machines through "
            "Ray, and from there to vLLM by shm or ipc",
            "leave transfer out",
        )


@dataclass(slots=True)
class Topology:
    """The two ends of a run, opened when they are needed."""

    recipe: Recipe
    threads: int
    """Of this machine; processes share them."""
    stack: contextlib.AsyncExitStack

    detach: Callable[[WeightSource], Awaitable[WeightSource]] | None = None
    """Copies weights out of the learner, where that is possible."""

    async def engine(self, path: Path) -> Engine:
        engine = open_engine(path, self.recipe.rollout.engine, self.recipe.model)
        self.stack.push_async_callback(engine.close)
        return engine

    async def learner(self, recipe: Recipe, path: Path) -> Learner:
        """`recipe` as the learner is to see it."""
        learner = open_learner(recipe, path)
        self.stack.push_async_callback(learner.close)
        return learner


@dataclass(slots=True)
class ClusterTopology(Topology):
    cluster: Cluster = field(kw_only=True)
    learners: int = field(kw_only=True)
    engines: int = field(kw_only=True)
    gpus: bool = field(kw_only=True)
    tell: Callable[[list[dict[str, Any]]], None] = field(kw_only=True)
    """Hears what runs where whenever that changes."""
    placed: list[dict[str, Any]] = field(default_factory=list)
    remote: RemoteEngines | None = None

    async def engine(self, path: Path) -> Engine:
        arguments = (
            str(path.resolve()), self.recipe.rollout.engine, self.recipe.model, self._threads_each()
        )  # fmt: skip

        async def place(number: int) -> Actor:
            actor = self.cluster.place(self.learners + number, f"engine-{number}", waits=True)
            self._note(actor.name, await actor.started())
            await actor.make(ServedEngine, *arguments)
            return actor

        actors = await asyncio.gather(*(place(number) for number in range(self.engines)))
        self.remote = engines = RemoteEngines(actors, place)
        self.detach = engines.collect
        self.stack.push_async_callback(engines.close)
        return engines

    async def learner(self, recipe: Recipe, path: Path) -> Learner:
        actors = [self.cluster.place(rank, f"learner-{rank}", waits=False) for rank in range(self.learners)]
        for actor, where in zip(
            actors, await asyncio.gather(*(actor.started() for actor in actors)), strict=True
        ):
            self._note(actor.name, where)
        learner = await RemoteLearner.on(actors, recipe, path, self._threads_each())
        self.stack.push_async_callback(learner.close)
        return learner

    def _threads_each(self) -> int:
        """On a CPU all processes may be on one machine."""
        return self.threads if self.gpus else max(self.threads // (self.learners + self.engines), 1)

    def _note(self, name: str, where: Where) -> None:
        devices = [f"GPU {each}" for each in where.gpus] or ["CPU"]
        place = {"name": name, "host": where.host, "node": where.node, "pid": where.pid, "devices": devices}
        self.placed = [*(each for each in self.placed if each["name"] != name), place]
        self.tell(self.placed)


@contextlib.asynccontextmanager
async def open_topology(recipe: Recipe, folder: RunDir) -> AsyncIterator[Topology]:
    """Closes learner, engines and cluster in this order, whatever was opened of them."""
    threads = folder.info()["threads"]
    async with contextlib.AsyncExitStack() as stack:
        if not uses_cluster(recipe):
            yield Topology(recipe, threads, stack)
            return
        available = gpus()
        learners, engines = counts(recipe, available)
        cluster = Cluster(needs(recipe, learners, engines, available), folder.path / "logs")
        stack.callback(cluster.close)
        LOGGER.info("cluster: %d learner ranks and %d engines", learners, engines)
        topology = ClusterTopology(
            recipe,
            threads,
            stack,
            cluster=cluster,
            learners=learners,
            engines=engines,
            gpus=available > 0,
            tell=lambda placed: folder.update_info(placement=placed),
        )
        try:
            async with ends_with(cluster.watch()):
                yield topology
        except Lost:
            raise
        except ReasonkitError as error:
            lost = topology.remote.lost if topology.remote is not None else None
            raise lost or error from error  # samples fail where there is no engine to ask


@contextlib.asynccontextmanager
async def ends_with(watch: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What is done within ends when the watch does, with its error."""
    doing = asyncio.current_task()
    assert doing is not None
    watching = asyncio.create_task(watch)
    watching.add_done_callback(lambda task: None if task.cancelled() else doing.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if not watching.done():
            raise
        doing.uncancel()
        watching.result()
        raise
    finally:
        watching.cancel()


def counts(recipe: Recipe, available: int) -> tuple[int, int]:
    """Learner ranks and engines, of a cluster that has so many GPUs."""
    cluster = recipe.cluster
    if available and cluster.colocate and not is_supervised(recipe):
        raise ConfigError(
            f"cluster.colocate is true, but learners and engines of a cluster do not share its {available} GPUs",
            "--set cluster.colocate=false",
        )
    engines = cluster.engines or 1
    each = _gpus_an_engine(recipe) if available else 0
    learners = cluster.learners or max(available - engines * each, 1)
    check_parallel(learners, cluster.parallel)
    if available and learners + engines * each > available:
        raise ConfigError(
            f"cluster.learners ({learners}) and cluster.engines ({engines}, {each} GPUs each) take "
            f"{learners + engines * each} GPUs, but the cluster has {available}",
            f"--set cluster.learners={max(available - engines * each, 1)}   or more nodes",
        )
    return learners, engines


def needs(recipe: Recipe, learners: int, engines: int, available: int) -> Sequence[Needs]:
    """Learners first: rank i is at place i."""
    learner = Needs(gpus=1 if available else 0)
    engine = Needs(gpus=_gpus_an_engine(recipe) if available else 0)
    return [learner] * learners + [engine] * engines


def _gpus_an_engine(recipe: Recipe) -> int:
    options = recipe.rollout.engine.options
    if recipe.rollout.engine.name == "vllm":
        return int(options.get("tensor_parallel", 1))
    return 1 if str(options.get("device", "cpu")).startswith("cuda") else 0
