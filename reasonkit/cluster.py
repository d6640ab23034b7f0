"""Runs any object as an actor of Ray that has a place, with deadlines and named errors. Nobody else starts any.

    Cluster   joins the Ray at RAY_ADDRESS, or starts one of its own that ends with this process
    Actor     an object in a process somewhere, made and called by name; what it prints goes to the run's logs/
    Lost      a process that is dead, or silent for too long; whoever holds the actor decides what to do
    HeadLost  Ray itself is gone, and with it all actors: the run ends, and is resumed once there is a Ray again

An actor answers its pulse whatever it is busy with, so a long call is told from a stopped process without a limit
on how long work may take. Nothing is restarted by Ray: who knows what was lost places the actor anew. What runs in
actors, and what is to happen when one is lost, is their owners' business (train/remote.py); cluster_host.py is the
end of it that lies in the actor's process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from reasonkit.cluster_host import Failed, WaitingHost, tensors_as_bytes, working_actor
from reasonkit.errors import Broken, ReasonkitError
from reasonkit.ray_folder import RayFolder

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")

ADDRESS = "RAY_ADDRESS"
STARTING = 300.0
"""Seconds in which an actor's process must be there: an import from a network disk, at worst."""
MAKING = 3600.0
"""Seconds in which it must have made what it is to hold: a large model from a slow disk, compiled for its GPUs."""
RESERVING = 120.0
"""Seconds in which a cluster that has the devices gives them to us."""
PLACING = 60.0
"""Seconds in which Ray's head takes note of a new actor."""
SILENT = 60.0
"""Seconds without an answer to its pulse after which a process is taken for lost."""
HEAD_SILENT = 20.0
"""Seconds without an answer of Ray's own processes after which they are taken for lost. After a minute Ray would
end this process, without a word to anybody."""
ATTEMPTS = 5
"""How often a Ray of our own is started: one that takes over half a minute gives up, on a busy machine."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_open_telemetry": "0",
    "RAY_task_events_report_interval_ms": "0",  # its head would remember the last 100,000 calls
}


class Lost(ReasonkitError):
    """A process that the run needs is dead or silent, or of no use any more, and with it what it held."""


class HeadLost(Lost):
    """Ray is gone. This process cannot join another one: what it still holds of Ray waits for the old one."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a place takes of its node, or an actor of its place."""

    cpus: int = 1
    gpus: int = 0


