"""What one process of a learner does, which may be its only one: log-probs, loss, backward, clip, optimizer.

All ranks of a learner are made alike and get the same calls in the same order, each with the whole batch; what a
rank computes itself is its share of the batch, on its share of the parameters (mesh.py). Losses are sums over
tokens whose weights come from the counts of the whole batch, so the shares add up to one process's gradient. The
model computes in evaluation mode (no dropout: the policy that is trained is the policy that sampled) and keeps
float32 weights, whatever dtype its forward runs in. Everything here is synchronous and knows nothing of how the
processes are started or talked to.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
from reasonkit.train.flops import Meter
from reasonkit.train.fsdp import spread
from reasonkit.train.lora import add_adapters, only_adapters_train
from reasonkit.train.mesh import Mesh
from reasonkit.train.model import load_model, load_tokenizer
from reasonkit.train.optimizer import apply_update, make_optimizer, make_schedule
from reasonkit.train.packing import Batch, MicroBatch, Sample, Targets, make_batch, pack
from reasonkit.train.policy import AdaptersOff, Policy, filler
from reasonkit.train.saving import (
    Writer,
    fill_moments,
    moments,
    read_model,
    read_training,
)
from reasonkit.train.weights import ModelWeights

TOKEN_BUDGET = {"cpu": 2048, "cuda": 16384}


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """What a learner is made of, beside its model."""

    loss: LossConfig
    train: TrainConfig
    total_updates: int
    """Where the learning rate's schedule ends."""
    max_tokens: int
    """What `constant` aggregation divides by."""
    temperature: float = 1.0
    dtype: torch.dtype = torch.float32
    """Of the forward pass."""
    skip_zero_advantage: bool = True
    """Leave samples whose advantage is 0 out of the forward pass where they cannot change the gradient; false
    measures them too."""
    critic: CriticSettings | None = None
    lora: Mapping[str, Any] | None = None
    """Fields of peft's LoraConfig: train adapters instead of the weights."""
    seed: int = 0
    """Of what is drawn when the learner is made."""

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        with_critic = recipe.algorithm.name in WITH_CRITIC
        return cls(
            loss=recipe.loss,
            train=recipe.train,
            total_updates=recipe.train.steps * recipe.updates_per_rollout,
            max_tokens=recipe.rollout.max_tokens,
            temperature=recipe.rollout.temperature,
            dtype=getattr(torch, recipe.model.dtype),
            critic=CriticSettings.of(recipe.algorithm.options.get("critic", {})) if with_critic else None,
            lora=recipe.model.lora,
            seed=recipe.seed,
        )


