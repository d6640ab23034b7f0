"""Our advantages and losses beside TRL's: its trainers' own methods, called on a stand-in for the trainer.

In TRL, advantages, importance weights and the loss are parts of methods of a trainer that needs a model, a data set
and an engine. A stand-in has the attributes that those methods read, hands out tensors where they would sample
replies or ask a model for log-probabilities, and leaves the arithmetic to them. `parity.py` runs this. Left out:
what TRL defines otherwise, which `OTHERWISE` says in words.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer, GRPOTrainer

from reasonkit.advantages import ADVANTAGES
from reasonkit.dialogue import Dialogue
from reasonkit.losses import CORRECTIONS, LOSSES, LossInputs, compute_loss, token_weights
from reasonkit.recipe import LossConfig, Recipe
from reasonkit.records import Group, Record
from reasonkit.registry import with_options
from reasonkit.train.dpo import Preference
from reasonkit.train.model import make_tokenizer
from reasonkit.train.packing import Batch

OTHERWISE = """\
advantages are divided by deviation + 1e-4 in TRL, + 1e-6 in reasonkit unless `epsilon` says otherwise
grpo, bnpo, dr_grpo and luspo divide by a micro-batch's counts in TRL, by the whole batch's in reasonkit: the same
    without gradient accumulation only
the KL penalty is times the ratio in TRL (use_bias_correction_kl, its default): on policy that has the value and
    gradient of k3_exact, off policy it differs
delta caps all ratios in TRL, `dual` those of negative advantages in reasonkit: the same from 1 + high on
the entropy bonus is a mean over tokens in TRL; in reasonkit it follows the aggregation
TRL's default importance weights (sequence_mask) cut off by the product over a sequence, `geometric` by the mean
a token whose log-probability the engine could not give weighs 1 in TRL, and is left out in reasonkit
log-ratios beyond ±20 and a k3 beyond 10 are cut in reasonkit only
DPO's label smoothing is cDPO's; TRL has it in `aot`, which is DPO where a batch holds one pair
DPO's imitation is a mean over the tokens of all chosen replies in TRL, over replies in reasonkit: the same for
    replies of one length"""

LOCAL = SimpleNamespace(
    device=torch.device("cpu"),
    num_processes=1,
    process_index=0,
    sync_gradients=True,
    gather=lambda value: value,
    gather_for_metrics=lambda value: value,
    reduce=lambda value, **_: value,
)
"""An accelerator of one process."""
CLIP, WIDER = {"epsilon_low": 0.2, "epsilon_high": 0.28}, {"clipped": {"low": 0.2, "high": 0.28}}


@dataclass(frozen=True)
class Case:
    theirs: Mapping[str, Any]
    ours: Mapping[str, Any]
    """Of a recipe's `loss`."""
    advantage: tuple[str, Mapping[str, float]] = ("grpo", {"epsilon": 1e-4})
    on_policy: bool = False


def corrected(mode: str, low: float | None, high: float | None) -> dict[str, Any]:
    return {
        "loss_type": "dapo",
        **CLIP,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": low,
        "vllm_importance_sampling_clip_max": high,
    }


