"""What a run writes down as it goes: metrics, rollouts, validations, and a word to whoever watches.

Reads nothing and decides nothing. The formats are those of the run folder (docs/reference/run-folder.md).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from reasonkit.advantages import Advantages, Credit
from reasonkit.evaluate.results import TaskResult
from reasonkit.evaluate.validation import Validation
from reasonkit.metrics import MetricsFile
from reasonkit.recipe import LogConfig
from reasonkit.records import Group, Rollout, Signals, Status, dumps
from reasonkit.rewards import gibberish, repeated
from reasonkit.rundir import RunDir, atomic_file, write_json
from reasonkit.trackers import Trackers
from reasonkit.train.learner import StepStats
from reasonkit.train.packing import Batch

LOGGER = logging.getLogger(__name__)

LOOKED_AT = 64
"""Replies a step whose text is looked at for signs of collapse."""


class Observer(Protocol):
    """Whoever watches a run: a live display, plain lines, or nobody. Told, never asked."""

    def phase(self, name: str) -> None: ...

    def warmup(self, update: int, limit: int, numbers: dict[str, float]) -> None: ...

    def step(self, row: dict[str, Any], steps: int, groups: Sequence[Group]) -> None: ...

    def validation(self, result: Validation) -> None: ...


class Journal:
    """Written at step boundaries only, so that cutting it back to a checkpoint's step is exact."""

    def __init__(
        self, folder: RunDir, log: LogConfig, steps: int, observer: Observer, trackers: Trackers
    ) -> None:
        self._folder = folder
        self._log = log
        self._steps = steps
        self._observer = observer
        self._trackers = trackers
        self._metrics = MetricsFile(folder.metrics)
        self._spent: dict[str, float] = {}
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """The run's time so far, earlier sittings included."""
        return time.monotonic() - self._started

    def start_at(self, seconds: float) -> None:
        """Count on from what earlier sittings took."""
        self._started = time.monotonic() - seconds

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._spent[part] = time.perf_counter() - started

    def step(
        self,
        step: int,
        groups: Sequence[Group],
        advantages: Advantages,
        stats: Sequence[StepStats],
        left_out: Sequence[Group] = (),
        measured: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Write a finished step down; returns its row of metrics. Groups that were left out are counted."""
        sampled = [*groups, *left_out]
        row = {
            "step": step,
            "time": self.seconds,
            **summarise(sampled),
            "groups_left_out": float(len(left_out)),
            **_mean_stats(stats),
            **(measured or {}),
            **self._speed(sampled, stats, measured or {}),
        }
        self._metrics.write(row)
        self._trackers.write(row)
        if self._log.rollouts and step % self._log.rollouts == 0:
            self._write_rollouts(step, groups, advantages)
        self._observer.step(row, self._steps, groups)
        return row

    def supervised_step(self, step: int, batch: Batch, measured: Mapping[str, float]) -> dict[str, Any]:
        """A step of learning from given replies; returns its row of metrics."""
        seconds = {f"seconds_{part}": spent for part, spent in self._spent.items()}
        total = sum(self._spent.values())
        self._spent = {}
        row = {
            "step": step,
            "time": self.seconds,
            **dict(sorted(measured.items())),
            **seconds,
            "tokens_per_second": batch.tokens / total if total else 0.0,
        }
        self._metrics.write(row)
        self._trackers.write(row)
        self._observer.step(row, self._steps, [])
        return row

    def validation(self, result: Validation) -> None:
        write_json(self._folder.evaluation(result.step), result.as_json())
        self._observer.validation(result)
        accuracy = {"sampled": result.sampled.mean, "greedy": result.greedy.mean}
        self._trackers.write({"step": result.step, "validation": accuracy})

    def tasks(self, step: int, phase: str, results: Sequence[TaskResult]) -> None:
        """A look at evaluation tasks."""
        scores = {result.task: result.score.mean for result in results if result.score is not None}
        mean = sum(scores.values()) / len(scores) if scores else 0.0
        rows = [result.as_json() for result in results]
        write_json(
            self._folder.task_results(step), {"step": step, "phase": phase, "score": mean, "results": rows}
        )
        LOGGER.info("tasks %s (step %d): %s", phase, step, _in_words(scores))
        self._trackers.write({"step": step, "tasks": scores})

    def close(self) -> None:
        self._metrics.close()
        self._trackers.close()

    def _speed(
        self, groups: Sequence[Group], stats: Sequence[StepStats], measured: Mapping[str, float]
    ) -> dict[str, float]:
        sampled = [rollout for group in groups for rollout in group.rollouts]
        tokens = sum(rollout.sampled_tokens for rollout in sampled)
        spent, self._spent = self._spent, {}
        return {
            **{f"seconds_{part}": seconds for part, seconds in spent.items()},
            "tokens_rollout": float(tokens),
            "tokens_per_second": tokens / sum(spent.values()) if spent else 0.0,
            **utilisation(sampled, stats, spent, measured),
        }

    def _write_rollouts(self, step: int, groups: Sequence[Group], advantages: Advantages) -> None:
        rows = [
            _row(step, group, rollout, advantage)
            for group, row in zip(groups, advantages, strict=True)
            for rollout, advantage in zip(group.rollouts, row, strict=True)
        ]
        with atomic_file(self._folder.rollouts(step)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")


def summarise(groups: Sequence[Group]) -> dict[str, Any]:
    """The numbers of one rollout batch: what was earned, how long it was, what went wrong."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    scored = [rollout for rollout in rollouts if rollout.ok]
    verdicts = [rollout.verdict for rollout in scored if rollout.verdict is not None]
    lengths = [rollout.sampled_tokens for rollout in scored]
    names = sorted({name for rollout in scored for name in rollout.parts})
    flat = [group for group in groups if len(set(group.rewards)) <= 1]
    penalties = [penalty for rollout in scored for penalty in rollout.signals.penalties]
    texts = [group.rollouts[0].text for group in groups[:LOOKED_AT]]
    return {
        "reward": _mean([rollout.reward for rollout in scored]),
        "accuracy": _mean([verdict.score for verdict in verdicts]),
        "pass_rates": _pass_rates(groups),
        "parts": {name: _mean([rollout.parts.get(name, 0.0) for rollout in scored]) for name in names},
        "length_mean": _mean(lengths),
        "length_max": float(max(lengths, default=0)),
        "truncated": _mean([rollout.truncated for rollout in scored]),
        "no_answer": _mean([verdict.status is Status.NO_ANSWER for verdict in verdicts]),
        "verify_timeout": _mean([verdict.status is Status.TIMEOUT for verdict in verdicts]),
        "failed": _mean([not rollout.ok for rollout in rollouts]),
        "zero_variance": len(flat) / len(groups),
        **({"kl_penalty": _mean(penalties)} if penalties else {}),
        "repetition": _mean([repeated(text) for text in texts]),
        "gibberish": _mean([gibberish(text) for text in texts]),
        "seconds_verify": sum(rollout.timings.get("verify", 0.0) for rollout in rollouts),
    }


def _row(step: int, group: Group, rollout: Rollout, advantage: float | Credit) -> dict[str, Any]:
    verdict = rollout.verdict
    if isinstance(advantage, Credit):
        advantage = _mean(advantage.tokens)
    return {
        "step": step,
        "uid": rollout.uid,
        "sample": rollout.sample,
        "prompt": group.record.prompt[-1]["content"],
        "text": rollout.text,
        "status": str(verdict.status) if verdict else "error",
        "score": verdict.score if verdict else None,
        "reason": verdict.reason if verdict else "",
        "answer": verdict.answer if verdict else None,
        "gold": group.record.answer if isinstance(group.record.answer, str) else dumps(group.record.answer),
        "reward": rollout.reward,
        "parts": dumps(dict(rollout.parts)),
        "finish_reason": rollout.finish_reason,
        "length": rollout.sampled_tokens,
        "advantage": advantage,
        "staleness": None if rollout.oldest_version is None else step - 1 - rollout.oldest_version,
        "failure": f"{rollout.failure.stage}: {rollout.failure.cause}" if rollout.failure else None,
        "segments": json.dumps([asdict(segment) for segment in rollout.segments]),
    }


def _pass_rates(groups: Sequence[Group]) -> dict[str, float]:
    """The mean verdict score of each source."""
    scores: dict[str, list[float]] = {}
    for group in groups:
        verdicts = [rollout.verdict for rollout in group.rollouts if rollout.ok]
        found = scores.setdefault(group.record.source, [])
        found += [verdict.score for verdict in verdicts if verdict is not None]
    return {source: _mean(found) for source, found in sorted(scores.items()) if found}


def utilisation(
    sampled: Sequence[Rollout],
    stats: Sequence[StepStats],
    spent: Mapping[str, float],
    measured: Mapping[str, float],
) -> dict[str, float]:
    """How fast each side was while it worked, and for which part of the step's time it did not."""
    tokens = {
        "annotate": sum(rollout.sampled_tokens for rollout in sampled if rollout.signals != Signals()),
        "train": sum(each.metrics.get("tokens_trained", 0.0) for each in stats),
    }
    speed = {
        f"tokens_per_second_{part}": count / spent[part]
        for part, count in tokens.items()
        if count and spent.get(part)
    }
    if not measured.get("seconds_step"):
        return speed
    wall = measured["seconds_step"]
    sampling = wall - measured["seconds_engines_idle"]
    learning = sum(spent.get(part, 0.0) for part in ("annotate", "train", "sync"))
    return {
        **speed,
        "tokens_per_second_rollout": sum(each.sampled_tokens for each in sampled) / sampling
        if sampling
        else 0.0,
        "time_idle_engines": 1.0 - sampling / wall,
        "time_idle_learner": max(1.0 - learning / wall, 0.0),
    }


def _mean_stats(stats: Sequence[StepStats]) -> dict[str, float]:
    names = {name for each in stats for name in each.metrics}
    means = {
        name: _mean([each.metrics[name] for each in stats if name in each.metrics]) for name in sorted(names)
    }
    if "mismatch_kl" in names:
        # Before the first update the policy is what it was when it sampled: whatever divides it from the engine's
        # log-probs is mismatch, whether or not the learner was asked for its own.
        first = stats[0].metrics
        means["mismatch_kl"] = first.get("mismatch_kl", 0.0) + first.get("kl_old", 0.0)
    return means


def _in_words(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items()) or "nothing could be judged"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
