"""Where a run's learner and engine live: in this process, in processes of this machine, or in actors of a cluster.

    RAY_ADDRESS is set, or cluster.engines is at least 1    actors: cluster.learners ranks, cluster.engines engines
    vLLM on a machine with GPUs                             the same: else it would leave a learner no room
    none of these                                           the engine here, the learner as sharded.py opens it

In a cluster with GPUs a rank takes one of its own. Engines take others (`cluster.colocate: false`), or sit beside
ranks and see theirs: then one of the two works while the other one waits, and engines sleep meanwhile (remote.py).

Only the two ends differ; whatever lies between them does not know. What a recipe asks for and nobody can honour is
refused here, before anything is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reasonkit.cluster import ADDRESS, Actor, Cluster, Lost, Needs, Where, gpus
from reasonkit.engines import Engine, WeightSource, open_engine
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.recipe import Part, Recipe
from reasonkit.rundir import RunDir
from reasonkit.train.learner import Learner
from reasonkit.train.mesh import check_parallel
from reasonkit.train.remote import RemoteEngines, RemoteLearner
from reasonkit.train.served import ServedEngine
from reasonkit.train.sharded import open_learner
from reasonkit.train.supervised import is_supervised

LOGGER = logging.getLogger(__name__)

SHARED_MEMORY = 0.4
"""Of a GPU, for an engine beside a learner rank, unless its option `memory` says otherwise. The rank's weights and
optimizer stay while the engine samples."""


def uses_cluster(recipe: Recipe) -> bool:
    if ADDRESS in os.environ or recipe.cluster.engines > 0:
        return True
    return recipe.rollout.engine.name == "vllm" and gpus() > 0


def check_topology(recipe: Recipe) -> None:
    """Refuses what the recipe's keys ask for together and nobody can honour."""
    rollout, cluster = recipe.rollout, recipe.cluster
    if rollout.max_staleness and recipe.train.refill:
        raise ConfigError(
            f"train.refill ({recipe.train.refill}) draws records when a batch is judged, but with "
            f"rollout.max_staleness ({rollout.max_staleness}) later batches are drawn before",
            "--set train.refill=0   or   --set rollout.max_staleness=0",
        )
    check_parallel(cluster.learners, cluster.parallel)  # 0, as many as there are, is divided by anything
    if not uses_cluster(recipe):
        return
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


@dataclass(frozen=True, slots=True)
class Layout:
    """What a cluster is asked for, and who sits where."""

    places: list[Needs]
    ranks: list[int]
    """The place of each learner rank."""
    engines: list[int]
    """The place of each engine."""
    shared: bool
    """Whether engines see the GPUs of the ranks at their place, and take none."""
    gpus: bool


