"""The trainer's end of a weight update: one sender, any number of vLLM engines.

    pause (requests kept, keys and values dropped) -> start -> tensors -> finish -> version -> resume

Start, tensors and finish are vLLM's weight-transfer API, over CUDA IPC (learner and engine share GPUs), NCCL (they
do not) or shared memory (CPUs). What is ours: engines that are independent of each other get ranks of their own,
names and dtypes are the engine's, and every call has a deadline whose error names who is stuck. A worker that dies
within a broadcast leaves it hanging, so sending runs in a daemon thread that can be given up.

The CUDA ways are written after vLLM's source and have never run on a GPU. Left out: gathering a sharded
model's tensors (the learner's WeightSource does that) and architectures whose state dict names tensors otherwise
than their checkpoint does (mixtures of experts): those are refused.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from reasonkit.engines import WeightSource
from reasonkit.errors import ReasonkitError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOGGER = logging.getLogger(__name__)

Transfer = Literal["shm", "ipc", "nccl"]
Layout = Mapping[str, tuple[int, ...]]
"""The shape of every tensor, by its name in the checkpoint."""

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What torch.compile, activation checkpointing and FSDP put into names."""
OUTPUT_EMBEDDING = "lm_head.weight"
UNREAD = (".rotary_emb.inv_freq",)
"""Ends of names that old checkpoints hold and no engine reads."""
MARGIN = 5.0
"""Seconds beyond the deadline after which a sender that hangs is given up: the calls' own errors say more."""


class Receiver(Protocol):
    """An engine as an update sees it, in this process or in an actor elsewhere."""

    name: str
    workers: int
    """Processes that hold a part of the model each."""

    def control(self, step: str, argument: Mapping[str, Any] | None = None) -> Future[None]: ...


