"""Learner and engines in actors of a cluster, behind the faces that the local ones have.

    RemoteLearner   one Rank an actor; a rank that is lost ends them all (the run goes back to a checkpoint)
    RemoteEngines   one engine an actor; one that is lost is started anew, with the newest weights, and what it was
                    asked is asked again: a request decides its own draws, so the reply is the same

Where both share their GPUs, engines sleep from the moment that ranks begin to work until new weights come, or a
request: `Learner` and `Engine` say nothing of it, so whoever uses them need not know.

Weights go from the ranks to the engines without passing through the controller: rank 0 puts what all ranks gather
into Ray's object store, in parcels, and goes on; vLLM takes them from there by its own weight transfer. Left out: a
broadcast from the ranks to other machines' engines by NCCL. What is placed where is topology.py's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reasonkit.cluster import SILENT, Actor, HeadLost, Lost, put
from reasonkit.engines import Sampling, WeightSource
from reasonkit.errors import Broken, ReasonkitError
from reasonkit.recipe import Recipe
from reasonkit.records import Completion
from reasonkit.train.learner import StepStats
from reasonkit.train.lora import adapters, has_adapters
from reasonkit.train.mesh import Mesh, open_mesh
from reasonkit.train.packing import Batch
from reasonkit.train.parcels import pack
from reasonkit.train.rank import Rank
from reasonkit.train.ranks import GRACE, STALLED
from reasonkit.train.served import Parcels

LOGGER = logging.getLogger(__name__)

UPDATE = 600.0
"""Seconds in which an engine must have loaded new weights."""
RESTARTS = 3
"""How often an engine may be lost between two sets of weights, and be started again, before it is given up."""
NEWS = 30.0
"""Seconds in which a rank's death is heard of by Ray, at the latest: its partners know at once."""


class ActorRank(Rank):
    """A rank as its actor is asked for it."""

    def parcels(self) -> Parcels:
        """All ranks gather; rank 0 keeps. Of a model with adapters these alone: its base is where it was loaded."""
        adapted = has_adapters(self.model)
        references, size = [], 0
        weights = self._ticking(adapters(self.model) if adapted else self.weights())
        if self.mesh.rank:
            deque(weights, maxlen=0)  # it takes part, and copies nothing
        for parcel in pack(weights):
            references.append(put(parcel))
            size += parcel.bytes
        base = str(Path(self.model.name_or_path or "").absolute()) if adapted else None
        return Parcels(tuple(references), size, base)

    def release(self) -> None:
        """What nothing of the model is in any more goes back to the GPU, for whoever is beside it."""
        torch.cuda.empty_cache()

    def _ticking(self, weights: WeightSource) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self.mesh.tick()
            yield name, tensor


