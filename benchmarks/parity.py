"""Our advantages, losses and divergences beside TRL's and verl's own on one random batch: relative differences.

    python benchmarks/parity.py

TRL comes with the `bench` group (parity_trl.py). verl pins an older transformers than ours, so it is in no group
and, where it is not installed, left out, saying so. Only its core functions are imported, which need little beside
what we have (omegaconf before 2.4 would need an older antlr4 than the one there):

    pip install --no-deps verl==0.9.1 tensordict==0.15.3 "omegaconf>=2.4" codetiming orjson cloudpickle pyvers

What either defines otherwise than reasonkit does is said, not compared.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import torch
from torch import Tensor

from reasonkit.advantages import Advantages, Credit, grpo, ppo, reinforce_pp, reinforce_pp_baseline, rloo
from reasonkit.losses import LossInputs, cispo, clipped, divergence, gspo, token_weights
from reasonkit.records import Group, Record, Rollout, Segment, Signals

GROUPS, N, LONGEST = 16, 8, 40
RECORD = Record("r", "parity", ({"role": "user", "content": "?"},), None)
MODES = {
    "token_mean": "token-mean",
    "seq_mean_token_mean": "seq-mean-token-mean",
    "seq_mean_token_sum": "seq-mean-token-sum",
    "constant": "seq-mean-token-sum-norm",
}
VERL_OTHERWISE = """\
a group of one keeps its raw reward in verl, and gives 0 in reasonkit
cispo's bounds are 1 ± ε in verl, and absolute in reasonkit"""


def random_batch(seed: int) -> tuple[list[Group], Tensor]:
    """Groups, and the mask [rollouts, LONGEST] of their tokens when padded."""
    draw = random.Random(seed)
    groups = []
    for _ in range(GROUPS):
        rollouts = []
        for sample in range(N):
            length = draw.randint(1, LONGEST)
            segment = Segment(
                (0, *range(length)), (0, *[1] * length), (0.0, *[-3 * draw.random() for _ in range(length)])
            )
            rollouts.append(
                Rollout(
                    uid="r",
                    sample=sample,
                    segments=(segment,),
                    text="",
                    finish_reason="stop",
                    verdict=None,
                    reward=draw.choice([0.0, 0.25, 1.0]),
                    signals=Signals(values=tuple(draw.random() for _ in range(length))),
                )
            )
        groups.append(Group(RECORD, tuple(rollouts)))
    mask = torch.zeros(GROUPS * N, LONGEST)
    for row, rollout in enumerate(rollout for group in groups for rollout in group.rollouts):
        mask[row, : rollout.sampled_tokens] = 1.0
    return groups, mask