CASES = {
    "grpo": Case({"loss_type": "grpo", **CLIP}, {"policy": WIDER, "aggregation": "seq_mean_token_mean"}),
    "bnpo": Case({"loss_type": "bnpo", **CLIP}, {"policy": WIDER}),
    "dr_grpo": Case(
        {"loss_type": "dr_grpo", "scale_rewards": "none", **CLIP},
        {"policy": WIDER, "aggregation": "constant"},
        ("dr_grpo", {}),
    ),
    "luspo": Case({"loss_type": "luspo", **CLIP}, {"policy": WIDER, "aggregation": "seq_mean_token_sum"}),
    "dapo": Case({"loss_type": "dapo", **CLIP}, {"policy": WIDER}),
    "dapo, delta 3 = dual 3": Case(
        {"loss_type": "dapo", "delta": 3.0, **CLIP}, {"policy": {"clipped": {"high": 0.28, "dual": 3.0}}}
    ),
    "cispo, cap 1.5": Case({"loss_type": "cispo", "epsilon_high": 1.5}, {"policy": {"cispo": {"cap": 1.5}}}),
    "gspo, mean over replies": Case(
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
        {"policy": {"gspo": {"low": 0.03, "high": 0.04}}, "aggregation": "seq_mean_token_mean"},
    ),
    "gspo, mean over tokens": Case(
        {"loss_type": "dapo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
        {"policy": {"gspo": {"low": 0.03, "high": 0.04}}},
    ),
    "dapo with KL k3": Case(
        {"loss_type": "dapo", "beta": 0.3, **CLIP}, {"policy": WIDER, "kl": 0.3, "kl_kind": "k3"}
    ),
    "grpo with KL k3": Case(
        {"loss_type": "grpo", "beta": 0.3, **CLIP},
        {"policy": WIDER, "aggregation": "seq_mean_token_mean", "kl": 0.3, "kl_kind": "k3"},
    ),
    "on policy, KL times the ratio = k3_exact": Case(
        {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": True, **CLIP},
        {"policy": WIDER, "kl": 0.3, "kl_kind": "k3_exact"},
        on_policy=True,
    ),
    "bnpo with entropy bonus": Case(
        {"loss_type": "bnpo", "entropy_coef": 0.2, **CLIP}, {"policy": WIDER, "entropy": 0.2}
    ),
    "token_truncate = token_tis": Case(
        corrected("token_truncate", None, 2.0), {"policy": WIDER, "correction": {"token_tis": {"cap": 2.0}}}
    ),
    "sequence_truncate = sequence_tis": Case(
        corrected("sequence_truncate", None, 2.0),
        {"policy": WIDER, "correction": {"sequence_tis": {"cap": 2.0}}},
    ),
    "token_mask = icepop": Case(
        corrected("token_mask", 0.5, 5.0),
        {"policy": WIDER, "correction": {"icepop": {"low": 0.5, "high": 5.0}}},
    ),
}  # fmt: skip


@dataclass
class Tensors:
    """What a model would have given, [rollouts, tokens]; sampler log-probabilities are the rollouts' own."""

    mask: Tensor
    sampler: Tensor
    old: Tensor = field(init=False)
    new: Tensor = field(init=False)
    reference: Tensor = field(init=False)
    entropy: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.old = self.sampler + 0.5 * torch.randn_like(self.mask)
        self.new = self.old + 0.5 * torch.randn_like(self.mask)
        self.reference = self.new + 0.5 * torch.randn_like(self.mask)
        self.entropy = 2 * torch.rand_like(self.mask)


def compare_grpo(groups: Sequence[Group], mask: Tensor) -> dict[str, tuple[float, float]]:
    torch.manual_seed(3)
    sampler = torch.zeros_like(mask)
    for row, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
        sampler[row, : rollout.sampled_tokens] = torch.tensor(rollout.segments[0].logprobs[1:])
    tensors = Tensors(mask, sampler)
    return {name: _compare_case(case, groups, tensors) for name, case in CASES.items()}


def _compare_case(case: Case, groups: Sequence[Group], tensors: Tensors) -> tuple[float, float]:
    leaves = [[each.clone().requires_grad_() for each in (tensors.new, tensors.entropy)] for _ in range(2)]
    ours = our_loss(case, groups, tensors, *leaves[0])
    theirs = their_loss(case, groups, tensors, *leaves[1])
    ours.backward()
    theirs.backward()
    return _difference(ours.item(), theirs.item(), _gradients(leaves[0]), _gradients(leaves[1]))


def _gradients(leaves: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).flatten() for leaf in leaves]
    )


def _difference(ours: float, theirs: float, mine: Tensor, their: Tensor) -> tuple[float, float]:
    """Of the value, and the largest one of the gradient, both relative."""
    return abs(ours - theirs) / abs(theirs), ((mine - their).abs().max() / their.abs().max()).item()


def our_loss(case: Case, groups: Sequence[Group], tensors: Tensors, new: Tensor, entropy: Tensor) -> Tensor:
    config = LossConfig.model_validate({"correction": "none", **case.ours})
    name, options = case.advantage
    rows = with_options("algorithm", name, ADVANTAGES, options)(list(groups))
    chosen, lengths = tensors.mask.bool(), tensors.mask.sum(1).long()
    counts = lengths.repeat_interleave(lengths)
    old = new.detach() if case.on_policy else tensors.old
    inputs = LossInputs(
        logprobs=new[chosen],
        old_logprobs=old[chosen],
        sampler_logprobs=tensors.sampler[chosen],
        advantages=torch.tensor([each for row in rows for each in row]).repeat_interleave(lengths),
        weights=token_weights(
            config.aggregation,
            counts,
            tokens=int(lengths.sum()),
            sequences=len(lengths),
            max_tokens=tensors.mask.shape[1],
        ),
        sequences=torch.arange(len(lengths)).repeat_interleave(lengths),
        entropy=entropy[chosen],
        reference_logprobs=tensors.reference[chosen] if config.kl else None,
    )
    policy = with_options("loss.policy", config.policy.name, LOSSES, config.policy.options)
    correction = with_options(
        "loss.correction", config.correction.name, CORRECTIONS, config.correction.options
    )
    return compute_loss(inputs, config, policy, correction).loss


