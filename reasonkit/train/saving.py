"""A learner's part of a checkpoint: copied at once, written while training goes on, read by any number of ranks.

    config.json, *.safetensors, tokenizer …   a plain Hugging Face folder, however many ranks wrote it
    training/*.safetensors                    what only resuming needs: moments, the critic, a file a rank
    state.json                                the controller's own

Several ranks write by torch.distributed.checkpoint, each its shards; rank 0 then puts those of the model together,
tensor by tensor. Names and places are those in the whole model, so the number of ranks that reads need not be that
which wrote. The folder appears under its name once it is whole. However long a disk takes, whoever waits ticks
(`Mesh.tick`) as long as bytes move.
"""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reasonkit.errors import ReasonkitError
from reasonkit.rundir import TEMPORARY, atomic_folder
from reasonkit.train.lora import ADAPTERS, NAME, adapter_tensors, has_adapters, whole
from reasonkit.train.mesh import Mesh
from reasonkit.train.model import save_model

TRAINING = "training"
STATE = "state.json"
SHARDS = "sharded"
"""Where torch keeps the shards of which it makes whole files."""
FILE_BYTES = 5 * 2**30
"""Of a file of weights, about."""
LOOK = 5.0
"""Seconds between two looks at how far a checkpoint has come."""


class Writer:
    """Writes one checkpoint at a time, in a thread."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: tuple[Path, Future[None]] | None = None

    def start(
        self,
        path: Path,
        model: PreTrainedModel,
        training: Mapping[str, Tensor],
        tokenizer: PreTrainedTokenizerBase | None,
        state: Mapping[str, Any],
    ) -> None:
        weights, training = _copied(_own(model)), _copied(training)
        if has_adapters(model):  # small enough to be whole on every rank
            weights = {name: whole(each) for name, each in weights.items()}
        written = self._thread.submit(
            self._write, path, model, weights, training, tokenizer, json.dumps(state, indent=2) + "\n"
        )
        self._writing = path, written

    def wait(self) -> None:
        if self._writing is None:
            return
        (path, written), self._writing = self._writing, None
        before = -1
        while not wait_for([written], timeout=LOOK).done:
            if (size := _bytes_of(path)) != before:
                self._mesh.tick()
                before = size
        written.result()

    def _write(
        self,
        path: Path,
        model: PreTrainedModel,
        weights: dict[str, Tensor],
        training: Mapping[str, Tensor],
        tokenizer: PreTrainedTokenizerBase | None,
        state: str,
    ) -> None:
        mesh = self._mesh
        with _shared_folder(path, mesh) as folder, _disk_errors():
            if has_adapters(model):
                if mesh.rank == 0:
                    save_file(weights, folder / ADAPTERS)
                    model.peft_config[NAME].save_pretrained(folder)
            elif mesh.shards is None:
                save_model(model, folder, weights)
            else:
                _write_model_shards(model, weights, folder, mesh)
            _write_training(training, folder / TRAINING, mesh)
            if mesh.rank == 0:
                if tokenizer is not None:
                    tokenizer.save_pretrained(folder)
                (folder / STATE).write_text(state, encoding="utf-8")


def read_model(model: PreTrainedModel, path: Path, mesh: Mesh) -> None:
    """Put the weights of the folder into the model, shard by shard."""
    _read(_own(model), path, mesh)


def read_training(state: dict[str, Tensor], path: Path, mesh: Mesh) -> None:
    """Fill the tensors of `state` with those of the same names."""
    if not (path / TRAINING).exists():
        raise ReasonkitError(
            f"{path} cannot be resumed from: it has no {TRAINING}/", "resume from a checkpoint of a run"
        )
    _read(state, path / TRAINING, mesh)


def moments(model: torch.nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps of each parameter, under the parameter's name. The same memory, and no scalars: those
    are rows of one number."""
    return {
        f"{name}.{key}": each if each.dim() else each.view(1)
        for name, parameter in model.named_parameters()
        for key, each in optimizer.state.get(parameter, {}).items()
    }


def fill_moments(optimizer: Optimizer) -> None:
    """Let an optimizer that has not stepped yet make what it keeps, which loading needs to be there."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _write_model_shards(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, mesh: Mesh) -> None:
    files, filled = {}, 0
    for name, tensor in weights.items():
        filled += tensor.numel() * tensor.element_size()
        files[name] = 1 + filled // FILE_BYTES
    writer = HuggingFaceStorageWriter(
        str(folder), fqn_to_index_mapping=files, save_distributed=True, enable_consolidation=True
    )
    save(weights, storage_writer=writer, **_by(mesh))
    if mesh.rank == 0:
        shutil.rmtree(folder / SHARDS)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)


def _write_training(training: Mapping[str, Tensor], folder: Path, mesh: Mesh) -> None:
    if mesh.shards is None:
        folder.mkdir()
        save_file(dict(training), folder / "training.safetensors")
        return
    save(
        dict(training),
        storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        **_by(mesh),
    )


def _own(model: PreTrainedModel) -> dict[str, Tensor]:
    """What files hold of a model, under the names there: its adapters alone, or all tensors, tied ones once."""
    weights = model.state_dict()
    if has_adapters(model):
        return adapter_tensors(model, weights)
    return {name: tensor for name, tensor in weights.items() if name not in model.all_tied_weights_keys}


def _read(state: dict[str, Tensor], folder: Path, mesh: Mesh) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as one process knows
        reader = HuggingFaceStorageReader(str(folder))
        load(state, storage_reader=reader, planner=_Ticking(mesh), **_by(mesh))


class _Ticking(DefaultLoadPlanner):
    """Tells of every tensor that is there."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self._mesh = mesh

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        super().commit_tensor(read_item, tensor)
        self._mesh.tick()


def _bytes_of(path: Path) -> int:
    """Of the folder that is to become `path`, so far."""
    size = 0
    for folder in path.parent.glob(f"{TEMPORARY}{path.name}.*"):
        for file in folder.rglob("*"):
            with suppress(FileNotFoundError):  # torch's shards go as they are put together
                size += file.stat().st_size
    return size


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy in CPU memory, which training does not change; of shards, shards."""
    return {name: each.detach().to("cpu", copy=True) for name, each in state.items()}


@contextmanager
def _shared_folder(path: Path, mesh: Mesh) -> Iterator[Path]:
    """A folder that all ranks fill; it becomes `path` when all have."""
    if mesh.writers is None:
        with atomic_folder(path) as alone:
            yield alone
        return
    with atomic_folder(path) if mesh.rank == 0 else nullcontext() as made:
        box: list[Path | None] = [made]
        dist.broadcast_object_list(box, group=mesh.writers)
        folder = box[0]
        assert folder is not None
        yield folder
        dist.barrier(mesh.writers)
    dist.barrier(mesh.writers)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """What torch makes of a write that fails is an OSError here as everywhere else."""
    try:
        yield
    except (SafetensorError, CheckpointException) as error:
        message = f"the state of training could not be written whole ({error}); is the disk full?"
        raise OSError(errno.EIO, message) from error


def _by(mesh: Mesh) -> dict[str, Any]:
    return {"no_dist": True} if mesh.writers is None else {"process_group": mesh.writers}
