"""What a learner hands to an engine: named tensors, under the names of the model's own state dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reasonkit.engines import WeightSource
from reasonkit.train.lora import has_adapters, merged, whole


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A model's weights as they are when iterated, adapters merged; not copies, so load them before the next step.

    Ranks that share a model iterate together; each gets every tensor whole, one at a time.
    """

    model: PreTrainedModel
    dtype: torch.dtype = torch.float32
    """That the engine computes in: the learner's float32 would travel as twice the bytes."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        if has_adapters(self.model):
            for name, tensor in merged(self.model):
                yield name, self._cast(tensor)
        else:
            for name, tensor in self.model.state_dict().items():
                yield name, whole(self._cast(tensor))

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


class Counted:
    """Other weights, and how many bytes an engine took of them; one that iterates twice looked before it took."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights
        self.bytes = 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        taken = 0
        for name, tensor in self._weights:
            yield name, tensor
            taken += tensor.nbytes
        self.bytes = taken
