"""The replies of training runs for the page: each step's rollouts, each look at held-out problems."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reasonkit.report.read import DECODINGS, RunData, replies
from reasonkit.report.samples import Packed, Row, SampleSet, pack

MOST_READ = 100_000
"""Rollouts read for one page; of longer runs, evenly spread steps."""
PLACES = ("training", "held out, sampled", "held out, greedy")
COLUMNS = (
    "uid", "sample", "prompt", "text", "status", "score", "reason", "answer", "gold", "reward", "parts",
    "finish_reason", "length", "advantage", "failure",
)  # fmt: skip
"""What is read of a rollout file: all but the tokens."""


def pack_runs(runs: Sequence[RunData], room: int) -> Packed:
    """The rollouts that fit into `room` characters of page."""
    sets: list[SampleSet] = []
    total = 0
    for index, run in enumerate(runs):
        training, held_out = _training_sets(index, run), list(_held_out_sets(index, run))
        total += sum(each.size for each in (*training, *held_out))
        sets += [*held_out, *_within(training, MOST_READ // len(runs))]
    return pack(sets, room, total)


def _training_sets(index: int, run: RunData) -> list[SampleSet]:
    import pyarrow.parquet as pq

    files = [(step, run.folder.rollouts(step)) for step in run.folder.rollout_steps()]
    return [
        SampleSet(_where(index, 0, step), pq.read_metadata(file).num_rows, partial(_read_rollouts, file))
        for step, file in files
    ]


def _read_rollouts(file: Path) -> list[Row]:
    import pyarrow.parquet as pq

    present = set(pq.read_schema(file).names)
    rows: list[dict[str, Any]] = pq.read_table(file, columns=[c for c in COLUMNS if c in present]).to_pylist()
    for row in rows:
        row["parts"] = json.loads(row.get("parts") or "{}")
    return list(rows)


def _held_out_sets(index: int, run: RunData) -> Iterator[SampleSet]:
    for look in run.validations:
        for place, decoding in enumerate(DECODINGS, start=1):
            rows = list(_held_out_rows(look["items"], decoding))
            if rows:
                yield SampleSet(_where(index, place, look["step"]), len(rows), partial(list, rows))


def _held_out_rows(items: Sequence[Row], decoding: str) -> Iterator[Row]:
    for item in items:
        gold = item["answer"] if isinstance(item["answer"], str) else json.dumps(item["answer"])
        for sample, reply in enumerate(replies(item, decoding)):
            about = {"uid": item["uid"], "prompt": item["prompt"], "gold": gold, "sample": sample}
            yield {**about, **reply, "reward": reply["score"]}


def _where(run: int, place: int, step: int) -> dict[str, int]:
    return {"run": run, "place": place, "step": step}


def _within(sets: Sequence[SampleSet], most: int) -> list[SampleSet]:
    """All sets, or as many of them, evenly spread with first and last among them, as hold `most` rollouts."""
    total = sum(each.size for each in sets)
    if total <= most:
        return list(sets)
    keep = max(2, len(sets) * most // total)
    if keep >= len(sets):
        return list(sets)
    return [sets[round(place * (len(sets) - 1) / (keep - 1))] for place in range(keep)]
