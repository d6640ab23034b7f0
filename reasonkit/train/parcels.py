"""Weights on their way between processes: named tensors as plain bytes, in parcels of bounded size.

Bytes rather than tensors, because Ray's object store hands bytes to every process of a node without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PARCEL_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Parcel:
    names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]
    contents: tuple[Any, ...]
    """A numpy row of bytes for each tensor."""

    @property
    def bytes(self) -> int:
        return sum(int(content.nbytes) for content in self.contents)


def pack(weights: Iterable[tuple[str, Tensor]], limit: int = PARCEL_BYTES) -> Iterator[Parcel]:
    """Copies; a tensor that is larger than `limit` travels alone."""
    held: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in weights:
        copied = tensor.detach().to("cpu", copy=True).contiguous()
        if held and size + copied.nbytes > limit:
            yield _parcel(held)
            held, size = [], 0
        held.append((name, copied))
        size += copied.nbytes
    if held:
        yield _parcel(held)


def unpack(parcels: Sequence[Parcel]) -> Iterator[tuple[str, Tensor]]:
    """Copies: what comes from an object store must not be written to."""
    for parcel in parcels:
        columns = zip(parcel.names, parcel.dtypes, parcel.shapes, parcel.contents, strict=True)
        for name, dtype, shape, content in columns:
            yield name, torch.from_numpy(content.copy()).view(dtype).reshape(shape)


def _parcel(held: Sequence[tuple[str, Tensor]]) -> Parcel:
    return Parcel(
        names=tuple(name for name, _ in held),
        dtypes=tuple(tensor.dtype for _, tensor in held),
        shapes=tuple(tuple(tensor.shape) for _, tensor in held),
        contents=tuple(tensor.reshape(-1).view(torch.uint8).numpy() for _, tensor in held),
    )
