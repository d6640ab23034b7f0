"""A language model as training sees it: packed sequences in, log-probs and entropies of the sampled tokens out."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reasonkit.errors import ReasonkitError
from reasonkit.train.attention import use_packed_attention
from reasonkit.train.lm_head import score
from reasonkit.train.lora import without_adapters
from reasonkit.train.packing import MicroBatch, Sample, pack
from reasonkit.train.ulysses import Neighbours

PROBES = (([1, 2, 3], [4, 5, 6, 7]), ([1, 2, 3], [5, 1]), ([7, 5], [3]))
"""(prompt, reply) pairs; the first two share their prompt."""
PROBE_ROW = ((0, 1), (2,))
PROBE_TOLERANCE = 1e-3


class Policy(torch.nn.Module):
    """Owns the model from here on: sets its attention to the packed kind, and evaluation mode."""

    def __init__(
        self, model: PreTrainedModel, temperature: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`dtype` is that of the forward pass, `device` where it runs, wherever the weights are just now."""
        super().__init__()
        self.model = model.eval()
        self.autocast = dtype != torch.float32
        """Whether weights are cast as they are used; sharded ones come cast."""
        self.neighbours: Neighbours | None = None
        """Ranks with which this one shares the tokens of each row."""
        self._temperature = temperature
        self.dtype = dtype
        self._device = model.device
        self._self_test()
        self._device = device

    def of(self, model: PreTrainedModel) -> Self:
        """The same for another model of the same kind."""
        return type(self)(model, self._temperature, self.dtype, self._device)

    def forward(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of every sampled token, at the sampling temperature, in float32."""
        logprobs, entropy = self._score(micro, self.dtype)
        return self.together(micro, logprobs), self.together(micro, entropy)

    def states(self, micro: MicroBatch) -> Tensor:
        """[scored, width] The last hidden state from which each sampled token is predicted; of a rank that shares
        rows with neighbours, those that it has."""
        return self._states(micro, self.dtype)

    def together(self, micro: MicroBatch, numbers: Tensor) -> Tensor:
        """What was computed from `states`, for all sampled tokens."""
        return numbers if self.neighbours is None else self.neighbours.together(self._own(micro), numbers)

    def _own(self, micro: MicroBatch) -> Tensor:
        """Which sampled tokens are predicted from this rank's stretch of the row."""
        assert self.neighbours is not None
        stretch = self.neighbours.stretch(micro.ids.shape[1])
        own: Tensor = (micro.sources >= stretch.start) & (micro.sources < stretch.stop)
        return own.to(self._device)

    def _states(self, micro: MicroBatch, dtype: torch.dtype) -> Tensor:
        device, neighbours = self._device, self.neighbours
        ids, positions, sources = (each.to(device) for each in (micro.ids, micro.positions, micro.sources))
        if neighbours is not None:
            sources = sources[self._own(micro)] - neighbours.stretch(ids.shape[1]).start
            ids, positions = neighbours.own(ids), neighbours.own(positions)
        with torch.autocast(device.type, dtype, enabled=self.autocast and dtype != torch.float32):
            hidden: Tensor = self.model.base_model(
                input_ids=ids,
                position_ids=positions,
                layout=micro.layout.to(device),
                neighbours=neighbours,
                use_cache=False,
            ).last_hidden_state[0]
        return hidden[sources]

    def _score(self, micro: MicroBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        states, head = self._states(micro, dtype).to(dtype), self.model.get_output_embeddings()
        targets = micro.targets.to(states.device)
        if self.neighbours is not None:
            targets = targets[self._own(micro)]
        return score(states, head.weight, head.bias, targets, self._temperature)

    @torch.no_grad()
    def _self_test(self) -> None:
        """Packed and scored our way, a few tokens must get the log-probs that the model's own forward gives.

        Architectures differ in what they do around attention and head (caps, scales, sinks); whatever this way of
        computing does not know shows here, before anything is trained on wrong numbers.
        """
        self.model.set_attn_implementation("eager")
        expected = torch.cat([self._by_itself(prompt, reply) for prompt, reply in PROBES])
        use_packed_attention(self.model)
        error = (self.probe() - expected).abs().max().item()
        if not error < PROBE_TOLERANCE:
            raise ReasonkitError(
                f"log-probs of {type(self.model).__name__} computed from packed sequences differ from its own by "
                f"{error:.2g}: this architecture does something that the learner does not know",
                "train a Llama-, Qwen- or Mistral-like model",
            )

    @torch.no_grad()
    def probe(self) -> Tensor:
        """Log-probs of a few tokens, packed and scored our way, in float32."""
        micro = pack([_probe_sample(prompt, reply) for prompt, reply in PROBES], PROBE_ROW)
        return self._score(micro, torch.float32)[0]

    def _by_itself(self, prompt: list[int], reply: list[int]) -> Tensor:
        """Log-probs of the reply by the model's own forward."""
        ids = torch.tensor([prompt + reply], device=self.model.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        return (logits / self._temperature).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


class AdaptersOff:
    """A policy as it was before its adapters, on the same weights."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @torch.no_grad()
    def __call__(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        with without_adapters(self._policy.model):
            result: tuple[Tensor, Tensor] = self._policy(micro)
            return result

    def probe(self) -> Tensor:
        with without_adapters(self._policy.model):
            return self._policy.probe()


def filler() -> MicroBatch:
    """A row for a rank that has none left while others have: computed along with theirs, and not counted."""
    return pack([_probe_sample(*PROBES[-1])], [[0]])


def _probe_sample(prompt: list[int], reply: list[int]) -> Sample:
    scored = torch.arange(len(prompt), len(prompt) + len(reply))
    none = torch.zeros(len(reply))
    return Sample(torch.tensor(prompt + reply), scored, none, none, none, len(reply))