class Client:
    """vLLM's control calls, made to all engines at the same time, within one deadline an update."""

    def __init__(self, receivers: Sequence[Receiver], deadline: float) -> None:
        self._receivers = receivers
        self._deadline = deadline
        self._until = 0.0

    @property
    def workers(self) -> int:
        return sum(receiver.workers for receiver in self._receivers)

    @property
    def names(self) -> str:
        return ", ".join(receiver.name for receiver in self._receivers)

    def begin(self) -> None:
        self._until = time.monotonic() + self._deadline

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """vLLM offers all the same first rank; here each engine's workers begin where the last one's end."""
        offset = init_info.get("rank_offset", 0)
        infos = []
        for receiver in self._receivers:
            infos.append({**init_info, "rank_offset": offset} if "rank_offset" in init_info else init_info)
            offset += receiver.workers
        self._all("init", infos)

    def start_weight_update(self) -> None:
        self.tell("start")

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        assert isinstance(update_info, dict), "no backend of ours sends a payload per worker"
        self._all("update", [_sendable(update_info)] * len(self._receivers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:  # noqa: ARG002
        self.tell("finish")

    def tell(self, step: str, argument: Mapping[str, Any] | None = None) -> None:
        """The same to all."""
        self._all(step, [argument] * len(self._receivers))

    def _all(self, step: str, arguments: Sequence[Mapping[str, Any] | None]) -> None:
        calls = {
            receiver.control(step, argument): receiver.name
            for receiver, argument in zip(self._receivers, arguments, strict=True)
        }
        done, late = wait(calls, max(self._until - time.monotonic(), 0.0), return_when=FIRST_EXCEPTION)
        for call in late:
            call.cancel()
        for call in done:
            error = call.exception()
            if isinstance(error, ReasonkitError):
                raise error
            if error is not None:
                raise ReasonkitError(
                    f"{calls[call]} failed at step '{step}' of a weight update: {error}"
                ) from error
        if late:
            raise ReasonkitError(
                f"{', '.join(sorted(calls[call] for call in late))} did not end step '{step}' of a weight update "
                f"within the {self._deadline:g} s that an update may take",
                "look for its last message above, or give it longer with the engine's option update_deadline",
            )


class Source:
    """vLLM's WeightSource over ours: names as in the checkpoint, whole tensors in the engines' dtype."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        self._layout = layout
        self._dtype = dtype
        self._weights: WeightSource = ()
        self._shapes: Layout = {}

    def take(self, weights: WeightSource, version: int) -> None:
        """What is sent next. Refused here, before an engine hears of it, where it does not fit."""
        self._weights = weights
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self._named()}
        what = f"the weights of version {version}"
        for name, shape in self._shapes.items():
            if name not in self._layout:
                raise ReasonkitError(
                    f"{what} hold '{name}', which the checkpoint that the engine was started from does not have",
                    "the vllm engine takes weights of architectures whose state dict has its checkpoint's names",
                )
            if shape != self._layout[name]:
                raise ReasonkitError(
                    f"'{name}' is {shape} in {what} and {self._layout[name]} in the engine's model",
                    "start the engine from the model that is trained",
                )
        missing = sorted(self._layout.keys() - self._shapes.keys())
        if missing:
            raise ReasonkitError(
                f"{what} lack {len(missing)} of the model's {len(self._layout)} tensors, '{missing[0]}' the first",
                "load all weights of a model at once",
            )

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, self._dtype, shape) for name, shape in self._shapes.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        from torch.distributed.tensor import DTensor

        for name, tensor in self._named():
            part = tensor.detach().to(self._dtype)  # before it is gathered, which then moves fewer bytes
            yield name, part.full_tensor() if isinstance(part, DTensor) else part

    @property
    def bytes(self) -> int:
        return sum(math.prod(shape) for shape in self._shapes.values()) * self._dtype.itemsize

    @property
    def largest(self) -> int:
        """Bytes of the tensor that has the most."""
        return max(map(math.prod, self._shapes.values())) * self._dtype.itemsize

    @property
    def device(self) -> torch.device:
        """Where the learner has its weights."""
        _, tensor = next(self._named())
        return tensor.device

    @property
    def tensors(self) -> int:
        return len(self._shapes)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """Tied embeddings come under both of their names, but a checkpoint has them once."""
        for given, tensor in self._weights:
            name = given
            for wrapper in WRAPPERS:
                name = name.replace(wrapper, "")
            if name in self._layout or name != OUTPUT_EMBEDDING:
                yield name, tensor


class Sender:
    """Makes updates, one after the other, to the same engines, which take them from no other sender. Every rank of
    a learner that is spread over processes has one: all gather, `rank` 0 talks to the engines."""

    def __init__(
        self,
        receivers: Sequence[Receiver],
        layout: Layout,
        *,
        transfer: Transfer,
        dtype: torch.dtype,
        bucket_bytes: int,
        deadline: float,
        rank: int = 0,
    ) -> None:
        self._client = Client(receivers, deadline)
        self._source = Source(layout, dtype)
        self._transfer = transfer
        self._bucket_bytes = bucket_bytes
        self._deadline = deadline
        self._rank = rank
        self._version = 0
        self._trainer: Any = None

    def prepare(self, weights: WeightSource, version: int) -> None:
        """Refuses weights that do not fit. No engine is touched."""
        self._source.take(weights, version)
        self._version = version

    def send(self) -> float:
        """Blocks until all engines go on with what was prepared; returns the seconds that it took. An error leaves
        them paused, and their weights undefined."""
        result: Future[float] = Future()
        threading.Thread(target=self._carry_out, args=(result,), name="weights", daemon=True).start()
        try:
            seconds = result.result(self._deadline + MARGIN)
        except TimeoutError:
            raise ReasonkitError(
                f"the weights of version {self._version} did not reach {self._client.names} within "
                f"{self._deadline:g} s: sending hangs, most likely because a worker that took part has died",
                "start the engine again",
            ) from None
        LOGGER.info(
            "weights of version %d to %s: %d tensors, %.1f MB in %.2f s by %s",
            self._version,
            self._client.names,
            self._source.tensors,
            self._source.bytes / 1e6,
            seconds,
            self._transfer,
        )
        return seconds

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.shutdown()

    def _carry_out(self, result: Future[float]) -> None:
        try:
            result.set_result(self._update())
        except BaseException as error:  # for whoever waits: in this thread nobody would see it
            result.set_exception(error)

    def _update(self) -> float:
        import torch

        started = time.perf_counter()
        if self._source.device.type == "cuda":  # a thread begins on the first GPU, wherever its parent was
            torch.cuda.set_device(self._source.device)
        self._client.begin()
        if self._rank == 0:
            self._client.tell("pause")
        if self._trainer is None:
            self._trainer = self._open()
        self._trainer.send_weights()
        if self._rank == 0:
            self._client.tell("version", {"version": self._version})
            self._client.tell("resume")
        return time.perf_counter() - started

    def _open(self) -> Any:
        """The beginning of all updates: both ends agree on how, and who has which rank."""
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        if self._transfer == "ipc":
            from reasonkit.engines.vllm_ipc import IpcSender

            return IpcSender.trainer_init(self._init_info(), client=self._client, source=self._source)
        return WeightTransferTrainerFactory.trainer_init(
            self._init_info(), client=self._client, source=self._source
        )

    def _init_info(self) -> Any:
        world_size = 1 + self._client.workers
        if self._transfer == "shm":
            from reasonkit.engines.vllm_shm import ShmTrainerInitInfo

            return ShmTrainerInitInfo(world_size, self._bucket_bytes, rank=self._rank)
        if self._transfer == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            bucket = max(self._bucket_bytes, self._source.largest)  # each tensor must fit into one
            return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=bucket, rank=self._rank)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip, get_open_port

        return NCCLTrainerInitInfo(
            get_ip(),
            get_open_port(),
            world_size,
            packed_buffer_size_bytes=self._bucket_bytes,
            rank=self._rank,
        )


def checkpoint_layout(folder: Path, *, tied: bool) -> Layout:
    """What the folder's safetensors headers say; no tensor is read."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ReasonkitError(
            f"{folder} has no safetensors file, which tells the names that new weights must have",
            "save the model with save_pretrained of transformers",
        )
    layout: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if not name.endswith(UNREAD)]  # noqa: SIM118
            layout |= {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    if tied:
        layout.pop(OUTPUT_EMBEDDING, None)
    return layout


def _sendable(update_info: dict[str, Any]) -> dict[str, Any]:
    """vLLM's processes exchange plain values; handles of CUDA IPC are none, so they travel as vLLM's HTTP client
    sends them."""
    handles = update_info.get("ipc_handles")
    if handles is None:
        return {name: value for name, value in update_info.items() if value is not None}
    import base64
    import pickle

    plain = {
        name: value for name, value in update_info.items() if name != "ipc_handles" and value is not None
    }
    return {**plain, "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}
