"""Rewards: weighted parts over a Verdict. Every part is recorded apart; their weighted sum is the reward.

A part sees the record, the finished rollout (text, token counts, finish reason) and its verdict, and
returns a plain number; the recipe gives the weights and the parts' options. Parts never look at the gold
answer: what is right is the verifier's business.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping

from reasonkit.recipe import RewardPart
from reasonkit.records import Record, Rollout, Status, Verdict
from reasonkit.registry import with_options

Reward = Callable[[Record, Rollout, Verdict], float]

REWARDS: dict[str, str] = {
    "correctness": "reasonkit.rewards:correctness",
    "format": "reasonkit.rewards:tag_format",
    "brevity": "reasonkit.rewards:brevity",
    "overlong": "reasonkit.rewards:overlong",
    "logic_rl": "reasonkit.rewards:logic_rl",
    "language": "reasonkit.rewards:language",
    "repetition": "reasonkit.rewards:repetition",
    "env": "reasonkit.rewards:env",
}


def correctness(record: Record, rollout: Rollout, verdict: Verdict) -> float:
    """The verdict's score: 1 for a right answer, partial credit where the source defines it."""
    return verdict.score


def tag_format(record: Record, rollout: Rollout, verdict: Verdict) -> float:
    """1 where the reply is one <think> part followed by one <answer> part, each tag exactly once; else 0."""
    return float(_tags_in_order(rollout.text))


def brevity(record: Record, rollout: Rollout, verdict: Verdict, *, target: int, limit: int) -> float:
    """For right answers only: 0 up to `target` tokens, falling linearly to −1 at `limit`."""
    if verdict.status is not Status.CORRECT:
        return 0.0
    excess = (rollout.sampled_tokens - target) / (limit - target)
    return -min(max(excess, 0.0), 1.0)


def overlong(record: Record, rollout: Rollout, verdict: Verdict, *, max_tokens: int, buffer: int) -> float:
    """DAPO's soft punishment: 0 until `buffer` tokens before `max_tokens`, then linear to −1 at `max_tokens`."""
    over = rollout.sampled_tokens - (max_tokens - buffer)
    return max(-1.0, min(0.0, -over / buffer))


def logic_rl(record: Record, rollout: Rollout, verdict: Verdict) -> float:
    """Logic-RL's rule: format +1 or −1; then answer +2 right, −1.5 wrong, −2 unreadable or format broken.

    The four possible values are 3, −0.5, −1 and −3.
    """
    if not _tags_in_order(rollout.text, think_is_open=True):
        return -3.0
    match verdict.status:
        case Status.CORRECT:
            return 3.0
        case Status.WRONG:
            return -0.5
        case _:
            return -1.0


def language(record: Record, rollout: Rollout, verdict: Verdict, *, script: str = "latin") -> float:
    """The fraction of the reply's letters that belong to `script` (latin, cjk, cyrillic, …); 1 without letters."""
    letters = [character for character in rollout.text if character.isalpha()]
    if not letters:
        return 1.0
    return sum(_script(letter) == script for letter in letters) / len(letters)


def repetition(record: Record, rollout: Rollout, verdict: Verdict, *, words: int = 8) -> float:
    """Minus the fraction of the reply's `words`-grams that repeat an earlier one."""
    return -repeated(rollout.text, words)


def repeated(text: str, words: int = 8) -> float:
    """The fraction of the text's `words`-grams that repeat an earlier one."""
    tokens = text.split()
    grams = Counter(tuple(tokens[start : start + words]) for start in range(len(tokens) - words + 1))
    total = sum(grams.values())
    return (total - len(grams)) / total if total else 0.0


def gibberish(text: str) -> float:
    """The fraction of the text's characters that mean nothing: control, private, unassigned or undecodable ones."""
    odd = sum(
        each == "\N{REPLACEMENT CHARACTER}" or (unicodedata.category(each)[0] == "C" and each not in "\n\t\r")
        for each in text
    )
    return odd / len(text) if text else 0.0


def env(record: Record, rollout: Rollout, verdict: Verdict) -> float:
    """What the environment gave for all turns together. Comes on top with weight 1 unless the recipe weighs it."""
    return rollout.env_reward


class RewardSum:
    """The recipe's parts, resolved once: gives each part's weighted value by name."""

    def __init__(self, parts: Mapping[str, RewardPart | float]) -> None:
        self._parts: dict[str, tuple[float, Reward]] = {}
        for name, part in parts.items():
            settings = part if isinstance(part, RewardPart) else RewardPart(weight=part)
            self._parts[name] = (settings.weight, with_options("reward", name, REWARDS, settings.options))

    def __call__(self, record: Record, rollout: Rollout, verdict: Verdict) -> dict[str, float]:
        return {name: weight * part(record, rollout, verdict) for name, (weight, part) in self._parts.items()}


def _tags_in_order(text: str, think_is_open: bool = False) -> bool:
    """Each tag exactly once and in order. Where the prompt ends in <think>, the reply need not repeat it."""
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    if think_is_open and "<think>" not in text:
        tags = tags[1:]
    places = [text.find(tag) for tag in tags]
    return all(text.count(tag) == 1 for tag in tags) and places == sorted(places)


def _script(letter: str) -> str:
    point = ord(letter)
    if point < 0x0250:
        return "latin"
    if 0x0400 <= point < 0x0530:
        return "cyrillic"
    if 0x3040 <= point < 0x30FF or 0x3400 <= point < 0x9FFF or 0xAC00 <= point < 0xD7A4:
        return "cjk"
    return "other"
