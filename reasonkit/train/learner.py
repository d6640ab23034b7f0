"""The learner of one process, on a CPU or one GPU: log-probs, loss, backward, clip, optimizer.

Each public call runs in the learner's own worker thread, so that the controller's loop stays alive meanwhile.
The model computes in evaluation mode (no dropout: the policy that is trained is the policy that sampled) and
keeps float32 weights, whatever dtype its forward runs in. Left out: more than one process.
"""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reasonkit.advantages import WITH_CRITIC
from reasonkit.engines import WeightSource
from reasonkit.errors import ReasonkitError
from reasonkit.losses import (
    CORRECTIONS,
    LOSSES,
    Correction,
    LossInputs,
    LossOutputs,
    PolicyLoss,
    compute_loss,
    ignores_zero_advantage,
    token_weights,
)
from reasonkit.recipe import LossConfig, Recipe, TrainConfig
from reasonkit.registry import with_options
from reasonkit.train.critic import Critic, CriticSettings
from reasonkit.train.model import load_model, load_tokenizer, save_model
from reasonkit.train.optimizer import apply_update, make_optimizer, make_schedule
from reasonkit.train.packing import Batch, MicroBatch, Sample, micro_batches
from reasonkit.train.policy import Policy
from reasonkit.train.weights import ModelWeights

T = TypeVar("T")

OPTIMIZER = "optimizer.pt"
TOKEN_BUDGET = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True, slots=True)
class StepStats:
    """The numbers of one optimizer update. Means are over the tokens that went through the forward pass."""

    metrics: Mapping[str, float]


class Learner(Protocol):
    """A local object, or a group of processes behind the same face."""

    async def step(self, batch: Batch) -> StepStats: ...

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]: ...

    async def values(self, batch: Batch) -> list[Tensor]: ...

    def weights(self) -> WeightSource: ...

    async def save(self, path: Path) -> None: ...

    async def load(self, path: Path) -> None: ...