def padded(rows: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    result = torch.zeros_like(mask)
    for row, values in enumerate(rows):
        result[row, : len(values)] = torch.tensor(values)
    return result


def spread(advantages: Advantages, groups: Sequence[Group], mask: Tensor) -> Tensor:
    """Ours, token by token, padded."""
    rows = [
        each.tokens if isinstance(each, Credit) else [each] * rollout.sampled_tokens
        for group, row in zip(groups, advantages, strict=True)
        for rollout, each in zip(group.rollouts, row, strict=True)
    ]
    return padded(rows, mask)


def compare_advantages(groups: list[Group], mask: Tensor) -> dict[str, float]:
    import numpy
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo import core_algos as verl

    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = torch.zeros_like(mask)
    for row, rollout in enumerate(rollouts):
        rewards[row, rollout.sampled_tokens - 1] = rollout.reward
    index = numpy.array([place for place, group in enumerate(groups) for _ in group.rollouts])
    values = padded([rollout.signals.values for rollout in rollouts], mask)
    config = AlgoConfig(gamma=0.9)
    theirs = {
        "grpo": verl.compute_grpo_outcome_advantage(rewards.clone(), mask, index)[0],
        "rloo": verl.compute_rloo_outcome_advantage(rewards.clone(), mask, index)[0],
        "reinforce_pp, gamma 0.9": verl.compute_reinforce_plus_plus_outcome_advantage(
            rewards.clone(), mask, config
        )[0],
        "reinforce_pp_baseline": verl.compute_reinforce_plus_plus_baseline_outcome_advantage(
            rewards.clone(), mask, index
        )[0],
        "ppo, gamma 0.9, lambda 0.8": verl.compute_gae_advantage_return(rewards, values, mask, 0.9, 0.8)[0]
        * mask,
    }
    ours = {
        "grpo": grpo(groups),
        "rloo": rloo(groups),
        "reinforce_pp, gamma 0.9": reinforce_pp(groups, gamma=0.9),
        "reinforce_pp_baseline": reinforce_pp_baseline(groups),
        "ppo, gamma 0.9, lambda 0.8": ppo(groups, gamma=0.9, lam=0.8),
    }
    return {
        name: ((spread(ours[name], groups, mask) - their).abs().max() / their.abs().max()).item()
        for name, their in theirs.items()
    }


def compare_losses(mask: Tensor, seed: int) -> dict[str, float]:
    from verl.trainer.ppo import core_algos as verl
    from verl.workers.config import ActorConfig

    torch.manual_seed(seed)
    old = -2 * torch.rand_like(mask)
    start = old + 0.5 * torch.randn_like(mask)
    advantages = torch.randn(len(mask), 1).expand_as(mask).contiguous()
    wide = {"strategy": "fsdp", "rollout_n": 1, "use_dynamic_bsz": True}
    pairs: dict[str, tuple[Callable[[LossInputs], Tensor], Callable[[Tensor, str], Tensor]]] = {
        "clipped, 0.2 / 0.28, dual 3": (
            lambda inputs: clipped(inputs, low=0.2, high=0.28, dual=3.0).values,
            lambda new, mode: verl.compute_policy_loss(
                old,
                new,
                advantages,
                mask,
                cliprange_low=0.2,
                cliprange_high=0.28,
                clip_ratio_c=3.0,
                loss_agg_mode=mode,
            )[0],
        ),
        "gspo": (
            lambda inputs: gspo(inputs, low=3e-4, high=4e-4).values,
            lambda new, mode: verl.compute_policy_loss_gspo(
                old,
                new,
                advantages,
                mask,
                loss_agg_mode=mode,
                config=ActorConfig(clip_ratio_low=3e-4, clip_ratio_high=4e-4, **wide),
            )[0],
        ),
        "cispo": (
            lambda inputs: cispo(inputs, floor=0.8, cap=1.28).values,
            lambda new, mode: verl.compute_policy_loss_cispo(
                old,
                new,
                advantages,
                mask,
                loss_agg_mode=mode,
                config=ActorConfig(clip_ratio_low=0.2, clip_ratio_high=0.28, **wide),
            )[0],
        ),
    }
    found = {}
    for name, (ours, theirs) in pairs.items():
        for aggregation, mode in MODES.items():
            found[f"{name}, {aggregation}"] = _gradient_difference(
                ours, theirs, start, old, advantages, mask, aggregation, mode
            )
    return found


def _gradient_difference(
    ours: Callable[[LossInputs], Tensor],
    theirs: Callable[[Tensor, str], Tensor],
    start: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: str,
    mode: str,
) -> float:
    """The larger of the difference in value and the largest one in gradient, both relative."""
    one, other = start.clone().requires_grad_(), start.clone().requires_grad_()
    chosen = mask.bool()
    lengths = mask.sum(1).long()
    inputs = LossInputs(
        logprobs=one[chosen],
        old_logprobs=old[chosen],
        sampler_logprobs=old[chosen],
        advantages=advantages[chosen],
        weights=torch.ones(0),
        sequences=torch.arange(len(mask)).repeat_interleave(lengths),
    )
    weights = token_weights(
        aggregation,
        lengths.repeat_interleave(lengths),
        tokens=int(lengths.sum()),
        sequences=len(mask),
        max_tokens=mask.shape[1],
    )
    mine, their = (ours(inputs) * weights).sum(), theirs(other, mode)
    mine.backward()
    their.backward()
    assert one.grad is not None
    assert other.grad is not None
    value = abs(mine.item() - their.item()) / abs(their.item())
    return max(value, ((one.grad - other.grad).abs().max() / other.grad.abs().max()).item())


def compare_divergences(seed: int) -> dict[str, float]:
    from verl.trainer.ppo import core_algos as verl

    torch.manual_seed(seed)
    found = {}
    for ours, theirs in {"k1": "k1", "k2": "k2", "k3": "k3", "k3_exact": "k3+"}.items():
        one = (-3 * torch.rand(1000)).requires_grad_()
        other = one.detach().clone().requires_grad_()
        reference = -3 * torch.rand(1000)
        mine, their = divergence(one, reference, ours), verl.kl_penalty(other, reference, theirs)
        mine.sum().backward()
        their.sum().backward()
        assert one.grad is not None
        assert other.grad is not None
        found[f"KL {ours}"] = max(
            (mine - their).abs().max().item(), (one.grad - other.grad).abs().max().item()
        )
    return found


def compare_verl(groups: list[Group], mask: Tensor) -> dict[str, float]:
    return {**compare_advantages(groups, mask), **compare_losses(mask, 1), **compare_divergences(2)}


def compare_trl(groups: list[Group], mask: Tensor) -> dict[str, float]:
    """The larger of the difference in value and in gradient, as for verl."""
    from parity_trl import compare_dpo, compare_grpo

    return {name: max(each) for name, each in {**compare_grpo(groups, mask), **compare_dpo()}.items()}


def show(peer: str, found: Mapping[str, float], otherwise: str) -> None:
    print(f"\n{peer} {version(peer)}: the larger relative difference of value and gradient")
    for name, difference in found.items():
        print(f"  {name:50} {difference:.1e}")
    print(f"defined otherwise, and not compared:\n  {otherwise.replace(chr(10), chr(10) + '  ')}")


def main() -> None:
    groups, mask = random_batch(0)
    from parity_trl import OTHERWISE

    show("trl", compare_trl(groups, mask), OTHERWISE)
    if importlib.util.find_spec("verl") is None:
        print("\nverl: not installed, left out (this file says how to install it)")
    else:
        show("verl", compare_verl(groups, mask), VERL_OTHERWISE)


if __name__ == "__main__":
    main()
