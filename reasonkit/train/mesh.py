"""Where one rank stands among the ranks of a learner, and what they do together.

Ranks that share the parameters (FSDP) form `shards`. Each of them has a part of the batch to itself, unless some of
them are neighbours: `sequence` of them share the tokens of each row (ulysses.py), or `tensor` of them the matrices
that compute it (tensor_parallel.py). A rank alone has no process group, and what it does together is then nothing.
Left out: how processes are started (ranks.py on one machine).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from reasonkit.errors import ConfigError
from reasonkit.train.packing import Row, Sample, rows

PATIENCE = timedelta(hours=12)
"""Of a collective. Who waits for ranks has a deadline of its own, and knows better which of them is stuck."""

Parallel = Mapping[Literal["tensor", "sequence"], int]
"""A recipe's `cluster.parallel`."""


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Mesh:
    device: torch.device
    """That this rank computes on."""
    rank: int = 0
    ranks: int = 1
    shards: DeviceMesh | None = None
    """All ranks, which share the parameters; None where there is no process group."""
    sequence: int = 1
    """Neighbours that share the tokens of each row."""
    neighbours: dist.ProcessGroup | None = None
    """These, where there are several."""
    tensor: int = 1
    """Neighbours that share each block's matrices."""
    grid: DeviceMesh | None = None
    """[shards, tensor]: all ranks by what they have of the blocks; None where each has a part of all matrices."""
    writers: dist.ProcessGroup | None = None
    """All ranks, for what is written while training goes on."""
    tick: Callable[[], None] = _nothing
    """Tells whoever watches that this rank moves on."""

    @property
    def part(self) -> int:
        """Which part of a batch is this rank's, …"""
        return self.rank // (self.sequence * self.tensor)

    @property
    def parts(self) -> int:
        """… of how many."""
        return self.ranks // (self.sequence * self.tensor)

    @property
    def place(self) -> int:
        """Of this rank among its neighbours."""
        return self.rank % (self.sequence * self.tensor)

    @property
    def averaged(self) -> int:
        """What a loss is to be multiplied with: ranks average their gradients, whose sum is wanted. Neighbours that
        share matrices have the same gradient of what they have in common, each of them the whole."""
        return self.ranks // self.tensor

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all parts of the batch, of numbers that neighbours have in common."""
        if self.shards is None:
            return numbers
        if self.place:
            numbers = torch.zeros_like(numbers)
        dist.all_reduce(numbers, group=self.shards.get_group())
        return numbers

    def share(self, samples: Sequence[Sample], token_budget: int) -> list[Row]:
        """The rows of this rank. All ranks have equally many, so an empty one may be among them."""
        return shares(samples, token_budget, self.parts)[self.part]


def open_mesh(
    rank: int,
    ranks: int,
    *,
    device: str,
    address: str,
    parallel: Parallel,
    tick: Callable[[], None] = _nothing,
) -> Mesh:
    """Join the other ranks at `address`, a torch.distributed init method such as `tcp://host:port`."""
    sequence, tensor = check_parallel(ranks, parallel)
    where = (
        torch.device(device, rank % torch.cuda.device_count()) if device == "cuda" else torch.device(device)
    )
    if where.type == "cuda":
        torch.cuda.set_device(where)
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=ranks, timeout=PATIENCE)
    neighbours = None
    if sequence > 1:
        groups = [list(range(first, first + sequence)) for first in range(0, ranks, sequence)]
        neighbours, _ = dist.new_subgroups_by_enumeration(groups, timeout=PATIENCE)
    return Mesh(
        device=where,
        rank=rank,
        ranks=ranks,
        shards=DeviceMesh(where.type, torch.arange(ranks), mesh_dim_names=("shards",)),
        sequence=sequence,
        neighbours=neighbours,
        tensor=tensor,
        grid=DeviceMesh(where.type, torch.arange(ranks).view(-1, tensor), mesh_dim_names=("shards", "tensor"))
        if tensor > 1
        else None,
        writers=dist.new_group(backend="gloo", timeout=PATIENCE),
        tick=tick,
    )


def check_parallel(ranks: int, parallel: Parallel) -> tuple[int, int]:
    """How many ranks share a row's tokens, and how many the matrices; one of the two is 1."""
    sequence, tensor = parallel.get("sequence", 1), parallel.get("tensor", 1)
    if sequence > 1 and tensor > 1:
        raise ConfigError(
            f"cluster.parallel.sequence ({sequence}) and cluster.parallel.tensor ({tensor}) are both above 1",
            "--set cluster.parallel.tensor=1 or --set cluster.parallel.sequence=1",
        )
    for name, count in (("sequence", sequence), ("tensor", tensor)):
        if ranks % count:
            raise ConfigError(
                f"cluster.parallel.{name} ({count}) does not divide the number of learners ({ranks})",
                f"--set cluster.learners={count * -(-ranks // count)}",
            )
    return sequence, tensor


def shares(samples: Sequence[Sample], token_budget: int, parts: int) -> list[list[Row]]:
    """The rows of each part of a batch: equally many for each, and about equally long.

    No more rounds than the budget asks for: the rows that these rounds have room for are made as short as they can
    be, rather than some full and some empty.
    """
    best = list(rows(samples, token_budget))
    if parts == 1:
        return [best]
    room = -(-len(best) // parts) * parts
    low, high = 0, token_budget  # `high` is known to do, `low` not to
    while high - low > 1:
        budget = (low + high) // 2
        cut = list(rows(samples, budget))
        if len(cut) <= room:
            best, high = cut, budget
        else:
            low = budget
    best += [[]] * (room - len(best))
    return [best[part::parts] for part in range(parts)]
