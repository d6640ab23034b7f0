"""What runs in an actor's process: an object that is made and called there, and answers its pulse whatever it does.

Only cluster.py starts it. An error of what it holds travels back as a value; tensors travel as their bytes. Left
out: what any of it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonkit.errors import ReasonkitError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Failed:
    """An error as it travels: ours as it is, any other in words; what a disk refuses needs no trace."""

    known: ReasonkitError | None
    summary: str
    trace: str


def _failed(error: BaseException) -> tuple[str, Failed]:
    known = error if isinstance(error, ReasonkitError) else None
    trace = "" if isinstance(error, OSError) else traceback.format_exc()
    return "failed", Failed(known, f"{type(error).__name__}: {error}", trace)


def tensors_as_bytes() -> None:
    """How this process sends tensors. torch's own way makes an archive of each, with all that it is a view of: of
    a batch of short samples that takes seven times as long."""
    import ray
    import torch

    ray.util.register_serializer(torch.Tensor, serializer=as_bytes, deserializer=from_bytes)


def as_bytes(tensor: Tensor) -> tuple[bytes, torch.dtype, tuple[int, ...]]:
    """Its numbers alone, wherever they are."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().tobytes(), tensor.dtype, tuple(tensor.shape)


def from_bytes(sent: tuple[bytes, torch.dtype, tuple[int, ...]]) -> Tensor:
    """A tensor of its own, on the CPU."""
    import torch

    content, dtype, shape = sent
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


class _Host:
    """What runs in an actor's process, whatever it is that it holds."""

    def __init__(
        self, log: str, folder: str, path: list[str], environment: Mapping[str, str], shares: list[str]
    ) -> None:
        os.environ.update(environment)
        if shares:  # who takes none sees all of its node's
            os.environ[VISIBLE] = ",".join(shares)
        self._shares = shares
        with contextlib.suppress(
            FileNotFoundError
        ):  # a user's own modules are looked up where the run was started
            os.chdir(folder)
        sys.path += [each for each in path if each not in sys.path]
        with Path(log).open("ab", buffering=0) as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        tensors_as_bytes()
        self._object: Any = None
        self._ticks = 0

    def _tick(self) -> None:
        self._ticks += 1

    def _here(self) -> dict[str, Any]:
        import ray

        return {
            "host": socket.gethostname(),
            "node": _node(),
            "pid": os.getpid(),
            "gpus": tuple(map(str, self._shares or ray.get_gpu_ids())),
        }

    def _free_address(self) -> str:
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{_node()}:{free.getsockname()[1]}"


def _node() -> str:
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call, unused-ignore]
    return address


class WaitingHost(_Host):
    async def where(self) -> tuple[str, Any]:
        return "done", self._here()

    async def address(self) -> tuple[str, Any]:
        return "done", self._free_address()

    async def pulse(self) -> tuple[str, Any]:
        return "done", self._ticks

    async def make(self, make: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
        try:
            self._object = await asyncio.to_thread(make, *arguments)  # which may take minutes
        except Exception as error:
            return _failed(error)
        return "done", None

    async def call(self, method: str, options: Mapping[str, Any], *arguments: Any) -> tuple[str, Any]:
        try:
            return "done", await getattr(self._object, method)(*arguments, **options)
        except Exception as error:
            return _failed(error)


class _Working(_Host):
    def where(self) -> tuple[str, Any]:
        return "done", self._here()

    def address(self) -> tuple[str, Any]:
        return "done", self._free_address()

    def make(self, make: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
        try:
            self._object = make(self._tick, *arguments)
        except Exception as error:
            return _failed(error)
        return "done", None

    def call(self, method: str, options: Mapping[str, Any], *arguments: Any) -> tuple[str, Any]:
        try:
            return "done", getattr(self._object, method)(*arguments, **options)
        except Exception as error:
            return _failed(error)

    def answer_pulse(self) -> tuple[str, Any]:
        return "done", self._ticks


def working_actor() -> Any:
    """Its pulse has a thread of its own beside that of the work."""
    import ray

    class Host(_Working):
        @ray.method(concurrency_group="pulse")
        def pulse(self) -> tuple[str, Any]:
            return self.answer_pulse()

    actor: Any = ray.remote
    return actor(concurrency_groups={"pulse": 1})(Host)
