"""What a model replied to a task, and what was made of it: two files that only ever grow.

    samples.jsonl    one line a reply, with its tokens and its time, or with the failure in its place
    verdicts.jsonl   one line a verdict on a reply: which grader, what it found

A reply costs a GPU and a verdict does not, so they are kept apart: a reply is written before it is judged, and
judged again without being touched. A line is written at once and whole; what a kill leaves of its last line is cut
off when the file is next opened, and everything before it is never done again. A reply is found by its key, a
hash of all that decides its tokens: model, prompt, environment, sampling, seed, number. How many items or
samples were asked for is no part of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TextIO

from reasonkit.engines import Sampling
from reasonkit.errors import ReasonkitError
from reasonkit.records import FinishReason, Record, Status, Verdict, dumps, to_row
from reasonkit.verifiers import Mode

SAMPLES, VERDICTS = "samples.jsonl", "verdicts.jsonl"
SAMPLING_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "stop")
GAME = "env"
BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply and the verdicts on it, or the failure in its place."""

    key: str
    uid: str
    number: int
    """Which of the item's samples it is, from 0."""
    text: str
    """What is judged: the reply, or what an environment made of it."""
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Spent generating, waiting in the engine's queue included."""
    turns: Sequence[Sequence[str]] = ()
    """Of several turns, each reply and what the environment answered."""
    failure: str | None = None
    """Why there is no reply. A failed sample is sampled again when the evaluation is run again."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By grader, or under GAME the environment's own, which stands whatever the grader."""

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    def verdict(self, mode: Mode) -> Verdict | None:
        return self.verdicts.get(GAME) or self.verdicts.get(mode)


def item_key(identity: str, record: Record, env: str, sampling: Sampling, seed: int) -> str:
    """The part of a sample's key that the samples of one item share.

    The prompt counts as messages: how they are rendered is the chat template's doing, which `identity` covers.
    An environment goes on from the whole record, so there the whole record counts.
    """
    row = to_row(record)
    content = {
        "model": identity,
        "uid": record.uid,
        "prompt": row["prompt"],
        "raw": record.is_raw,
        "env": env,
        "record": None if env == "single_turn" else row,
        "sampling": {name: getattr(sampling, name) for name in SAMPLING_FIELDS},
        "seed": seed,
    }
    return hashlib.blake2b(dumps(content).encode(), digest_size=12).hexdigest()


def sample_key(item: str, number: int) -> str:
    return f"{item}-{number}"


FIELDS = tuple(each.name for each in fields(Sample) if each.name != "verdicts")
"""What samples.jsonl holds of a sample."""


class Samples:
    """Samples by key, in memory."""

    def __init__(self) -> None:
        self.by_key: dict[str, Sample] = {}

    def add(self, sample: Sample) -> None:
        """Keep a new reply. Its verdicts are `judge`'s to add."""
        self.by_key[sample.key] = sample

    def judge(self, key: str, by: str, verdict: Verdict) -> None:
        """Keep a new verdict on a reply that is there."""
        sample = self.by_key[key]
        self.by_key[key] = replace(sample, verdicts={**sample.verdicts, by: verdict})


class SampleFile(Samples):
    """The samples of one model on one task, kept in a folder. Only one process may have it open."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._samples = _open_to_append(folder / SAMPLES)
        self._verdicts = _open_to_append(folder / VERDICTS)
        self.by_key = read_samples(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._samples.close()
        self._verdicts.close()

    def add(self, sample: Sample) -> None:
        """As Samples.add; on disk, for all but a power cut, when this returns."""
        _write(self._samples, _to_json(sample))
        super().add(sample)

    def judge(self, key: str, by: str, verdict: Verdict) -> None:
        _write(self._verdicts, {"key": key, "grader": by, **_verdict_json(verdict)})
        super().judge(key, by, verdict)


def read_samples(folder: Path) -> dict[str, Sample]:
    """All samples of a folder by key: of each the newest that is no failure, with its newest verdicts."""
    samples: dict[str, Sample] = {}
    for line in _lines(folder / SAMPLES):
        sample = Sample(**line)
        known = samples.get(sample.key)
        if known is None or known.failure is not None:
            samples[sample.key] = sample
    for line in _lines(folder / VERDICTS):
        judged = samples.get(line["key"])  # a power cut may lose the end of the one file and keep the other's
        if judged is not None:
            verdicts = {**judged.verdicts, line["grader"]: _verdict_from(line)}
            samples[judged.key] = replace(judged, verdicts=verdicts)
    return samples


def _open_to_append(path: Path) -> TextIO:
    """`path` locked, and cut back to its last whole line."""
    # What is no text (a lone half of a surrogate pair) becomes its \u escape, which is what JSON would write.
    file = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ReasonkitError(
            f"another process is evaluating into {path.parent}", "wait for it, or choose another --out"
        ) from None
    os.truncate(path, _end_of_last_line(path))
    return file


def _end_of_last_line(path: Path) -> int:
    with path.open("rb") as content:
        end = content.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            content.seek(start)
            newline = content.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def _write(file: TextIO, line: Mapping[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    file.flush()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def _to_json(sample: Sample) -> dict[str, Any]:
    content = {name: getattr(sample, name) for name in FIELDS if name != "seconds"}
    return {**content, "seconds": round(sample.seconds, 4)}


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    content: dict[str, Any] = {
        "status": verdict.status,
        "score": verdict.score,
        "answer": verdict.answer,
        "reason": verdict.reason,
    }
    return {**content, "details": dict(verdict.details)} if verdict.details else content


def _verdict_from(line: Mapping[str, Any]) -> Verdict:
    return Verdict(
        Status(line["status"]), line["score"], line["answer"], line["reason"], line.get("details", {})
    )
