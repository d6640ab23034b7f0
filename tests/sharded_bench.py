"""What test_sharded.py runs in every rank's process: ranks made and remade, without starting processes again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from reasonkit.losses import LossInputs, TokenLoss
from reasonkit.train.mesh import Mesh, open_mesh
from reasonkit.train.packing import Batch
from reasonkit.train.rank import LearnerSettings, Rank
from tests.tiny_models import Shape, tiny_model

VOCABULARY = 40


def make_bench(
    rank: int, count: int, address: str, tick: Callable[[], None], parallel: dict[str, int]
) -> Bench:
    torch.set_num_threads(1)
    return Bench(open_mesh(rank, count, device="cpu", address=address, parallel=parallel, tick=tick))


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


class Bench:
    """The same methods serve a process of its own and this one."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def make(self, shape: Shape, settings: LearnerSettings, away: float = 1.0) -> None:
        """A new rank on the tiny model of that shape, its weights moved `away` from the reference's."""
        self.rank = Rank(tiny_model(shape, VOCABULARY), settings, mesh=self.mesh)
        with torch.no_grad():
            for parameter in self.rank.model.parameters():
                parameter.mul_(away)

    def accumulate(self, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
        measured = self.rank.accumulate(batch)
        parameters = self.rank.model.named_parameters()
        return measured, {name: whole(p.grad) for name, p in parameters if p.grad is not None}

    def step(self, batch: Batch) -> dict[str, float]:
        return self.rank.step(batch)

    def logprobs(self, batch: Batch, reference: bool) -> dict[int, Tensor]:
        return self.rank.logprobs(batch.samples, reference=reference)

    def values(self, batch: Batch) -> dict[int, Tensor]:
        return self.rank.values(batch.samples)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.rank.weights()}

    def dtypes(self) -> dict[str, set[torch.dtype]]:
        """Of what is trained, and of what engines get."""
        return {
            "masters": {parameter.dtype for parameter in self.rank.model.parameters()},
            "weights": {tensor.dtype for _, tensor in self.rank.weights()},
        }

    def save(self, path: Path) -> None:
        self.rank.save(path, {"step": 1})
        self.rank.saved()

    def save_while_training(self, path: Path, batch: Batch) -> None:
        self.rank.save(path, {"step": 1})
        self.rank.step(batch)
        self.rank.saved()

    def load(self, path: Path) -> None:
        self.rank.load(path)

    def held(self) -> int:
        """Numbers of parameters and moments that this process holds itself."""
        tensors = [*self.rank.model.parameters()]
        tensors += [each for state in self.rank.optimizer.state.values() for each in state.values()]
        return sum((each.to_local() if isinstance(each, DTensor) else each).numel() for each in tensors)

    def misbehave(self, rank: int, how: str) -> None:
        """One rank dies, hangs or fails while the others wait for it in a collective."""
        if self.mesh.rank == rank:
            match how:
                case "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hangs":
                    time.sleep(600)
                case _:
                    raise ValueError("a thing went wrong")
        self.mesh.tick()
        self.mesh.total(torch.ones(1))


def always_one(inputs: LossInputs) -> TokenLoss:
    return TokenLoss(torch.ones_like(inputs.logprobs) + 0 * inputs.logprobs)
