"""Weights through shared memory, as a backend of vLLM's weight-transfer API: for engines on CPUs.

It runs the protocol that NCCL and CUDA IPC run on GPUs (init, start, bucket by bucket, finish, ranks counted over
all engines), so that all of it is tested without one. The trainer's end writes a bucket, vLLM's `update_weights`
says where each tensor lies, and every worker loads it and signs for it; a rank that did not sign is an error.

The memory is an anonymous file that workers open through the trainer's process: nothing is left behind, however
either end dies. So both ends are on one Linux machine.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253
from vllm.distributed.weight_transfer.base import (  # noqa: TID253
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (  # noqa: TID253
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

from reasonkit.errors import ReasonkitError

BACKEND = "reasonkit_shm"
ALIGNMENT = 64
"""Bytes: tensors of any dtype begin at multiples of it."""
SIGNATURE = 8
"""Bytes of a rank's signature, at the beginning of the memory: the number of the last bucket that it loaded."""


@dataclass
class ShmInitInfo(WeightTransferInitInfo):  # type: ignore[misc, unused-ignore]
    """Where the memory is, and which ranks this engine's workers have among those of all engines."""

    process: int
    descriptor: int
    size: int
    rank_offset: int


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc, unused-ignore]
    """One bucket: what lies where."""

    bucket: int
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    offsets: list[int]


@dataclass
class ShmTrainerInitInfo(TrainerInitInfo):  # type: ignore[misc, unused-ignore]
    """`world_size` counts the trainer, rank 0, as NCCL's does."""

    backend: ClassVar[str] = BACKEND

    world_size: int
    bucket_bytes: int


class ShmReceiver(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):  # type: ignore[misc, unused-ignore]
    """A worker's end."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        parallel = self.parallel_config
        replica = parallel.data_parallel_index * parallel.world_size
        self._rank: int = init_info.rank_offset + replica + parallel.rank
        path = Path("/proc") / str(init_info.process) / "fd" / str(init_info.descriptor)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), init_info.size)
        self._sign(self._signature() + 1)  # two workers of one rank would add up to 2, and leave another at 0

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        self.model.load_weights(self._tensors(update_info))
        self._sign(update_info.bucket)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        for layer in self.model.modules():
            # A tied output embedding is not loaded itself: its copy in a CPU's layout is still of the old weights.
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """The mapping goes with the process."""

    def _tensors(self, bucket: ShmUpdateInfo) -> Iterator[tuple[str, Tensor]]:
        """Copies: vLLM keeps what it is given until the layer is whole, maybe buckets later."""
        layout = zip(bucket.names, bucket.dtypes, bucket.shapes, bucket.offsets, strict=True)
        for name, dtype, shape, offset in layout:
            yield name, _view(self._memory, getattr(torch, dtype), shape, offset).clone()

    def _signature(self) -> int:
        return _signatures(self._memory, self._rank + 1)[-1]

    def _sign(self, number: int) -> None:
        place = self._rank * SIGNATURE
        self._memory[place : place + SIGNATURE] = number.to_bytes(SIGNATURE, "little")


class ShmSender(TrainerWeightTransferEngine[ShmTrainerInitInfo]):  # type: ignore[misc, unused-ignore]
    """The trainer's end. A tensor larger than a bucket gets a bucket of its own size."""

    init_info_cls = ShmTrainerInitInfo

    def __init__(self, client: VLLMWeightSyncClient, source: WeightSource, info: ShmTrainerInitInfo) -> None:
        super().__init__(client=client, source=source, is_sender=info.is_sender)
        self._world_size = info.world_size
        self._begin = _aligned(info.world_size * SIGNATURE)
        largest = max((_bytes(meta) for meta in source.metadata()), default=0)
        self._size = self._begin + _aligned(max(info.bucket_bytes, largest))
        self._descriptor = os.memfd_create("reasonkit-weights")
        os.ftruncate(self._descriptor, self._size)
        self._memory = mmap.mmap(self._descriptor, self._size)
        self._bucket = 1

    @classmethod
    def trainer_init(
        cls,
        init_info: ShmTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        assert source is not None
        sender = cls(client, source, init_info)
        if sender.is_sender:
            worker = ShmInitInfo(os.getpid(), sender._descriptor, sender._size, rank_offset=1)
            client.init_weight_transfer_engine(asdict(worker))
            sender._check_signatures("took part in the beginning")
        return sender

    def send_weights(self) -> None:
        """Every rank of the trainer iterates the source, because gathering a tensor takes all of them."""
        if self.is_sender:
            self.client.start_weight_update()
        for bucket in self._buckets():
            if self.is_sender:
                self.client.update_weights(asdict(bucket))
                self._check_signatures(f"loaded bucket {bucket.bucket}")
        if self.is_sender:
            self.client.finish_weight_update()

    def shutdown(self) -> None:
        self._memory.close()
        os.close(self._descriptor)

    def _buckets(self) -> Iterator[ShmUpdateInfo]:
        """Each is in the memory when it is yielded, and until the next is asked for."""
        bucket, end = self._empty(), self._begin
        for name, tensor in self.source:
            size = tensor.numel() * tensor.element_size()
            if bucket.names and end + size > self._size:
                yield bucket
                bucket, end = self._empty(), self._begin
            if self.is_sender:
                _view(self._memory, tensor.dtype, list(tensor.shape), end).copy_(tensor)
            bucket.names.append(name)
            bucket.dtypes.append(str(tensor.dtype).removeprefix("torch."))
            bucket.shapes.append(list(tensor.shape))
            bucket.offsets.append(end)
            end = _aligned(end + size)
        if bucket.names:
            yield bucket

    def _empty(self) -> ShmUpdateInfo:
        self._bucket += 1
        return ShmUpdateInfo(self._bucket, [], [], [], [])

    def _check_signatures(self, done: str) -> None:
        """Every rank's signature is the number of this bucket; 1 after the beginning."""
        ranks = _signatures(self._memory, self._world_size)
        absent = [rank for rank in range(1, self._world_size) if ranks[rank] != self._bucket]
        if absent:
            raise ReasonkitError(
                f"of {self._world_size - 1} workers those of ranks {', '.join(map(str, absent))} have not "
                f"{done}: two of them may have the same rank",
                "this is a defect in how ranks are counted over engines; please report it",
            )


def _view(memory: mmap.mmap, dtype: torch.dtype, shape: list[int], offset: int) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).view(shape)


def _signatures(memory: mmap.mmap, ranks: int) -> list[int]:
    places = range(0, ranks * SIGNATURE, SIGNATURE)
    return [int.from_bytes(memory[place : place + SIGNATURE], "little") for place in places]


def _bytes(meta: Any) -> int:
    count: int = meta.dtype.itemsize
    for size in meta.shape:
        count *= size
    return count


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


WeightTransferEngineFactory.register_engine(BACKEND, ShmReceiver)
WeightTransferTrainerFactory.register_engine(BACKEND, ShmSender)
