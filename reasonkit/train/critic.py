"""The critic of PPO: what return to expect after each token, learned beside the policy.

A copy of the starting model without its head, and a linear layer that begins at zero, so that the first
advantages are the plain returns. It has its own optimizer, and learns from the same rows as the policy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reasonkit.recipe import TrainConfig
from reasonkit.registry import bind
from reasonkit.train.fsdp import spread
from reasonkit.train.mesh import Mesh
from reasonkit.train.optimizer import adamw, apply_update
from reasonkit.train.packing import Batch, MicroBatch, pack
from reasonkit.train.policy import Policy, filler
from reasonkit.train.saving import fill_moments, moments


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
    """The model of values on this rank, with its optimizer."""

    def __init__(
        self, policy: Policy, settings: CriticSettings, train: TrainConfig, mesh: Mesh, token_budget: int
    ) -> None:
        self._values = _Values(policy.of(copy.deepcopy(policy.model)))
        spread(self._values, self._values.trunk, mesh, train)
        parameters = [each for each in self._values.parameters() if each.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer = adamw(parameters, settings.lr, weight_decay=0.0)
        self._settings = settings
        self._grad_clip = train.grad_clip
        self._mesh = mesh
        self._token_budget = token_budget

    def expect(self, micro: MicroBatch) -> Tensor:
        """[scored] The return that is expected after each sampled token."""
        values: Tensor = self._values(micro)
        return values

    def fit(self, batch: Batch, rate: float) -> dict[str, float]:
        """One update towards the returns, at `rate` times the learning rate."""
        loss = self._accumulate(batch)
        norm = apply_update(
            self._values, self._optimizer, rate=self._settings.lr * rate, grad_clip=self._grad_clip
        )
        return {"critic_loss": self._mesh.total(loss).item(), "critic_grad_norm": norm.item()}

    def rehearse(self, batch: Batch) -> None:
        """Compute the gradient of a batch, and forget it."""
        self._accumulate(batch)
        self._optimizer.zero_grad(set_to_none=False)

    def _accumulate(self, batch: Batch) -> Tensor:
        loss = torch.zeros((), dtype=torch.float64, device=self._mesh.device)
        for row in self._mesh.share(batch.samples, self._token_budget):
            self._mesh.tick()
            part = self._loss(pack(batch.samples, row), batch) if row else 0.0 * self.expect(filler()).sum()
            (part * self._mesh.averaged).backward()
            loss += part.detach()
        return loss

    def state(self) -> dict[str, Tensor]:
        """Weights and moments: the tensors themselves, to be copied or filled."""
        trained = {name: each for name, each in self._values.named_parameters() if each.requires_grad}
        return {**trained, **moments(self._values, self._optimizer)}

    def fill_moments(self) -> None:
        fill_moments(self._optimizer)

    def forget_moments(self) -> None:
        self._optimizer.state.clear()

    def _loss(self, micro: MicroBatch, batch: Batch) -> Tensor:
        assert micro.critic is not None, "an algorithm with a critic gives every rollout its returns"
        device, clip = self._mesh.device, self._settings.clip
        returns, before = micro.critic.returns.to(device), micro.critic.values.to(device)
        values = self.expect(micro)
        near = before + (values - before).clamp(-clip, clip)
        errors = torch.maximum((values - returns).square(), (near - returns).square()) / 2
        return errors.sum() / batch.tokens


class _Values(torch.nn.Module):
    """A model whose head gives one number."""

    def __init__(self, trunk: Policy) -> None:
        super().__init__()
        unused = trunk.model.get_output_embeddings()
        if unused.weight is not trunk.model.get_input_embeddings().weight:
            unused.requires_grad_(False)
        self.trunk = trunk
        self.head = torch.nn.Linear(unused.weight.shape[1], 1, device=unused.weight.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, micro: MicroBatch) -> Tensor:
        states = self.trunk.states(micro).to(self.head.weight.dtype)
        values: Tensor = self.head(states).sum(
            1
        )  # of one column; FSDP wants its own tensor, not a view of one
        return self.trunk.together(micro, values.float())
