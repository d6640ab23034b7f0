"""Rollout batches for tests of the learner: every shape of rollout that can reach it, with random tokens."""

from __future__ import annotations

import random

from reasonkit.records import Failure, Group, Record, Rollout, Segment, Signals, Verdict

RECORD = Record("r1", "test", ({"role": "user", "content": "?"},), "42")


def random_groups(
    vocabulary: int, *, groups: int = 5, n: int = 4, longest: int = 12, seed: int = 0
) -> list[Group]:
    """Groups with shared prompts; among them one without variance, a failed rollout, one with an environment's
    tokens between two turns, and one whose template started a second segment."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(1, vocabulary) for _ in range(draw.randint(low, high))]

    def rollout(place: int, sample: int, prompt: list[int]) -> Rollout:
        turns = [(prompt, 0), (ids(1, longest), 1)]
        if place == 1 and sample == 0:
            turns += [(ids(2, 4), 0), (ids(1, longest), 1), (ids(1, 2), 0)]
        segments = [segment(turns, draw)]
        if place == 2 and sample == 1:
            segments.append(segment([(ids(3, 5), 0), (ids(2, 4), 1)], draw))
        failed = place == 3 and sample == 2
        return Rollout(
            uid=f"r{place}",
            sample=sample,
            segments=tuple(segments),
            text="",
            finish_reason="stop",
            verdict=None if failed else Verdict.wrong("", "test", score=0.0),
            reward=0.0 if failed else 1.0 if place == 0 else draw.choice([0.0, 0.5, 1.0]),
            failure=Failure("verify", "it broke") if failed else None,
            signals=Signals(values=tuple(draw.random() for each in segments for token in each.mask if token)),
        )

    result = []
    for place in range(groups):
        prompt = ids(2, 9)
        result.append(Group(RECORD, tuple(rollout(place, sample, prompt) for sample in range(n))))
    return result


def segment(turns: list[tuple[list[int], int]], draw: random.Random) -> Segment:
    """(ids, mask) turns as one sequence, with made-up log-probs for what was sampled."""
    return Segment(
        ids=tuple(token for ids, _ in turns for token in ids),
        mask=tuple(mask for ids, mask in turns for _ in ids),
        logprobs=tuple(-5.0 * draw.random() if mask else 0.0 for ids, mask in turns for _ in ids),
    )
