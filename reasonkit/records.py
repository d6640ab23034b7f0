"""The nouns that travel between modules: Record, Completion, Verdict, Rollout, Group.

All frozen: a stage that wants to change one makes a new one. Behaviour lives elsewhere; here are
only the shapes and the translation of a Record to and from a row of a record file (parquet that
verl also reads). `ground_truth` and `extra_info` are JSON strings, so that files of all
sources share one Arrow schema and concatenate. No parquet reading here: this module is stdlib only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypedDict


class Message(TypedDict):
    """One chat turn. A plain dict, because chat templates and HTTP APIs take exactly this."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One problem. `(source, uid)` identifies it across files, filters and runs."""

    uid: str
    source: str
    prompt: tuple[Message, ...]
    answer: Any
    """The gold answer in whatever JSON shape the verifier of this source reads."""
    verifier: str | None = None
    """A verifier's name; None routes by `source`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_raw(self) -> bool:
        """True where the prompt is already rendered text that no chat template may touch again."""
        return self.metadata.get("prompt_format") == "raw"

    @property
    def unlearned(self) -> Sequence[int]:
        """Places in the conversation, the answer last, of replies that imitation leaves out."""
        places: Sequence[int] = self.metadata.get("unlearned", ())
        return places


class Status(StrEnum):
    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_failure(self) -> bool:
        """The verifier did not get to judge the answer: masked out of training, never counted as wrong."""
        return self is Status.ERROR


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier found, with the reason in words. `score` is in [0, 1]."""

    status: Status
    score: float
    answer: str | None = None
    """The answer extracted from the reply, as text."""
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Family-specific extras: tests passed, sandbox tier, judge reply."""

    @classmethod
    def correct(cls, answer: str | None, reason: str = "", **details: Any) -> Verdict:
        return cls(Status.CORRECT, 1.0, answer, reason, details)

    @classmethod
    def wrong(cls, answer: str | None, reason: str, score: float = 0.0, **details: Any) -> Verdict:
        """Not fully right. `score` may be above 0 where the source defines partial credit."""
        return cls(Status.WRONG, score, answer, reason, details)

    @classmethod
    def no_answer(cls, reason: str, **details: Any) -> Verdict:
        return cls(Status.NO_ANSWER, 0.0, None, reason, details)

    @classmethod
    def timeout(cls, reason: str, **details: Any) -> Verdict:
        """The answer itself cost too much to check: it scores 0, as a wrong answer does."""
        return cls(Status.TIMEOUT, 0.0, None, reason, details)

    @classmethod
    def error(cls, reason: str, **details: Any) -> Verdict:
        """The infrastructure failed. The score is meaningless and must not be used as a reward."""
        return cls(Status.ERROR, 0.0, None, reason, details)


FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens [start, end) were sampled from weights of `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine sampled after a prompt. Ids are kept as sampled and never re-tokenised."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token, at the sampling temperature."""
    finish_reason: FinishReason
    versions: tuple[VersionSpan, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One append-only token sequence. `mask` is 1 on sampled tokens, 0 on prompt and environment."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    """0.0 wherever the mask is 0."""
    versions: tuple[VersionSpan, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.mask) == len(self.logprobs):
            raise ValueError(
                f"a segment's columns differ in length: ids {len(self.ids)}, mask {len(self.mask)}, "
                f"logprobs {len(self.logprobs)}"
            )

    @property
    def scored(self) -> list[int]:
        """Where the tokens are that can be learned from: sampled ones whose log-probability is a number."""
        logprobs = self.logprobs
        return [place for place, each in enumerate(self.mask) if each and math.isfinite(logprobs[place])]


Stage = Literal["generate", "env", "verify", "reward"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt gave no usable sample: the stage that failed, and the cause in words."""

    stage: Stage
    cause: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt cost. History that is sent again with the next request counts again."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut_tokens: int = 0
    """Left out of a prompt or an observation that was over its limit."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply of an attempt, and what the environment made of it."""

    text: str
    finish_reason: FinishReason
    reward: float
    """The environment's, for this turn."""
    observation: tuple[Message, ...]
    """What it answered; empty where the episode ended."""
    segment: int
    """The reply's tokens end at `end` of this segment; the reward belongs to the last of them."""
    end: int
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signals:
    """What the learner says of each trained token of a rollout, all segments in turn. Empty where nobody asked."""

    old_logprobs: tuple[float, ...] = ()
    """By the learner's weights before it updated them on this rollout."""
    penalties: tuple[float, ...] = ()
    """What leaving the reference model costs, to be taken from each token's reward."""
    values: tuple[float, ...] = ()
    """The return that the critic expects from here on."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt at a record: token segments and what they earned, or the attributed failure."""

    uid: str
    sample: int
    segments: tuple[Segment, ...]
    text: str
    """The last reply, decoded."""
    finish_reason: FinishReason
    verdict: Verdict | None
    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """The reward's weighted parts, each recorded apart; they sum to `reward`."""
    timings: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    signals: Signals = Signals()
    usage: Usage = Usage()
    turns: tuple[Turn, ...] = ()

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def sampled_tokens(self) -> int:
        """Of all replies; what the API says where there are no ids."""
        if not self.segments:
            return self.usage.completion_tokens
        return sum(sum(segment.mask) for segment in self.segments)

    @property
    def scored_tokens(self) -> int:
        """Of all segments, those that can be learned from."""
        return sum(len(segment.scored) for segment in self.segments)

    @property
    def env_reward(self) -> float:
        """The sum of what the environment gave for its turns."""
        return sum(turn.reward for turn in self.turns)

    @property
    def oldest_version(self) -> int | None:
        """Of the weights that sampled any of its tokens."""
        versions = [span.version for segment in self.segments for span in segment.versions]
        return min(versions, default=None)


@dataclass(frozen=True, slots=True)
class Group:
    """The n rollouts of one record. Always whole: its rollouts are never spread over batches."""

    record: Record
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> list[float]:
        return [rollout.reward for rollout in self.rollouts if rollout.ok]


_COMPACT = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def dumps(value: Any) -> str:
    """JSON as it stands in record files: sorted and compact, so that equal values are equal bytes."""
    return _COMPACT.encode(value)


def to_row(record: Record) -> dict[str, Any]:
    """A Record as one row of a record file."""
    extra = dict(record.metadata)
    if record.verifier is not None:
        extra["verifier"] = record.verifier
    return {
        "uid": record.uid,
        "data_source": record.source,
        "prompt": [dict(message) for message in record.prompt],
        "ability": str(extra.pop("ability", "")),
        "reward_model": {"style": "rule", "ground_truth": dumps(record.answer)},
        "extra_info": dumps(extra),
    }


def from_row(row: Mapping[str, Any]) -> Record:
    """A Record from a row of a record file that reasonkit wrote. Foreign rows go through data's adapters."""
    extra: dict[str, Any] = json.loads(row["extra_info"])
    verifier = extra.pop("verifier", None)
    if row["ability"]:
        extra["ability"] = row["ability"]
    return Record(
        uid=row["uid"],
        source=row["data_source"],
        prompt=messages(row["prompt"]),
        answer=json.loads(row["reward_model"]["ground_truth"]),
        verifier=verifier,
        metadata=extra,
    )


def messages(turns: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)
