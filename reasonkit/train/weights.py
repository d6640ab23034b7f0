"""What a learner hands to an engine: named tensors, under the names of the model's own state dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from reasonkit.train.lora import has_adapters, merged, whole


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A model's weights as they are when iterated, adapters merged; not copies, so load them before the next step.

    Ranks that share a model iterate together; each gets every tensor whole, one at a time.
    """

    model: PreTrainedModel

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        if has_adapters(self.model):
            yield from merged(self.model)
        else:
            for name, tensor in self.model.state_dict().items():
                yield name, whole(tensor)