class LocalLearner:
    """Implements Learner. The model belongs to the learner from here on."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        loss: LossConfig,
        train: TrainConfig,
        total_updates: int,
        max_tokens: int,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        tokenizer: PreTrainedTokenizerBase | None = None,
        skip_zero_advantage: bool = True,
        critic: CriticSettings | None = None,
    ) -> None:
        """`total_updates` is where the learning rate's schedule ends, `max_tokens` what `constant` aggregation
        divides by, `dtype` that of the forward pass. The tokenizer is only kept to be saved along. Samples whose
        advantage is 0 are left out of the forward pass where they cannot change the gradient, but for measuring."""
        self.model = model
        self._loss_config = loss
        self._skip_zero_advantage = skip_zero_advantage
        self._policy_loss: PolicyLoss = with_options(
            "policy loss", loss.policy.name, LOSSES, loss.policy.options
        )
        self._correction: Correction = with_options(
            "correction", loss.correction.name, CORRECTIONS, loss.correction.options
        )
        self._schedule = make_schedule(train)
        self._config = train
        self._total_updates = total_updates
        self._max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._policy = Policy(model, temperature, dtype)
        self._optimizer = make_optimizer(model, train)
        self._token_budget = train.token_budget or TOKEN_BUDGET[model.device.type]
        self._updates = 0
        self._reference = self._frozen_copy() if loss.kl else None
        self._critic = (
            Critic(self._policy, critic, grad_clip=train.grad_clip, token_budget=self._token_budget)
            if critic is not None
            else None
        )
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="learner")

    @classmethod
    def from_recipe(cls, recipe: Recipe, path: Path | str, device: str = "cpu") -> Self:
        """The learner of a recipe, on the model and tokenizer at `path`."""
        with_critic = recipe.algorithm.name in WITH_CRITIC
        return cls(
            load_model(path, torch.float32, device),
            loss=recipe.loss,
            train=recipe.train,
            total_updates=recipe.train.steps * recipe.updates_per_rollout,
            max_tokens=recipe.rollout.max_tokens,
            temperature=recipe.rollout.temperature,
            dtype=getattr(torch, recipe.model.dtype),
            tokenizer=load_tokenizer(path),
            critic=CriticSettings.of(recipe.algorithm.options.get("critic", {})) if with_critic else None,
        )

    async def step(self, batch: Batch) -> StepStats:
        """One optimizer update."""
        return await self._in_worker(lambda: self._step(batch))

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]:
        """Of every sample's scored tokens, by the current weights, or by those that the learner began with."""
        policy = self._reference if reference else self._policy
        if policy is None:
            raise ReasonkitError(
                "this learner keeps no reference model, because loss.kl is 0", "--set loss.kl=0.001"
            )
        return await self._in_worker(lambda: self._logprobs(batch.samples, policy))

    async def values(self, batch: Batch) -> list[Tensor]:
        """Of every sample's scored tokens, by the critic."""
        critic = self._critic
        if critic is None:
            raise ReasonkitError("this learner keeps no critic", "--set algorithm=ppo")
        return await self._in_worker(lambda: critic.values(batch.samples))

    def weights(self) -> WeightSource:
        return ModelWeights(self.model)

    async def save(self, path: Path) -> None:
        """A plain Hugging Face folder, which any tool loads, with the optimizer's state beside the weights."""
        await self._in_worker(lambda: self._save(path))

    async def load(self, path: Path) -> None:
        """Continue exactly where `save` left off. The reference stays what the learner was made with."""
        await self._in_worker(lambda: self._load(path))

    def _frozen_copy(self) -> Policy:
        """The reference of the KL penalty: the weights that the learner was made with."""
        frozen = copy.deepcopy(self.model).requires_grad_(False)
        for parameter in frozen.parameters():
            parameter.grad = None
        return self._policy.of(frozen)

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def accumulate(self, batch: Batch) -> dict[str, float]:
        """Add the gradient of the batch's loss to the parameters' own; returns what was measured on the way."""
        samples = batch.samples
        if self._skip_zero_advantage and ignores_zero_advantage(self._loss_config):
            samples = tuple(sample for sample in samples if sample.advantages.any())
        loss = torch.zeros((), dtype=torch.float64, device=self.model.device)
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros_like(loss))
        for micro in micro_batches(samples, self._token_budget):
            outputs = self._forward(micro, batch)
            outputs.loss.backward()
            loss += outputs.loss.detach()
            for name, total in outputs.sums.items():
                sums[name] += total
        tokens = sum(sample.scored.numel() for sample in samples)
        return {
            "loss": loss.item(),
            "tokens_trained": float(tokens),
            "samples_trained": float(len(samples)),
            **{name: (total / tokens).item() for name, total in sums.items()},
        }

    def _step(self, batch: Batch) -> StepStats:
        measured = self.accumulate(batch)
        share = self._schedule(self._updates, self._total_updates)
        rate = self._config.lr * share
        norm = apply_update(self.model, self._optimizer, rate=rate, grad_clip=self._config.grad_clip)
        if self._critic is not None:
            measured |= self._critic.fit(batch, share)
        self._updates += 1
        return StepStats({**measured, "grad_norm": norm.item(), "lr": rate})

    def _forward(self, micro: MicroBatch, batch: Batch) -> LossOutputs:
        config, device = self._loss_config, self.model.device
        logprobs, entropy = self._policy(micro)
        reference = None
        if self._reference is not None and config.kl_kind != "reward":
            with torch.no_grad():
                reference, _ = self._reference(micro)
        inputs = LossInputs(
            logprobs=logprobs,
            old_logprobs=micro.old_logprobs.to(device),
            sampler_logprobs=micro.sampler_logprobs.to(device),
            advantages=micro.advantages.to(device),
            weights=token_weights(
                config.aggregation,
                micro.rollout_tokens.to(device),
                tokens=batch.tokens,
                sequences=batch.sequences,
                max_tokens=self._max_tokens,
            ),
            sequences=micro.sequences.to(device),
            entropy=entropy,
            reference_logprobs=reference,
        )
        return compute_loss(inputs, config, self._policy_loss, self._correction)

    @torch.no_grad()
    def _logprobs(self, samples: Sequence[Sample], policy: Policy) -> list[Tensor]:
        result: dict[int, Tensor] = {}
        for micro in micro_batches(samples, self._token_budget):
            logprobs, _ = policy(micro)
            counts = [samples[place].scored.numel() for place in micro.samples]
            result.update(zip(micro.samples, logprobs.cpu().split(counts), strict=True))
        return [result[place] for place in range(len(samples))]

    def _save(self, path: Path) -> None:
        save_model(self.model, path)
        if self._tokenizer is not None:
            self._tokenizer.save_pretrained(path)
        state = {"optimizer": self._optimizer.state_dict(), "updates": self._updates}
        if self._critic is not None:
            state["critic"] = self._critic.state()
        try:
            torch.save(state, path / OPTIMIZER)
        except RuntimeError as error:  # what torch makes of a write that fails
            raise OSError(f"{OPTIMIZER} could not be written whole; is the disk full?") from error

    def _load(self, path: Path) -> None:
        self.model.load_state_dict(load_model(path).state_dict())
        state = torch.load(path / OPTIMIZER, map_location=self.model.device, weights_only=True)
        self._optimizer.load_state_dict(state["optimizer"])
        self._updates = state["updates"]
        if self._critic is not None:
            self._critic.restore(state["critic"])