def make_rank(
    tick: Callable[[], None], rank: int, count: int, address: str, recipe: Recipe, path: str, threads: int
) -> ActorRank:
    """In the actor's process."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if count == 1 and device == "cpu":
        return ActorRank.from_recipe(recipe, path, Mesh(torch.device("cpu"), tick=tick))
    parallel = dict(recipe.cluster.parallel)
    try:
        mesh = open_mesh(rank, count, device=device, address=address, parallel=parallel, tick=tick)
    except torch.distributed.DistNetworkError as error:  # somebody took the port that was free, say
        raise Broken(f"rank {rank} of {count} cannot meet the others at {address}: {error}") from error
    return ActorRank.from_recipe(recipe, path, mesh)


class RemoteLearner:
    """Implements Learner over actors that hold a rank each."""

    def __init__(
        self,
        actors: Sequence[Actor],
        *,
        alone: Callable[[], Awaitable[None]] | None = None,
        stalled: float = STALLED,
        silent: float = SILENT,
    ) -> None:
        """Of actors that are made. Once `alone` has returned, they have their devices to themselves; None where
        they always have. `stalled` is how long no rank may tick, `silent` how long one may give no sign of life."""
        self._actors = list(actors)
        self._alone = alone
        self._stalled = stalled
        self._silent = silent
        self._lost: ReasonkitError | None = None

    @classmethod
    async def on(
        cls,
        actors: Sequence[Actor],
        recipe: Recipe,
        path: Path | str,
        threads: int,
        alone: Callable[[], Awaitable[None]] | None = None,
    ) -> RemoteLearner:
        """The learner of a recipe, on the model and tokenizer at `path`."""
        if alone is not None:
            await alone()
        address = await actors[0].address()
        given = (len(actors), address, recipe, str(Path(path).resolve()), threads)
        making = [
            asyncio.ensure_future(actor.make(make_rank, rank, *given)) for rank, actor in enumerate(actors)
        ]
        learner = cls(actors, alone=alone)
        await learner._all_of(making, asyncio.wait(making, return_when=asyncio.FIRST_EXCEPTION))
        return learner

    async def step(self, batch: Batch) -> StepStats:
        return StepStats((await self._work("step", put(batch)))[0])

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]:
        parts = await self._work("logprobs", put(batch.samples), reference=reference)
        return _merged(parts, len(batch.samples))

    async def values(self, batch: Batch) -> list[Tensor]:
        return _merged(await self._work("values", put(batch.samples)), len(batch.samples))

    def weights(self) -> WeightSource:
        return RemoteWeights(self)

    async def rehearse(self, longest: int) -> None:
        await self._work("rehearse", longest)

    async def save(self, path: Path, state: Mapping[str, Any]) -> None:
        await self._all("save", path.resolve(), dict(state))

    async def saved(self) -> None:
        await self._all("saved")

    async def load(self, path: Path) -> None:
        await self._work("load", path.resolve())

    async def parcels(self) -> Parcels:
        """A copy of the weights. Where devices are shared, the engines may take them back from here on."""
        gathered: Parcels = (await self._all("parcels"))[0]
        if self._alone is not None:
            await self._all("release")
        return gathered

    async def close(self) -> None:
        try:
            if self._lost is None:
                await self._all("saved")
        finally:
            for actor in self._actors:
                actor.kill()

    async def _work(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """What takes memory beside the model's own."""
        if self._alone is not None:
            await self._alone()
        return await self._all(method, *arguments, **options)

    async def _all(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """The method's result on every rank. All are told before one is awaited: all hear the same order."""
        if self._lost is not None:
            raise self._lost
        calls = [asyncio.ensure_future(actor.begin(method, *arguments, **options)) for actor in self._actors]
        await self._all_of(calls, self._moving(calls, method))
        return [call.result() for call in calls]

    async def _all_of(self, calls: Sequence[asyncio.Future[Any]], over: Coroutine[Any, Any, Any]) -> None:
        """`over` returns when all calls are, or when one has failed: then all of the learner has."""
        try:
            await over
            if errors := [error for call in calls if call.done() and (error := call.exception())]:
                raise await self._cause(errors, calls)
        except ReasonkitError as error:
            self._lost = error
            for actor in self._actors:  # the others would wait for it in a collective, for ever
                actor.kill()
            raise
        finally:
            for call in calls:
                call.cancel()

    async def _cause(
        self, errors: Sequence[BaseException], calls: Sequence[asyncio.Future[Any]]
    ) -> BaseException:
        """Whose partner dies fails too, and is often heard of before the death is, which explains it."""
        lost = [error for error in errors if isinstance(error, Lost)]
        if not lost:
            silent = [actor for actor, call in zip(self._actors, calls, strict=True) if not call.done()]
            asked = (actor.pulse(min(NEWS, self._silent)) for actor in silent)
            signs = await asyncio.gather(*asked, return_exceptions=True)
            lost = [sign for sign in signs if isinstance(sign, Lost)]
        return [*lost, *errors][0]

    async def _moving(self, calls: Sequence[asyncio.Future[Any]], method: str) -> None:
        ticks: list[int] = []
        moved = time.monotonic()
        every = min(self._silent, self._stalled) / 4
        while True:
            done, waiting = await asyncio.wait(calls, timeout=every, return_when=asyncio.FIRST_EXCEPTION)
            if not waiting or any(call.exception() for call in done):
                return
            now = list(await asyncio.gather(*(actor.pulse(self._silent) for actor in self._actors)))
            if now != ticks:
                ticks, moved = now, time.monotonic()
            elif time.monotonic() - moved > self._stalled:
                behind = min(
                    (place for place, call in enumerate(calls) if not call.done()), key=ticks.__getitem__
                )
                raise Lost(
                    f"{self._actors[behind]} has not moved on for {self._stalled:g} s in {method} "
                    f"(ticks of all ranks: {ticks})",
                    "look at that process with py-spy or at its device",
                )


@dataclass(slots=True)
class RemoteWeights:
    """The weights as they are when they are collected; in this process there are none to iterate over."""

    learner: RemoteLearner
    bytes: int = 0
    """Known once they are collected."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        raise TypeError("the weights are in other processes; hand them to RemoteEngines")


@dataclass(frozen=True, eq=False, slots=True)
class _Delivery:
    """Weights for all engines. Each is one of its own: a warm-up has many of version 0."""

    parcels: Parcels
    version: int


@dataclass(eq=False, slots=True)
class _Seat:
    """A place for an engine, whichever process fills it at the moment."""

    number: int
    actor: Actor
    holds: _Delivery | None = None
    in_flight: int = 0
    losses: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """The process that fills it is of no use any more."""
    mending: asyncio.Task[None] | None = None
    watching: asyncio.Task[None] | None = None


Place = Callable[[int], Awaitable[Actor]]
"""Starts a process for the engine of that number, and makes the engine in it."""


class RemoteEngines:
    """Implements Engine over actors that hold an engine each."""

    def __init__(self, actors: Sequence[Actor], place: Place, *, silent: float = SILENT) -> None:
        """Of actors that are made. `silent` is how long an engine with work may give no sign of life."""
        self._place = place
        self._silent = silent
        self._seats = [_Seat(number, actor) for number, actor in enumerate(actors)]
        self._newest: _Delivery | None = None
        self._asleep = False
        self._turning = asyncio.Lock()
        """Held by who puts the engines to sleep or wakes them."""
        self._closed = False

    @property
    def actors(self) -> list[Actor]:
        return [seat.actor for seat in self._seats]

    @property
    def lost(self) -> Lost | None:
        """Why an engine could not be brought back."""
        ended = [seat.mending for seat in self._seats if seat.mending is not None and seat.mending.done()]
        errors = [task.exception() for task in ended if not task.cancelled()]
        return next((error for error in errors if isinstance(error, Lost)), None)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """By the engine that has the least to do; by another one, or the same started anew, where that is lost."""
        if self._asleep:
            await self._wake()
        while True:
            seat = await self._free()
            with contextlib.suppress(Lost):
                completion: Completion = await self._on(
                    seat, lambda actor: actor.call("generate", tuple(prompt_ids), sampling)
                )
                return completion

    async def load_weights(self, weights: WeightSource, version: int) -> None:
        """Replaces the weights of all engines at once, requests in flight or not."""
        started = time.perf_counter()
        parcels = weights if isinstance(weights, Parcels) else await self.collect(weights)
        async with self._turning:
            self._newest = delivery = _Delivery(parcels, version)
            await self._deliver(delivery)
        spent = time.perf_counter() - started
        LOGGER.debug(
            "weights of version %d to %d engines: %d bytes in %.2f s, %.3f GB/s each",
            version, len(self._seats), parcels.bytes, spent, parcels.bytes / 1e9 / spent,
        )  # fmt: skip

    async def sleep(self) -> None:
        """Leave the devices to those who share them, until there are new weights or a request. Nothing is in
        flight: sampling is over when ranks work (`max_staleness` is 0 where devices are shared)."""
        async with self._turning:
            if not self._asleep:
                await asyncio.gather(*(self._put_to_sleep(seat) for seat in self._seats))
                self._asleep = True

    async def collect(self, weights: WeightSource) -> Parcels:
        """A copy of the weights, which their learner may leave behind."""
        if isinstance(weights, RemoteWeights):
            gathered = await weights.learner.parcels()
            weights.bytes = gathered.bytes
            return gathered
        parcels = await asyncio.to_thread(lambda: list(pack(weights)))
        return Parcels(tuple(put(parcel) for parcel in parcels), sum(parcel.bytes for parcel in parcels))

    async def close(self) -> None:
        """Ends the engines' processes. Requests in flight fail."""
        self._closed = True
        for seat in self._seats:
            for task in (seat.mending, seat.watching):
                if task is not None:
                    task.cancel()
        ending = [seat.actor.call("close", deadline=GRACE * 5) for seat in self._seats]
        await asyncio.gather(*ending, return_exceptions=True)  # what does not end by itself is ended
        for seat in self._seats:
            seat.actor.kill()

    async def _wake(self) -> None:
        """A request came before new weights: those of the last time again."""
        async with self._turning:
            if self._asleep:
                assert self._newest is not None, "a learner's first weights come before requests"
                self._newest = again = replace(self._newest)
                await self._deliver(again)

    async def _deliver(self, delivery: _Delivery) -> None:
        await asyncio.gather(*(self._renew(seat, delivery) for seat in self._seats))
        self._asleep = False

    async def _put_to_sleep(self, seat: _Seat) -> None:
        while True:
            if seat.mending is not None:
                await asyncio.shield(seat.mending)
            with contextlib.suppress(Lost):
                await self._on(seat, lambda actor: actor.call("sleep", deadline=UPDATE))
                return

    async def _free(self) -> _Seat:
        """Raises where all are given up."""
        while True:
            if self._closed:
                raise ReasonkitError("the engines are closed", "start others")
            if there := [seat for seat in self._seats if seat.mending is None]:
                return min(there, key=lambda seat: seat.in_flight)
            mending = [seat.mending for seat in self._seats if seat.mending is not None]
            under_way = [task for task in mending if not task.done()]
            if not under_way:
                mending[0].result()
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    async def _on(self, seat: _Seat, ask: Callable[[Actor], Awaitable[Any]]) -> Any:
        """What the seat's process answers. If it is lost before, it is being replaced when that is raised."""
        actor = seat.actor
        seat.in_flight += 1
        if seat.watching is None or seat.watching.done():
            seat.watching = asyncio.create_task(self._watch(seat, actor))
        lost = asyncio.ensure_future(seat.lost.wait())
        asked = asyncio.ensure_future(ask(actor))
        try:
            await asyncio.wait({asked, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise Lost(f"{actor} was lost with {seat.in_flight} requests in flight")
            return asked.result()
        except Lost as error:
            self._mend(seat, actor, error)
            raise
        finally:
            asked.cancel()
            lost.cancel()
            seat.in_flight -= 1

    async def _watch(self, seat: _Seat, actor: Actor) -> None:
        """As long as it has work, it must give signs of life."""
        while seat.in_flight:
            try:
                await actor.pulse(self._silent)
            except Lost as lost:
                self._mend(seat, actor, lost)
                return
            await asyncio.sleep(self._silent / 4)

    async def _renew(self, seat: _Seat, delivery: _Delivery) -> None:
        while seat.holds is not delivery:
            if seat.mending is not None:
                await asyncio.shield(seat.mending)
                continue
            with contextlib.suppress(Lost):
                await self._on(seat, lambda actor: _load(actor, delivery))
                seat.holds = delivery
        seat.losses = 0

    def _mend(self, seat: _Seat, actor: Actor, lost: Lost) -> None:
        """Start the engine anew, unless that is under way, or done: news of a death may be old."""
        if seat.actor is actor and seat.mending is None and not self._closed:
            seat.mending = asyncio.create_task(self._start_anew(seat, lost))

    async def _start_anew(self, seat: _Seat, lost: ReasonkitError) -> None:
        seat.lost.set()
        if seat.watching is not None:
            seat.watching.cancel()
        while True:
            seat.actor.kill()
            seat.losses += 1
            if seat.losses > RESTARTS:
                raise Lost(
                    f"engine {seat.number} was lost {seat.losses} times without new weights in between; "
                    f"the last time: {lost.message}",
                    lost.hint,
                )
            LOGGER.warning(
                "%s; engine %d is started anew, and %d requests are asked again",
                lost.message, seat.number, seat.in_flight,
            )  # fmt: skip
            try:
                await self._fill(seat)
            except HeadLost:
                raise
            except ReasonkitError as error:
                lost = error
            else:
                seat.lost = asyncio.Event()
                seat.mending = None
                return

    async def _fill(self, seat: _Seat) -> None:
        """A new process, with the newest weights."""
        seat.actor = await self._place(seat.number)
        seat.holds = None
        if (newest := self._newest) is not None:
            await _load(seat.actor, newest)
            seat.holds = newest


async def _load(actor: Actor, delivery: _Delivery) -> None:
    parcels = delivery.parcels
    await actor.call("load", delivery.version, parcels.base, *parcels.references, deadline=UPDATE)


def _merged(parts: Sequence[Mapping[int, Tensor]], count: int) -> list[Tensor]:
    """Every rank's share, in the order of the samples. Neighbours say the same."""
    whole = {place: numbers for part in parts for place, numbers in part.items()}
    return [whole[place] for place in range(count)]
