"""A look at held-out records: sampled and greedy accuracy with intervals, and every reply with its verdict.

Uses the very rollouts and verifiers of training, so that a reward and a score cannot disagree. The draws
are the same at every step, so that two validations of a run differ by the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasonkit.evaluate.stats import Estimate, item_scores, mean_interval
from reasonkit.records import Group, Record, Rollout
from reasonkit.rollouts import Draw, Rollouts


@dataclass(frozen=True, slots=True)
class Validation:
    step: int
    phase: str
    """`before`, `during` or `after` training."""
    sampled: Estimate
    greedy: Estimate
    samples: int
    items: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "phase": self.phase,
            "sampled": summary(self.sampled, self.samples),
            "greedy": summary(self.greedy, 1),
            "items": self.items,
        }


async def validate(
    rollouts: Rollouts, records: Sequence[Record], samples: int, step: int, phase: str
) -> Validation:
    sampled = await rollouts.groups(records, Draw("validate", 0, samples))
    greedy = await rollouts.groups(records, Draw("validate", 0, 1, greedy=True))
    return Validation(
        step=step,
        phase=phase,
        sampled=accuracy(sampled),
        greedy=accuracy(greedy),
        samples=samples,
        items=[_item(group, best.rollouts[0]) for group, best in zip(sampled, greedy, strict=True)],
    )


def accuracy(groups: Sequence[Group]) -> Estimate:
    """Mean verdict score over records. Failed rollouts are left out, a record without any other too."""
    scores = [
        [rollout.verdict.score for rollout in group.rollouts if rollout.verdict is not None]
        for group in groups
    ]
    return mean_interval(item_scores([each for each in scores if each]))


def summary(estimate: Estimate, samples: int) -> dict[str, Any]:
    return {
        "accuracy": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "k": samples,
    }


def _item(group: Group, greedy: Rollout) -> dict[str, Any]:
    return {
        "uid": group.record.uid,
        "prompt": group.record.prompt[-1]["content"],
        "answer": group.record.answer,
        "samples": [_reply(rollout) for rollout in group.rollouts],
        "greedy": _reply(greedy),
    }


def _reply(rollout: Rollout) -> dict[str, Any]:
    if rollout.verdict is None:
        return {"text": rollout.text, "status": "error", "score": None}
    return {"text": rollout.text, "status": rollout.verdict.status, "score": rollout.verdict.score}
