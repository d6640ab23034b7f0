"""Weights on their way between processes: named tensors as plain bytes, in parcels of bounded size.

Bytes rather than tensors, because Ray's object store hands bytes to every process of a node without a copy. With
REASONKIT_DEBUG=1 each tensor travels with a checksum, and whoever unpacks it looks whether it still fits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from reasonkit.errors import ReasonkitError

PARCEL_BYTES = 256 * 2**20
DEBUG = "REASONKIT_DEBUG"


@dataclass(frozen=True, slots=True)
class Parcel:
    names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]
    contents: tuple[Any, ...]
    """A numpy row of bytes for each tensor."""
    checksums: tuple[int, ...] = ()
    """Of each tensor's bytes; empty where nobody is looking for an error."""

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
        _check(parcel)
        columns = zip(parcel.names, parcel.dtypes, parcel.shapes, parcel.contents, strict=True)
        for name, dtype, shape, content in columns:
            yield name, torch.from_numpy(content.copy()).view(dtype).reshape(shape)


def _parcel(held: Sequence[tuple[str, Tensor]]) -> Parcel:
    contents = tuple(tensor.reshape(-1).view(torch.uint8).numpy() for _, tensor in held)
    return Parcel(
        names=tuple(name for name, _ in held),
        dtypes=tuple(tensor.dtype for _, tensor in held),
        shapes=tuple(tuple(tensor.shape) for _, tensor in held),
        contents=contents,
        checksums=tuple(map(_checksum, contents)) if os.environ.get(DEBUG) == "1" else (),
    )


def _checksum(content: Any) -> int:
    return xxhash.xxh3_64_intdigest(content)


def _check(parcel: Parcel) -> None:
    for name, content, sent in zip(parcel.names, parcel.contents, parcel.checksums, strict=False):
        arrived = _checksum(content)
        if arrived != sent:
            raise ReasonkitError(
                f"'{name}' left the learner with checksum {sent:016x} and arrived with {arrived:016x}",
                "look at that machine's memory and network, then resume from the last checkpoint",
            )