class Cluster:
    """Made in the main thread: a Ray of our own ends with the thread that started it."""

    def __init__(self, needs: Sequence[Needs], logs: Path, *, fewer: str) -> None:
        """One place for each of `needs`, whole on one node. `logs` is a folder that all nodes see; `fewer` says how
        to ask for less, where there is no room for so many."""
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self._needs = list(needs)
        self._fewer = fewer
        self._logs = logs.resolve()
        self._logs.mkdir(parents=True, exist_ok=True)
        self._folder = None if os.environ.get(ADDRESS) else RayFolder()
        self._actors: list[Actor] = []
        self._group: Any = None
        self._gone: HeadLost | None = None
        try:
            _start_ray(self._needs, None if self._folder is None else self._folder.path)
            tensors_as_bytes()
            self._reserve()
        except BaseException:
            self.close()
            raise

    async def place(
        self,
        index: int,
        name: str,
        *,
        waits: bool,
        takes: Needs | None = None,
        shares: Sequence[str] = (),
    ) -> Actor:
        """A new process at place `index`, which takes all of it, or so much. One that `waits` runs its calls as
        coroutines, side by side; any other runs them one after the other in a thread. `shares` are GPUs that
        others of the place have been given, and that it sees too."""
        import ray

        if self._gone is not None:
            raise self._gone
        log = self._logs / f"{name}.log"
        start = partial(self._start, index, name, log, waits, takes or self._needs[index], list(shares))
        try:
            handle = await _aside(start, PLACING)
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise Lost(f"Ray's head has not taken {name} within {PLACING:g} s", "ray status") from error
        actor = Actor(name, handle, log)
        self._actors.append(actor)
        return actor

    def _start(self, index: int, name: str, log: Path, waits: bool, takes: Needs, shares: list[str]) -> Any:
        """Blocks until Ray's head has heard of it."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options: dict[str, Any] = {
            "name": f"{name}-{os.getpid()}-{len(self._actors)}",
            "num_cpus": takes.cpus,
            "num_gpus": takes.gpus,
            "max_restarts": 0,
            "max_concurrency": 10_000 if waits else 1,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=index
            ),
        }
        kind = ray.remote(WaitingHost) if waits else working_actor()
        environment = {
            variable: os.environ[variable]
            for variable in ("OMP_NUM_THREADS", "PYTHONPATH", "REASONKIT_DEBUG")
            if variable in os.environ
        }
        return kind.options(**options).remote(str(log), str(Path.cwd()), list(sys.path), environment, shares)

    async def watch(self) -> None:
        """Runs until Ray's own processes, on its head and on this machine, cannot be reached: a HeadLost."""
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined, unused-ignore]

        context = ray.get_runtime_context()
        head = GcsClient(address=context.gcs_address)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call, unused-ignore]
        here = next(node for node in nodes if node["NodeID"] == context.get_node_id())
        host, port = here["NodeManagerAddress"], here["NodeManagerPort"]
        asked: dict[str, Callable[[], Awaitable[bool]]] = {
            f"Ray's head ({context.gcs_address})": partial(_answers, head),
            f"Ray's daemon on this machine ({host}:{port})": partial(_listens, host, port),
        }
        heard = dict.fromkeys(asked, time.monotonic())
        while True:
            for name, ask in asked.items():
                if await ask():
                    heard[name] = time.monotonic()
                elif time.monotonic() - heard[name] > HEAD_SILENT:
                    raise self._lose(f"{name} has not answered for {HEAD_SILENT:g} s")
            await asyncio.sleep(HEAD_SILENT / 10)

    def _lose(self, message: str) -> HeadLost:
        self._gone = HeadLost(message, "start Ray again" if os.environ.get(ADDRESS) else "")
        for actor in self._actors:
            actor.lost = self._gone
        # Ray would wait for its head, and then crash. The reaper that it has for this case ends its processes.
        atexit.register(_leave, self._folder)
        return self._gone

    def close(self) -> None:
        """No process of ours is left: neither actors nor, where we started it, Ray."""
        import ray

        if self._gone is not None:
            return
        for actor in self._actors:
            actor.kill()
        if ray.is_initialized():
            if self._group is not None:
                with contextlib.suppress(Exception):  # a cluster whose head is gone has no groups any more
                    ray.util.remove_placement_group(self._group)
            with _own_signals():
                ray.shutdown()
        if self._folder is not None:
            self._folder.remove()

    def _reserve(self) -> None:
        import ray
        from ray.util.placement_group import placement_group

        bundles = [{"CPU": each.cpus, **({"GPU": each.gpus} if each.gpus else {})} for each in self._needs]
        self._group = placement_group(bundles, strategy="PACK")
        if self._group.wait(RESERVING):
            return
        there = _resources()
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call, unused-ignore]
        wanted = {key: sum(bundle.get(key, 0) for bundle in bundles) for key in ("CPU", "GPU")}
        had = ", ".join(
            f"{amount:g} {key} of which {there.get(key, 0):g} are there and {free.get(key, 0):g} free"
            for key, amount in wanted.items()
            if amount
        )
        raise ReasonkitError(
            f"the cluster did not give {len(bundles)} places within {RESERVING:g} s: they take {had}",
            f"reasonkit doctor --cluster says what is there; {self._fewer}",
        )


@dataclass(frozen=True, slots=True)
class Where:
    """Where an actor runs."""

    host: str
    node: str
    pid: int
    gpus: tuple[str, ...]
    """Those that it sees, by number or UUID."""


class Actor:
    """An object in a process somewhere. `make` comes before any `call`."""

    def __init__(self, name: str, handle: Any, log: Path) -> None:
        self.name = name
        self.where: Where | None = None
        self.lost: Lost | None = None
        """Why nothing more can be heard of it."""
        self._handle = handle
        self._log = log

    async def started(self) -> Where:
        """Where the process is, once it is."""
        try:
            self.where = Where(**await self._answer(self._handle.where.remote(), "starting", STARTING))
        except BaseException:  # a process that holds nothing holds its place
            self.kill()
            raise
        return self.where

    async def address(self) -> str:
        """`tcp://host:port` of a port that is free there."""
        found: str = await self._answer(self._handle.address.remote(), "looking for a free port", SILENT)
        return found

    async def make(self, make: Callable[..., Any], *arguments: Any) -> None:
        """`make(*arguments)` there gives the object; called with `tick` as its first argument by a host that does
        not wait. One that fails at it is ended."""
        what = f"making its {make.__name__}"
        making = asyncio.ensure_future(self._answer(self._handle.make.remote(make, arguments), what, MAKING))
        try:
            while not (await asyncio.wait({making}, timeout=SILENT / 4))[0]:
                await self._answer(self._handle.pulse.remote(), what, SILENT)
            making.result()
        except BaseException:  # a process that holds nothing holds its place
            self.kill()
            raise
        finally:
            making.cancel()

    def begin(self, method: str, *arguments: Any, **options: Any) -> Awaitable[Any]:
        """Send a call off at once; calls of an actor that does not wait run in the order of their sending."""
        ref = self._handle.call.remote(method, options, *arguments)
        return self._answer(ref, method, None)

    async def call(self, method: str, *arguments: Any, deadline: float | None = None, **options: Any) -> Any:
        ref = self._handle.call.remote(method, options, *arguments)
        return await self._answer(ref, method, deadline)

    async def pulse(self, deadline: float) -> int:
        """How often what runs there has ticked. Answered at once, whatever the process is busy with."""
        ticks: int = await self._answer(self._handle.pulse.remote(), "giving a sign of life", deadline)
        return ticks

    def kill(self) -> None:
        import ray

        if ray.is_initialized() and self.lost is None:
            with contextlib.suppress(ValueError, ray.exceptions.RayError):
                ray.kill(self._handle, no_restart=True)

    def __str__(self) -> str:
        at = f" (process {self.where.pid} on {self.where.host})" if self.where else ""
        return f"{self.name}{at}"

    async def _answer(self, ref: Any, doing: str, deadline: float | None) -> Any:
        import ray

        if self.lost is not None:
            raise self.lost
        try:
            async with asyncio.timeout(deadline):
                kind, content = await ref
        except TimeoutError:
            raise Lost(
                f"{self} has not answered for {deadline:g} s while {doing}",
                f"look at that process with py-spy, and at {self._log}",
            ) from None
        except asyncio.CancelledError:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(ref, recursive=False)
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            raise Lost(
                f"{self} ended while {doing}: {_first_line(error)}", f"its last words are in {self._log}"
            ) from error
        if kind == "failed":
            raise _as_raised(self, doing, content)
        return content