def their_loss(case: Case, groups: Sequence[Group], tensors: Tensors, new: Tensor, entropy: Tensor) -> Tensor:
    trainer = grpo_trainer(case, groups, tensors, new, entropy)
    inputs = GRPOTrainer._generate_and_score_completions(
        trainer, [{"prompt": "?"} for group in groups for _ in group.rollouts]
    )
    loss: Tensor = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    return loss


def grpo_trainer(
    case: Case, groups: Sequence[Group], tensors: Tensors, new: Tensor, entropy: Tensor
) -> SimpleNamespace:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    model, reference = SimpleNamespace(training=True, is_gradient_checkpointing=False), object()
    settings = {"beta": 0.0, "scale_rewards": "group", "importance_sampling_level": "token"}
    settings |= {"vllm_importance_sampling_correction": False, "entropy_coef": 0.0, **case.theirs}
    of_args = {"delta": None, "use_bias_correction_kl": False}
    of_args |= {name: settings.pop(name) for name in of_args if name in settings}

    def logprobs(asked: object, *_: object, compute_entropy: bool = False, **__: object) -> tuple[Any, ...]:
        if compute_entropy:
            return new, entropy, None
        return tensors.reference if asked is reference else tensors.old, None, None

    def replies(prompts: list[str]) -> tuple[Any, ...]:
        ids = [list(rollout.segments[0].ids[1:]) for rollout in rollouts]
        given = [list(rollout.segments[0].logprobs[1:]) for rollout in rollouts]
        return [[0]] * len(prompts), ids, None, [""] * len(prompts), given, {}, None, None

    return SimpleNamespace(
        **settings,
        args=SimpleNamespace(
            **of_args,
            per_device_train_batch_size=len(rollouts),
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            gradient_checkpointing_kwargs=None,
        ),
        model=model,
        ref_model=reference,
        accelerator=LOCAL,
        use_vllm=True,
        num_iterations=1 if case.on_policy else 2,
        num_generations=len(groups[0].rollouts),
        max_completion_length=tensors.mask.shape[1],
        current_gradient_accumulation_steps=1,
        _generate=replies,
        _get_per_token_logps_and_entropies=logprobs,
        _calculate_rewards=lambda *_: torch.tensor([[rollout.reward] for rollout in rollouts]),
        reward_weights=torch.ones(1),
        reward_func_names=["reward"],
        multi_objective_aggregation="sum_then_normalize",
        _entropy_bonus_enabled=bool(settings["entropy_coef"]),
        use_adaptive_entropy=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        mask_truncated_completions=False,
        environment_factories=None,
        environments=[],
        tools=[],
        _tokenizer=SimpleNamespace(pad_token_id=0),
        pad_to_multiple_of=None,
        log_multimodal=False,
        _pending_extra_logs={},
        _pending_metrics={},
        _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list, rewards=defaultdict(list)),
    )


PREFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int | None]] = {
    "dpo": ({"loss_types": ["sigmoid"]}, {}, 24, None),
    "dpo, normalised": ({"loss_types": ["sigmoid_norm"], "beta": 5.0}, {"normalised": True, "beta": 5.0}, 24, None),
    "dpo with imitation": ({"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}, {"nll": 0.3}, 24, 9),
    "dpo, smoothed": ({"loss_types": ["aot"], "label_smoothing": 0.2}, {"smoothing": 0.2}, 1, None),
}  # fmt: skip
"""TRL's settings, our options, pairs, and the length of all chosen replies where only one length compares."""


class GivenLogprobs:
    """In place of a learner: hands out what it was given, first the reference's, then the policy's."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.reference = [-2 * torch.rand(length) for length in lengths]
        self.policy = [each + 0.3 * torch.randn_like(each) for each in self.reference]
        self.next = [self.reference, self.policy]

    async def logprobs(self, batch: Batch, *, reference: bool) -> list[Tensor]:
        del reference
        given = self.next.pop(0)
        assert [len(each) for each in given] == [sample.rollout_tokens for sample in batch.samples]
        return given


def compare_dpo() -> dict[str, tuple[float, float]]:
    torch.manual_seed(4)
    draw = random.Random(4)
    found = {}
    for name, (theirs, options, pairs, chosen) in PREFERENCES.items():
        words = [("1" * (chosen or draw.randint(1, 30)), "2" * draw.randint(1, 30)) for _ in range(pairs)]
        learner = GivenLogprobs([len(word) + 1 for pair in words for word in pair])  # the end of turn counts
        loss, gradients = our_preference(words, learner, options)
        their, gradient = their_preference(learner, theirs)
        found[name] = _difference(loss, their, torch.cat(gradients), torch.cat(gradient))
    return found


def our_preference(
    words: Sequence[tuple[str, str]], learner: GivenLogprobs, options: Mapping[str, Any]
) -> tuple[float, list[Tensor]]:
    """The loss that is logged, and the gradient of the weighted imitation that is computed for it."""
    recipe = Recipe.model_validate({"name": "r", "model": {"path": "m"}, "algorithm": {"dpo": dict(options)}})
    records = [
        Record(f"r{place}", "pairs", ({"role": "user", "content": "?"},), {"chosen": better, "rejected": worse})
        for place, (better, worse) in enumerate(words)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        preference = Preference.of(recipe, Dialogue(make_tokenizer("?12")), learner, Path(folder))
        asyncio.run(preference.prepare(lambda: records))
        batch, measured = asyncio.run(preference.batch(records, 1))
    config = preference.loss(recipe.loss)
    leaves = [each.clone().requires_grad_() for each in learner.policy]
    nothing = torch.zeros(batch.tokens)
    counts = torch.tensor([sample.rollout_tokens for sample in batch.samples])
    weights = token_weights(
        config.aggregation,
        counts.repeat_interleave(counts),
        tokens=batch.tokens,
        sequences=batch.sequences,
        max_tokens=1,
    )
    inputs = LossInputs(
        logprobs=torch.cat(leaves),
        old_logprobs=nothing,
        sampler_logprobs=nothing,
        advantages=torch.cat([sample.advantages for sample in batch.samples]),
        weights=weights,
        sequences=torch.arange(len(counts)).repeat_interleave(counts),
    )
    policy = with_options("loss.policy", config.policy.name, LOSSES, config.policy.options)
    correction = with_options(
        "loss.correction", config.correction.name, CORRECTIONS, config.correction.options
    )
    compute_loss(inputs, config, policy, correction).loss.backward()
    return measured["loss"], [leaf.grad for leaf in leaves if leaf.grad is not None]


def their_preference(learner: GivenLogprobs, settings: Mapping[str, Any]) -> tuple[float, list[Tensor]]:
    """TRL has chosen replies first and rejected ones after them, and one place less in what is predicted."""
    order = [*range(0, len(learner.policy), 2), *range(1, len(learner.policy), 2)]
    longest = max(len(each) for each in learner.policy)
    mask = torch.zeros(len(order), longest + 2)  # two tokens of prompt
    logprobs = torch.zeros(len(order), longest + 1)
    for row, place in enumerate(order):
        length = len(learner.policy[place])
        mask[row, 2 : 2 + length] = 1
        logprobs[row, 1 : 1 + length] = learner.policy[place]
    leaf = logprobs.requires_grad_()
    reference = torch.stack([learner.reference[place].sum() for place in order])
    outputs = SimpleNamespace(
        log_probs=leaf * mask[:, 1:],
        entropy=torch.zeros_like(leaf),
        mean_logits=torch.zeros_like(leaf),
        is_top1=torch.zeros_like(leaf, dtype=torch.bool),
    )
    trainer = SimpleNamespace(
        **{"beta": 0.1, "loss_weights": [1.0], "label_smoothing": 0.0, **settings},
        model=SimpleNamespace(training=True),
        accelerator=LOCAL,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask, dtype=torch.long),
        "attention_mask": torch.ones_like(mask, dtype=torch.long),
        "completion_mask": mask.long(),
        "ref_chosen_logps": reference[: len(order) // 2],
        "ref_rejected_logps": reference[len(order) // 2 :],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    loss.backward()
    assert leaf.grad is not None
    rows = {place: leaf.grad[row, 1 : 1 + len(learner.policy[place])] for row, place in enumerate(order)}
    return loss.item(), [rows[place] for place in range(len(order))]