@dataclass(slots=True)
class ClusterTopology(Topology):
    cluster: Cluster = field(kw_only=True)
    layout: Layout = field(kw_only=True)
    tell: Callable[[list[dict[str, Any]]], None] = field(kw_only=True)
    """Hears what runs where whenever that changes."""
    placed: list[dict[str, Any]] = field(default_factory=list)
    remote: RemoteEngines | None = None
    _ranks: list[Actor] = field(default_factory=list)

    async def engine(self, path: Path) -> Engine:
        layout, part = self.layout, self.recipe.rollout.engine
        if layout.shared:
            await self._start_ranks()  # whose GPUs are known then
            part = beside_ranks(part)
        folder = str(path.resolve())

        async def place(number: int) -> Actor:
            index, name = layout.engines[number], f"engine-{number}"
            takes, shares = (Needs(), self._gpus_at(index)) if layout.shared else (None, ())
            actor = await self.cluster.place(index, name, waits=True, takes=takes, shares=shares)
            self._note(name, await actor.started())
            engine = named(part, name)
            await actor.make(ServedEngine, folder, engine, self.recipe.model, self._threads_each())
            return actor

        actors = await asyncio.gather(*(place(number) for number in range(len(layout.engines))))
        self.remote = engines = RemoteEngines(actors, place)
        self.detach = engines.collect
        self.stack.push_async_callback(engines.close)
        return engines

    async def learner(self, recipe: Recipe, path: Path) -> Learner:
        await self._start_ranks()
        alone = self.remote.sleep if self.layout.shared and self.remote is not None else None
        learner = await RemoteLearner.on(self._ranks, recipe, path, self._threads_each(), alone)
        self.stack.push_async_callback(learner.close)
        return learner

    async def _start_ranks(self) -> None:
        if self._ranks:
            return
        takes = Needs(gpus=1 if self.layout.gpus else 0)
        self._ranks = [
            await self.cluster.place(place, f"learner-{rank}", waits=False, takes=takes)
            for rank, place in enumerate(self.layout.ranks)
        ]
        started = await asyncio.gather(*(actor.started() for actor in self._ranks))
        for actor, where in zip(self._ranks, started, strict=True):
            self._note(actor.name, where)

    def _gpus_at(self, place: int) -> list[str]:
        at = [
            actor.where for actor, index in zip(self._ranks, self.layout.ranks, strict=True) if index == place
        ]
        return [gpu for where in at if where is not None for gpu in where.gpus]

    def _threads_each(self) -> int:
        """On a CPU all processes may be on one machine."""
        layout = self.layout
        return self.threads if layout.gpus else max(self.threads // len([*layout.ranks, *layout.engines]), 1)

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
        layout = lay_out(recipe, learners, engines, available)
        fewer = "set cluster.learners and cluster.engines to that"
        cluster = Cluster(layout.places, folder.path / "logs", fewer=fewer)
        stack.callback(cluster.close)
        LOGGER.info(
            "cluster: %d learner ranks and %d engines%s",
            learners, engines, " on their GPUs" if layout.shared else "",
        )  # fmt: skip
        topology = ClusterTopology(
            recipe,
            threads,
            stack,
            cluster=cluster,
            layout=layout,
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
    each = _gpus_an_engine(recipe) if available else 0
    if each and _colocates(recipe):
        return _counts_shared(recipe, available, each)
    engines = cluster.engines or 1
    learners = cluster.learners or max(available - engines * each, 1)
    check_parallel(learners, cluster.parallel)
    if available and learners + engines * each > available:
        raise ConfigError(
            f"cluster.learners ({learners}) and cluster.engines ({engines}, {each} GPUs each) take "
            f"{learners + engines * each} GPUs, but the cluster has {available}",
            f"--set cluster.learners={max(available - engines * each, 1)}   or more nodes",
        )
    return learners, engines


def _counts_shared(recipe: Recipe, available: int, each: int) -> tuple[int, int]:
    cluster, rollout = recipe.cluster, recipe.rollout
    if rollout.max_staleness:
        raise ConfigError(
            f"cluster.colocate ({str(cluster.colocate).lower()}) lets learners and engines take turns on the "
            f"cluster's {available} GPUs, but rollout.max_staleness ({rollout.max_staleness}) lets them work at "
            "the same time",
            "--set cluster.colocate=false   or   --set rollout.max_staleness=0",
        )
    learners = cluster.learners or available
    engines = cluster.engines or learners // each
    check_parallel(learners, cluster.parallel)
    if learners > available:
        raise ConfigError(
            f"cluster.learners ({learners}) take a GPU each, but the cluster has {available}",
            f"--set cluster.learners={available}   or more nodes",
        )
    if not engines or engines * each > learners:
        raise ConfigError(
            f"cluster.engines ({engines or 1}, {each} GPUs each) sit on {(engines or 1) * each} GPUs of learner "
            f"ranks, of which there are {learners} (cluster.learners)",
            f"--set cluster.engines={learners // each}" if learners >= each
            else f"--set rollout.engine.vllm.tensor_parallel={learners}",
        )  # fmt: skip
    return learners, engines


def describe(recipe: Recipe) -> str:
    """Where learner and engines are to be, as far as the recipe alone says it."""
    cluster, staleness = recipe.cluster, recipe.rollout.max_staleness
    if not uses_cluster(recipe):
        return "this machine, without a cluster"
    ranks = f"{cluster.learners} learner ranks" if cluster.learners else "learner ranks on all GPUs left"
    each = _gpus_an_engine(recipe)
    if not each or not _colocates(recipe):
        return f"{ranks}, {cluster.engines or 1} engines apart from them"
    engines = cluster.engines or (cluster.learners // each if cluster.learners else "as many as fit")
    turns = f"{ranks}, engines on the same GPUs, {each} each: {engines}"
    if staleness:
        return f"{turns}; refused where there are GPUs, as rollout.max_staleness is {staleness}"
    return f"{turns}; asleep while ranks work"


def lay_out(recipe: Recipe, learners: int, engines: int, available: int) -> Layout:
    """Engines that share sit at one place with the ranks whose GPUs they see: a place is on one node."""
    each = _gpus_an_engine(recipe) if available else 0
    rank, on_gpus = Needs(gpus=1 if available else 0), available > 0
    if each and _colocates(recipe):
        alone = learners - engines * each
        places = [Needs(cpus=each + 1, gpus=each)] * engines + [rank] * alone
        ranks = [number // each for number in range(engines * each)] + list(range(engines, engines + alone))
        return Layout(places, ranks, list(range(engines)), True, on_gpus)
    places = [rank] * learners + [Needs(gpus=each)] * engines
    return Layout(places, list(range(learners)), list(range(learners, learners + engines)), False, on_gpus)


def beside_ranks(part: Part) -> Part:
    """The engine as it is to be where it shares its GPUs."""
    if part.name != "vllm":
        return part
    return replace(part, options={"sleeps": True, "memory": SHARED_MEMORY, **part.options})


def named(part: Part, name: str) -> Part:
    """The engine as its errors are to call it, where it can be told."""
    return replace(part, options={"name": name, **part.options}) if part.name == "vllm" else part


def _colocates(recipe: Recipe) -> bool:
    """Those that learn from given replies have an engine that validates alone: it has a GPU of its own."""
    return recipe.cluster.colocate and not is_supervised(recipe)


def _gpus_an_engine(recipe: Recipe) -> int:
    options = recipe.rollout.engine.options
    if recipe.rollout.engine.name == "vllm":
        return int(options.get("tensor_parallel", 1))
    return 1 if str(options.get("device", "cpu")).startswith("cuda") else 0
