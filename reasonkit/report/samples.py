"""Which replies go into a page, packed so that the page opens at once and stays below its size.

A run may hold millions of replies; a page holds what fits. Whole groups (the replies to one problem) are taken,
spread evenly over the sets, and of each set first the groups with its best and its worst reply. Replies are
compressed in chunks, which the browser unpacks when one is looked at; only the numbers that the
filters need are read at once. What the sets are is for the report to say: steps of runs, tasks of evaluations.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHUNK = 256 * 1024
"""Characters of replies compressed together."""
LEAST_COMPRESSION = 2
"""Text shrinks by at least this; decides how much to try to fit into the room that is left."""
CRUMBS = 1024
"""Bytes of a step's share that are not worth another chunk."""
INDEX_SHARE = 0.1
"""Of the room, kept for the index."""

Row = Mapping[str, Any]

OF_GROUP = ("uid", "prompt", "gold")
OF_ROLLOUT = (
    "sample", "text", "score", "reason", "answer", "parts", "finish_reason", "length", "advantage", "failure",
)  # fmt: skip
"""What a chunk holds of each rollout; status and reward are in the index."""


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Replies that share where they are from; read when wanted."""

    where: Mapping[str, int]
    """What the page's filters ask for, as numbers; all sets of a page have the same keys."""
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


def pack(sets: Sequence[SampleSet], room: int, total: int, columns: Sequence[str] = OF_ROLLOUT) -> Packed:
    """The replies that fit into `room` characters of page, of `total` that there are, with `columns` of each."""
    bytes_left = int(room * (1 - INDEX_SHARE)) * 3 // 4  # base64 writes three bytes as four characters
    taken: dict[int, list[Chunk]] = {}
    for done, position in enumerate(_spread(len(sets))):
        share = bytes_left // (len(sets) - done)
        taken[position] = list(_chunks(sets[position].read(), share, bytes_left, columns))
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
    names = shown[0][0].where if shown else {}
    return {
        "statuses": statuses,
        "starts": starts,
        **{name: [each.where[name] for each, chunk in shown for _ in chunk.rows] for name in names},
        "status": [number[str(row["status"])] for _, chunk in shown for row in chunk.rows],
        "reward": [_rounded(row["reward"]) for _, chunk in shown for row in chunk.rows],
    }


def _spread(count: int) -> list[int]:
    """0 … count − 1 in an order whose every beginning is spread over the whole: the last, then by halving."""
    if count == 0:
        return []
    bits = max(1, (count - 1).bit_length())
    halving = sorted(range(count - 1), key=lambda position: int(f"{position:0{bits}b}"[::-1], 2))
    return [count - 1, *halving]


def _chunks(rows: Sequence[Row], share: int, room: int, columns: Sequence[str]) -> Iterator[Chunk]:
    """What of `rows` fits into `share` bytes. The best and the worst group may take more, up to `room`."""
    groups = _best_and_worst_first(rows)
    if sum(map(_size, groups)) <= CHUNK:
        whole = _compress(groups, columns)
        if len(whole.compressed) <= share:
            yield whole
            return
    start, end, limit = 0, 2, room
    while start < len(groups):
        chunk = _compress(groups[start:end], columns)
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


def _compress(groups: Sequence[Sequence[Row]], columns: Sequence[str]) -> Chunk:
    content = {
        "groups": [[_plain(group[0].get(name)) for name in OF_GROUP] for group in groups],
        "rollouts": [
            [number, *(_plain(row.get(name)) for name in columns)]
            for number, group in enumerate(groups)
            for row in group
        ],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    data = text.encode(errors="backslashreplace")  # half a surrogate pair becomes its \u escape
    return Chunk([row for group in groups for row in group], gzip.compress(data, mtime=0))


def _plain(value: Any) -> Any:
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.5g}")


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