class Rank:
    """The model belongs to the rank from here on. The tokenizer is only kept to be saved along."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: LearnerSettings,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """Without a mesh, the only rank, wherever the model is."""
        loss, train = settings.loss, settings.train
        self.mesh = mesh or Mesh(model.device)
        self._settings = settings
        self._tokenizer = tokenizer
        self._policy_loss: PolicyLoss = with_options(
            "policy loss", loss.policy.name, LOSSES, loss.policy.options
        )
        self._correction: Correction = with_options(
            "correction", loss.correction.name, CORRECTIONS, loss.correction.options
        )
        self._schedule = make_schedule(train)
        self._token_budget = train.token_budget or TOKEN_BUDGET[self.mesh.device.type]
        self._updates = 0
        self._writer = Writer(self.mesh)
        self.model = model
        self.policy = Policy(model, settings.temperature, settings.dtype, self.mesh.device)
        self._reference: Policy | AdaptersOff | None = self._frozen_copy() if loss.kl else None
        if settings.lora is not None:
            self._adapt(settings.lora)
        self._critic = (
            Critic(self.policy, settings.critic, train, self.mesh, self._token_budget)
            if settings.critic is not None
            else None
        )
        if isinstance(self._reference, Policy):
            spread(self._reference, self._reference, self.mesh, train)
        spread(self.policy, self.policy, self.mesh, train)
        self.optimizer = make_optimizer(self.policy, train)
        self._meter = Meter.of(
            self.mesh.device,
            model.config,
            neighbours=self.mesh.sequence * self.mesh.tensor,
            frozen=settings.lora is not None,
        )

    @classmethod
    def from_recipe(cls, recipe: Recipe, path: Path | str, mesh: Mesh) -> Self:
        """The rank of a recipe, on the model and tokenizer at `path`."""
        model = load_model(path, torch.float32, "cpu" if mesh.shards is not None else str(mesh.device))
        return cls(model, LearnerSettings.of(recipe), tokenizer=load_tokenizer(path), mesh=mesh)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimizer update; returns what was measured on the way."""
        self._meter.start()
        measured = self.accumulate(batch)
        train, share = self._settings.train, self._schedule(self._updates, self._settings.total_updates)
        rate = train.lr * share
        norm = apply_update(self.policy, self.optimizer, rate=rate, grad_clip=train.grad_clip)
        measured |= self._meter.read()
        if self._critic is not None:
            measured |= self._critic.fit(batch, share)
        self._updates += 1
        return {**measured, "grad_norm": norm.item(), "lr": rate}

    def accumulate(self, batch: Batch) -> dict[str, float]:
        """Add the gradient of the batch's loss to the parameters' own; returns what was measured on the way."""
        samples: Sequence[Sample] = batch.samples
        if self._settings.skip_zero_advantage and ignores_zero_advantage(self._settings.loss):
            samples = [sample for sample in samples if sample.advantages.any()]
        loss = torch.zeros((), dtype=torch.float64, device=self.mesh.device)
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros_like(loss))
        for row in self.mesh.share(samples, self._token_budget):
            self.mesh.tick()
            micro = pack(samples, row) if row else filler()
            outputs = self._forward(micro, batch)
            counts = 1.0 if row else 0.0
            if row:
                self._meter.count(
                    micro.ids.numel(), micro.targets.numel(), micro.layout.lengths, reference=self._in_loss
                )
            # Ranks average their gradients; the shares of a batch are to be added up.
            (outputs.loss * (counts * self.mesh.averaged)).backward()
            loss += counts * outputs.loss.detach()
            for name, total in outputs.sums.items():
                sums[name] += counts * total
        tokens = sum(sample.scored.numel() for sample in samples)
        totals = self.mesh.total(torch.stack([loss, *sums.values()])).tolist()
        return {
            "loss": totals[0],
            "tokens_trained": float(tokens),
            "samples_trained": float(len(samples)),
            **{name: total / tokens for name, total in zip(sums, totals[1:], strict=True)},
        }

    def logprobs(self, samples: Sequence[Sample], *, reference: bool) -> dict[int, Tensor]:
        """Of the scored tokens of those samples that are this rank's share, by their places."""
        policy = self._reference if reference else self.policy
        if policy is None:
            raise ReasonkitError(
                "this learner keeps no reference model, because loss.kl is 0", "--set loss.kl=0.001"
            )
        return self._share_of(samples, lambda micro: policy(micro)[0])

    def values(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """The same, by the critic."""
        if self._critic is None:
            raise ReasonkitError("this learner keeps no critic", "--set algorithm=ppo")
        return self._share_of(samples, self._critic.expect)

    def weights(self) -> WeightSource:
        return ModelWeights(self.model, self._settings.dtype)

    def rehearse(self, longest: int) -> None:
        """Compute the largest batch there can be, with as many sequences of `longest` tokens as fit, and forget it:
        what does not fit into memory shows before anything is sampled."""
        try:
            self._rehearse(largest_batch(self.mesh.parts, self._token_budget, longest))
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise ReasonkitError(
                f"a micro-batch of {max(self._token_budget, longest - 1):,} tokens does not fit into the memory of "
                f"{self.mesh.device}: {error}",
                f"lower train.token_budget ({self._token_budget}) or model.context ({longest}), or --set "
                "train.save_memory=[checkpoint_activations,offload_optimizer,offload_parameters]",
            ) from error

    def save(self, path: Path, state: Mapping[str, Any]) -> None:
        """Copy everything that resuming needs, and write it to the new folder `path` while training goes on.

        `path` appears once it is whole. What goes wrong with it is raised by the next `save` or `saved`.
        """
        self.saved()
        self._writer.start(path, self.model, self._training_state(), self._tokenizer, state)

    def saved(self) -> None:
        """Wait until the last `save` is on disk."""
        self._writer.wait()

    def load(self, path: Path) -> None:
        """Continue exactly where `save` left off, whatever the number of ranks. The reference stays what it is."""
        read_model(self.model, path, self.mesh)
        updates = torch.zeros(1, dtype=torch.int64)
        read_training({"updates": updates}, path, self.mesh)
        self._updates = int(updates)
        self.optimizer.state.clear()
        if self._updates == 0:  # nothing but the model has been anywhere yet
            return
        fill_moments(self.optimizer)
        if self._critic is not None:
            self._critic.fill_moments()
        read_training(self._training_state(), path, self.mesh)

    def _rehearse(self, batch: Batch) -> None:
        self.accumulate(batch)
        self.optimizer.zero_grad(set_to_none=False)
        if not self._updates:
            fill_moments(self.optimizer)
        if self._critic is not None:
            self._critic.rehearse(batch)
            if not self._updates:
                self._critic.fill_moments()
                self._critic.forget_moments()
        if not self._updates:
            self.optimizer.state.clear()

    def _training_state(self) -> dict[str, Tensor]:
        """What training keeps beside the model, under names that do not depend on the number of ranks."""
        critic = self._critic.state() if self._critic is not None else {}
        return {
            "updates": torch.tensor([self._updates]),
            **{f"policy.{name}": each for name, each in moments(self.model, self.optimizer).items()},
            **{f"critic.{name}": each for name, each in critic.items()},
        }

    @property
    def _in_loss(self) -> bool:
        """Whether the loss asks for the reference."""
        return self._reference is not None and self._settings.loss.kl_kind != "reward"

    def _frozen_copy(self) -> Policy:
        """The reference of the KL penalty: the weights that the rank was made with."""
        frozen = copy.deepcopy(self.model).requires_grad_(False)
        for parameter in frozen.parameters():
            parameter.grad = None
        return self.policy.of(frozen)

    def _adapt(self, fields: Mapping[str, Any]) -> None:
        """Train adapters. Without them the model is the reference, if they begin as nothing and all else rests."""
        before = self.policy.probe()
        add_adapters(self.model, fields, self._settings.seed)
        bare = AdaptersOff(self.policy)
        same = torch.equal(self.policy.probe(), before) and torch.equal(bare.probe(), before)
        if self._reference is not None and same and only_adapters_train(self.model):
            self._reference = bare

    def _forward(self, micro: MicroBatch, batch: Batch) -> LossOutputs:
        config, device = self._settings.loss, self.mesh.device
        logprobs, entropy = self.policy(micro)
        reference = None
        if self._in_loss:
            assert self._reference is not None
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
                max_tokens=self._settings.max_tokens,
            ),
            sequences=micro.sequences.to(device),
            entropy=entropy,
            reference_logprobs=reference,
        )
        return compute_loss(inputs, config, self._policy_loss, self._correction)

    @torch.no_grad()
    def _share_of(
        self, samples: Sequence[Sample], compute: Callable[[MicroBatch], Tensor]
    ) -> dict[int, Tensor]:
        """What `compute` gives for the scored tokens of each sample of this rank's share, by the sample's place."""
        result: dict[int, Tensor] = {}
        for row in self.mesh.share(samples, self._token_budget):
            self.mesh.tick()
            micro = pack(samples, row) if row else filler()
            numbers = compute(micro)
            if row:
                counts = [samples[place].scored.numel() for place in micro.samples]
                result.update(zip(micro.samples, numbers.cpu().split(counts), strict=True))
        return result


def _is_out_of_memory(error: Exception) -> bool:
    """Of a GPU it has a type of its own; of a CPU torch says it in words."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def largest_batch(parts: int, token_budget: int, longest: int) -> Batch:
    """Of each part one row: as many sequences of `longest` tokens as it holds, one at least, and the rest a shorter
    one. All but their first tokens are to be learned, and they share none. Their last ones are no inputs."""
    full, rest = divmod(token_budget, longest - 1)
    lengths = [longest] * max(full, 1) + [rest + 1] * (full > 0 and rest > 0)
    return make_batch([_learned(length) for length in lengths * parts])


def _learned(length: int) -> Sample:
    ones = torch.ones(length - 1)
    return Sample(
        ids=torch.ones(length, dtype=torch.long),
        scored=torch.arange(1, length),
        old_logprobs=-ones,
        sampler_logprobs=-ones,
        advantages=ones,
        rollout_tokens=length - 1,
        critic=Targets(ones, ones),
    )
