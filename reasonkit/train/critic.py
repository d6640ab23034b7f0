"""The critic of PPO: what return to expect after each token, learned beside the policy.

A copy of the starting model without its head, and a linear layer that begins at zero, so that the first
advantages are the plain returns. It has its own optimizer. Left out: anything but one process.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from reasonkit.registry import bind
from reasonkit.train.packing import Batch, MicroBatch, Sample, micro_batches
from reasonkit.train.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSettings:
    lr: float = 1e-5
    """Its learning rate, on the policy's schedule."""
    clip: float = 0.2
    """An update moves a value by no more than this before its loss stops falling."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> CriticSettings:
        settings: CriticSettings = bind("critic", "critic", cls, options)()
        return settings


class Critic:
    def __init__(
        self, policy: Policy, settings: CriticSettings, *, grad_clip: float, token_budget: int
    ) -> None:
        self._trunk = policy.of(copy.deepcopy(policy.model))
        weight = self._trunk.model.get_output_embeddings().weight
        self._head = torch.nn.Linear(weight.shape[1], 1, device=weight.device)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)
        self._parameters = [*self._trunk.model.base_model.parameters(), *self._head.parameters()]
        self._optimizer = AdamW(self._parameters, lr=settings.lr, weight_decay=0.0)
        self._settings = settings
        self._grad_clip = grad_clip
        self._token_budget = token_budget

    @torch.no_grad()
    def values(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Of every sample's scored tokens."""
        result: dict[int, Tensor] = {}
        for micro in micro_batches(samples, self._token_budget):
            counts = [samples[place].scored.numel() for place in micro.samples]
            result.update(zip(micro.samples, self._expect(micro).cpu().split(counts), strict=True))
        return [result[place] for place in range(len(samples))]

    def fit(self, batch: Batch, rate: float) -> dict[str, float]:
        """One update towards the returns, at `rate` times the learning rate."""
        device = self._head.weight.device
        loss = torch.zeros((), dtype=torch.float64, device=device)
        for micro in micro_batches(batch.samples, self._token_budget):
            assert micro.critic is not None, "an algorithm with a critic gives every rollout its returns"
            returns, before = micro.critic.returns.to(device), micro.critic.values.to(device)
            values = self._expect(micro)
            clip = self._settings.clip
            near = before + (values - before).clamp(-clip, clip)
            errors = torch.maximum((values - returns).square(), (near - returns).square()) / 2
            part = errors.sum() / batch.tokens
            part.backward()
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._grad_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.lr * rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return {"critic_loss": loss.item(), "critic_grad_norm": norm.item()}

    def state(self) -> dict[str, Any]:
        return {
            "trunk": self._trunk.model.base_model.state_dict(),
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._trunk.model.base_model.load_state_dict(state["trunk"])
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _expect(self, micro: MicroBatch) -> Tensor:
        values: Tensor = self._head(self._trunk.states(micro).float())[:, 0]
        return values
