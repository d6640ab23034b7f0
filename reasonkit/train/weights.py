"""What a learner hands to an engine: named tensors, under the names of the model's own state dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A model's weights as they are when iterated, not copies: load them before the next step."""

    model: PreTrainedModel

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.state_dict().items()
