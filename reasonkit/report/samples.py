"""Which rollouts go into the page, packed so that the page opens at once and stays below its size.

A run may hold millions of rollouts; a page holds what fits. Whole groups are taken, from steps spread
evenly over the run, and of each step first the groups with its best and its worst rollout. Replies are
compressed in chunks, which the browser unpacks when one is looked at; only the numbers that the
filters need are read at once.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reasonkit.report.read import DECODINGS, RunData, replies

MOST_READ = 100_000
"""Rollouts read for one page; of longer runs, evenly spread steps."""
CHUNK = 256 * 1024
"""Characters of replies compressed together."""
LEAST_COMPRESSION = 2
"""Text shrinks by at least this; decides how much to try to fit into the room that is left."""
CRUMBS = 1024
"""Bytes of a step's share that are not worth another chunk."""
INDEX_SHARE = 0.1
"""Of the room, kept for the index."""

Row = Mapping[str, Any]

PLACES = ("training", "held out, sampled", "held out, greedy")
COLUMNS = (
    "uid", "sample", "prompt", "text", "status", "score", "reason", "answer", "gold", "reward", "parts",
    "finish_reason", "length", "advantage", "failure",
)  # fmt: skip
"""What is read of a rollout file: all but the tokens."""
OF_GROUP = ("uid", "prompt", "gold")
OF_ROLLOUT = tuple(name for name in COLUMNS if name not in (*OF_GROUP, "status", "reward"))
"""What a chunk holds of each rollout; status and reward are in the index."""


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The rollouts of one step, or the replies of one look at held-out problems; read when wanted."""

    run: int
    place: int
    step: int
    size: int
    read: Callable[[], list[Row]]


@dataclass(frozen=True, slots=True)
class Chunk:
    rows: Sequence[Row]
    compressed: bytes


@dataclass(frozen=True, slots=True)
class Packed:
    """Rollouts as text to embed: compressed, in base64."""

    index: str
    chunks: Sequence[str]
    shown: int
    total: int


def pack(runs: Sequence[RunData], room: int) -> Packed:
    """The rollouts that fit into `room` characters of page."""
    sets: list[SampleSet] = []
    total = 0
    for index, run in enumerate(runs):
        training, held_out = _training_sets(index, run), list(_held_out_sets(index, run))
        total += sum(each.size for each in (*training, *held_out))
        sets += [*held_out, *_within(training, MOST_READ // len(runs))]
    bytes_left = int(room * (1 - INDEX_SHARE)) * 3 // 4  # base64 writes three bytes as four characters
    taken: dict[int, list[Chunk]] = {}
    for done, position in enumerate(_spread(len(sets))):
        share = bytes_left // (len(sets) - done)
        taken[position] = list(_chunks(sets[position].read(), share, bytes_left))
        bytes_left -= sum(len(chunk.compressed) for chunk in taken[position])
    shown = [(each, chunk) for position, each in enumerate(sets) for chunk in taken[position]]
    return Packed(
        _encode(gzip.compress(json.dumps(_index(shown)).encode(), mtime=0)),
        [_encode(chunk.compressed) for _, chunk in shown],
        sum(len(chunk.rows) for _, chunk in shown),
        total,
    )


def _index(shown: Sequence[tuple[SampleSet, Chunk]]) -> dict[str, Any]:
    """Column by column what can be filtered and sorted by; `starts` is where each chunk's rollouts begin."""
    statuses = sorted({str(row["status"]) for _, chunk in shown for row in chunk.rows})
    number = {status: index for index, status in enumerate(statuses)}
    starts, count = [], 0
    for _, chunk in shown:
        starts.append(count)
        count += len(chunk.rows)
    return {
        "places": PLACES,
        "statuses": statuses,
        "starts": starts,
        "run": [each.run for each, chunk in shown for _ in chunk.rows],
        "place": [each.place for each, chunk in shown for _ in chunk.rows],
        "step": [each.step for each, chunk in shown for _ in chunk.rows],
        "status": [number[str(row["status"])] for _, chunk in shown for row in chunk.rows],
        "reward": [_rounded(row["reward"]) for _, chunk in shown for row in chunk.rows],
    }