def put(value: Any) -> Any:
    """Into this node's object store; whoever gets the reference as an argument of a call sees the value."""
    import ray

    return ray.put(value)


def get(reference: Any) -> Any:
    """The value of `put`. Blocks until it is here."""
    import ray

    return ray.get(reference)


def gpus() -> int:
    """How many the cluster that RAY_ADDRESS names, or else this machine, has for us."""
    if not os.environ.get(ADDRESS):
        import torch

        return torch.cuda.device_count()
    import ray

    with _own_signals():
        ray.init(address=os.environ[ADDRESS], log_to_driver=False, logging_level=logging.ERROR)
        try:
            return int(_resources().get("GPU", 0))
        finally:
            ray.shutdown()


async def _aside(work: Callable[[], T], deadline: float) -> T:
    """In a thread that may hang: neither the event loop waits for it, nor the interpreter when it ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[[Any], None], what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be over
            loop.call_soon_threadsafe(lambda: None if done.done() else how(what))

    def carry_out() -> None:
        try:
            tell(done.set_result, work())
        except Exception as error:  # for whoever waits
            tell(done.set_exception, error)

    threading.Thread(target=carry_out, daemon=True).start()
    async with asyncio.timeout(deadline):
        return await done


async def _answers(head: Any) -> bool:
    """Whether Ray's head does more than take connections: these the kernel takes for it."""
    import ray

    wait = HEAD_SILENT / 4
    try:
        await _aside(lambda: head.check_alive([], timeout=wait), wait * 2)
    except (TimeoutError, ray.exceptions.RayError):
        return False
    return True


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(HEAD_SILENT / 4):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # a timeout is one too
        return False
    writer.close()
    return True


def _leave(folder: RayFolder | None) -> None:
    if folder is not None:
        folder.remove()
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(1)


def _resources() -> dict[str, float]:
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
    return there


def _start_ray(needs: Sequence[Needs], folder: Path | None) -> None:
    import ray

    if ray.is_initialized():
        raise ReasonkitError("this process already has a Ray cluster", "end that one first")
    if threading.current_thread() is not threading.main_thread():
        raise ReasonkitError("Ray is started by the main thread only", "open the Cluster there")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get(ADDRESS)
    with _own_signals():
        if address:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ReasonkitError(
                    f"no Ray cluster can be joined at {ADDRESS}={address}: {_first_line(error)}",
                    f"ray status --address {address}   or unset {ADDRESS} to start one here",
                ) from error
            return
        quiet |= {
            "num_cpus": max(os.cpu_count() or 1, sum(each.cpus for each in needs)),
            "_temp_dir": str(folder),
        }
        for attempt in range(1, ATTEMPTS + 1):
            try:
                ray.init(address="local", include_dashboard=False, **quiet)
                return
            except Exception as error:  # Ray has no other name for it
                LOGGER.warning("attempt %d to start Ray failed: %s", attempt, _first_line(error))
                last = error
        raise ReasonkitError(
            f"Ray could not be started here in {ATTEMPTS} attempts: {_first_line(last)}",
            "look at what keeps this machine busy, then try again",
        ) from last


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it stays ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_raised(actor: Actor, doing: str, failed: Failed) -> ReasonkitError:
    if isinstance(failed.known, Broken):  # the process lives, for nothing
        return Lost(f"{actor} is broken: {failed.known.message}", failed.known.hint)
    if failed.known is not None:
        return failed.known
    if not failed.trace:
        return ReasonkitError(
            f"{actor} failed in {doing}: {failed.summary}",
            "check free space (df -h) and permissions (ls -ld), then resume from the last checkpoint",
        )
    return ReasonkitError(f"{actor} failed in {doing}: {failed.summary}\n{failed.trace}", "")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
