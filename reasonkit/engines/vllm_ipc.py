"""CUDA IPC from one process to an engine that is spread over several GPUs.

vLLM's own sender is one of several processes, a GPU each, and a worker opens memory on its own GPU only. Whoever
holds one of our engines sends alone, to all its workers, so it puts each bucket on every one of their GPUs, which
it sees as its first ones. Written after vLLM's source; never run on a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch  # noqa: TID253
from vllm.distributed.weight_transfer.base import WeightSource  # noqa: TID253
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerWeightTransferEngine  # noqa: TID253
from vllm.distributed.weight_transfer.packed_tensor import (  # noqa: TID253
    PackedIpcChunk,
    packed_ipc_producer,
)


class IpcSender(IPCTrainerWeightTransferEngine):  # type: ignore[misc, unused-ignore]
    """To as many GPUs as the engine, which is the only one, has workers."""

    def _send_packed(self, source: WeightSource) -> None:
        gpus = range(self.client.workers)
        copies = itertools.tee(source, len(gpus))  # in step, so that no more than a bucket is held
        streams = [self._buckets(copy, gpu) for gpu, copy in zip(gpus, copies, strict=True)]
        for buckets in zip(*streams, strict=True):
            self._do_send(
                names=buckets[0].names,
                dtype_names=buckets[0].dtype_names,
                shapes=buckets[0].shapes,
                ipc_handles={uuid: handle for each in buckets for uuid, handle in each.ipc_handle.items()},
                tensor_sizes=buckets[0].tensor_sizes,
            )
            self._post_send_sync()

    def _buckets(self, weights: Iterator[tuple[str, torch.Tensor]], gpu: int) -> Iterator[PackedIpcChunk]:
        """Each is on that GPU until the next is asked for."""
        filled = packed_ipc_producer(
            iterator=weights,
            gpu_uuid=str(torch.cuda.get_device_properties(gpu).uuid),
            post_iter_func=lambda item: item[1],
            buffer_size_bytes=self.packed_buffer_size_bytes,
        )
        while True:
            with torch.cuda.device(gpu):  # where vLLM makes its buffer
                bucket = next(filled, None)
            if bucket is None:
                return
            yield bucket