def _training_sets(index: int, run: RunData) -> list[SampleSet]:
    import pyarrow.parquet as pq

    files = [(step, run.folder.rollouts(step)) for step in run.folder.rollout_steps()]
    return [
        SampleSet(index, 0, step, pq.read_metadata(file).num_rows, partial(_read_rollouts, file))
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
                yield SampleSet(index, place, look["step"], len(rows), partial(list, rows))


def _held_out_rows(items: Sequence[Row], decoding: str) -> Iterator[Row]:
    for item in items:
        gold = item["answer"] if isinstance(item["answer"], str) else json.dumps(item["answer"])
        for sample, reply in enumerate(replies(item, decoding)):
            about = {"uid": item["uid"], "prompt": item["prompt"], "gold": gold, "sample": sample}
            yield {**about, **reply, "reward": reply["score"]}


def _within(sets: Sequence[SampleSet], most: int) -> list[SampleSet]:
    """All sets, or as many of them, evenly spread with first and last among them, as hold `most` rollouts."""
    total = sum(each.size for each in sets)
    if total <= most:
        return list(sets)
    keep = max(2, len(sets) * most // total)
    if keep >= len(sets):
        return list(sets)
    return [sets[round(place * (len(sets) - 1) / (keep - 1))] for place in range(keep)]


def _spread(count: int) -> list[int]:
    """0 … count − 1 in an order whose every beginning is spread over the whole: the last, then by halving."""
    if count == 0:
        return []
    bits = max(1, (count - 1).bit_length())
    halving = sorted(range(count - 1), key=lambda position: int(f"{position:0{bits}b}"[::-1], 2))
    return [count - 1, *halving]


def _chunks(rows: Sequence[Row], share: int, room: int) -> Iterator[Chunk]:
    """What of `rows` fits into `share` bytes. The best and the worst group may take more, up to `room`."""
    groups = _best_and_worst_first(rows)
    if sum(map(_size, groups)) <= CHUNK:
        whole = _compress(groups)
        if len(whole.compressed) <= share:
            yield whole
            return
    start, end, limit = 0, 2, room
    while start < len(groups):
        chunk = _compress(groups[start:end])
        if len(chunk.compressed) > limit:
            return
        yield chunk
        share -= len(chunk.compressed)
        limit = share
        if share < CRUMBS:
            return
        start = end
        wanted = min(CHUNK, share * LEAST_COMPRESSION)
        while end < len(groups) and (size := _size(groups[end])) <= wanted:
            wanted -= size
            end += 1
        if end == start:
            return


def _best_and_worst_first(rows: Sequence[Row]) -> list[list[Row]]:
    """The groups of `rows`: that of the best rollout, that of the worst, then the others by a hash."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["uid"], []).append(row)
    order = sorted(groups, key=lambda uid: hashlib.blake2b(uid.encode(), digest_size=8).digest())
    scored = [row for row in rows if row["reward"] is not None]
    if scored:
        ends = (max(scored, key=lambda row: row["reward"]), min(scored, key=lambda row: row["reward"]))
        first = list(dict.fromkeys(row["uid"] for row in ends))
        order = [*first, *(uid for uid in order if uid not in first)]
    return [groups[uid] for uid in order]


def _size(group: Sequence[Row]) -> int:
    return len(group[0]["prompt"]) + sum(len(row["text"]) for row in group)


def _compress(groups: Sequence[Sequence[Row]]) -> Chunk:
    content = {
        "groups": [[_plain(group[0].get(name)) for name in OF_GROUP] for group in groups],
        "rollouts": [
            [number, *(_plain(row.get(name)) for name in OF_ROLLOUT)]
            for number, group in enumerate(groups)
            for row in group
        ],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Chunk([row for group in groups for row in group], gzip.compress(text.encode(), mtime=0))


def _plain(value: Any) -> Any:
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.5g}")


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
