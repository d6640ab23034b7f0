"""Weights by CUDA IPC to an engine on two GPUs, as far as no GPU is needed: what its workers are told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

TENSORS = {name: torch.full((count,), float(count)) for name, count in (("a", 2), ("b", 3), ("c", 4))}


class Weights:
    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(TENSORS.items())


class Told:
    """Implements vLLM's client."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.said: list[str] = []
        self.updates: list[Mapping[str, Any]] = []

    def init_weight_transfer_engine(self, info: Mapping[str, Any]) -> None:
        assert info == {"packed": True}

    def start_weight_update(self) -> None:
        self.said.append("start")

    def update_weights(self, update: Mapping[str, Any]) -> None:
        self.said.append("update")
        self.updates.append(update)

    def finish_weight_update(self) -> None:
        self.said.append("finish")


def one_tensor_a_bucket(
    filled: list[tuple[int, str]], current: list[int]
) -> Callable[..., Iterator[SimpleNamespace]]:
    """vLLM's producer, with the CPU's memory for that of GPUs: says in which it was asked to fill what."""

    def produce(*, iterator: Any, gpu_uuid: str, post_iter_func: Any, **_: Any) -> Iterator[SimpleNamespace]:
        memory = current[-1]
        for name, tensor in iterator:
            assert current[-1] == memory
            filled.append((memory, name))
            yield SimpleNamespace(
                names=[name],
                dtype_names=["float32"],
                shapes=[list(tensor.shape)],
                tensor_sizes=[post_iter_func((name, tensor)).nbytes],
                ipc_handle={gpu_uuid: ("memory of", memory)},
            )

    return produce


@pytest.mark.parametrize("workers", [1, 2])
def test_every_worker_is_told_of_memory_on_its_own_gpu(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    from reasonkit.engines import vllm_ipc

    filled: list[tuple[int, str]] = []
    current = [0]

    @contextlib.contextmanager
    def device(number: int) -> Iterator[None]:
        current.append(number)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=f"uuid {gpu}"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(vllm_ipc, "packed_ipc_producer", one_tensor_a_bucket(filled, current))
    monkeypatch.setattr(vllm_ipc.IpcSender, "_post_send_sync", lambda _self: None)
    client = Told(workers)
    info = IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=16, rank=0)
    vllm_ipc.IpcSender.trainer_init(info, client=client, source=Weights()).send_weights()

    assert client.said == ["start", "update", "update", "update", "finish"]
    assert filled == [(gpu, name) for name in TENSORS for gpu in range(workers)]
    for update, (name, tensor) in zip(client.updates, TENSORS.items(), strict=True):
        assert update["names"] == [name]
        assert update["tensor_sizes"] == [tensor.nbytes]
        assert update["ipc_handles"] == {f"uuid {gpu}": ("memory of", gpu) for gpu in range(workers)}
