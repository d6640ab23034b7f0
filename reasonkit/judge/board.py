"""What all server processes count, in one file that any of them can sum up: `/metrics` and `/health` read it.

Each process owns a row of numbers in a memory-mapped file and is the only one to write it. A row is held by a file
lock, which the kernel drops when a process dies; its successor goes on counting in the same row, so counters never
fall. Prometheus' text format is a dozen lines, so it is written here.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reasonkit.errors import ReasonkitError
from reasonkit.records import Status
from reasonkit.verifiers.routing import VERIFIERS

ROUTES = (
    "/ping",
    "/reward",
    "/v1/ping",
    "/v1/verify",
    "/v1/verify/batch",
    "/run_code",
    "/submit",
    "/health",
    "/metrics",
    "other",
)
CODES = (200, 400, 401, 403, 404, 405, 408, 411, 413, 415, 422, 499, 500)
"""499: the client went away before its answer."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
BUCKETS = {**{f"{seconds:g}": seconds for seconds in SECONDS}, "+Inf": float("inf")}
"""Upper ends of the histogram's buckets, as Prometheus writes them."""
CUSTOM = "other"
"""The verifier under which the two foreign APIs' own rules count."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with all the samples that it can ever have."""

    name: str
    kind: str
    help: str
    samples: tuple[str, ...]


def _labelled(name: str, **values: Iterable[object]) -> tuple[str, ...]:
    combinations = itertools.product(
        *([f'{label}="{value}"' for value in of] for label, of in values.items())
    )
    return tuple(f"{name}{{{','.join(pairs)}}}" for pairs in combinations)


def requests(route: str, code: int) -> str:
    return f'reasonkit_judge_requests_total{{route="{route}",code="{code}"}}'


def verdicts(verifier: str, status: Status) -> str:
    return f'reasonkit_judge_verdicts_total{{verifier="{verifier}",status="{status}"}}'


_SECONDS = "reasonkit_judge_request_seconds"
SHARED = "reasonkit_judge_shared_verdicts_total"
CACHED = "reasonkit_judge_cached_verdicts_total"
UNSAID = "reasonkit_judge_legacy_failures_total"
WAITED = "reasonkit_judge_held_requests_total"
IN_PROGRESS = "reasonkit_judge_requests_in_progress"
HELD = "reasonkit_judge_requests_held"
QUEUED = "reasonkit_judge_queued_bytes"
STARTS = "reasonkit_judge_worker_starts_total"
PID = "_pid"
STARTED = "_started"
_JUDGED = tuple(
    route for route in ROUTES if route not in ("/ping", "/v1/ping", "/health", "/metrics", "other")
)

FAMILIES = (
    Family(
        "reasonkit_judge_requests_total",
        "counter",
        "Requests answered.",
        tuple(requests(route, code) for route in ROUTES for code in CODES),
    ),
    Family(
        _SECONDS,
        "histogram",
        "Seconds from a request's first byte to its answer's last, waiting included.",
        _labelled(f"{_SECONDS}_bucket", route=_JUDGED, le=BUCKETS)
        + _labelled(f"{_SECONDS}_sum", route=_JUDGED)
        + _labelled(f"{_SECONDS}_count", route=_JUDGED),
    ),
    Family(
        "reasonkit_judge_verdicts_total",
        "counter",
        "Verdicts given, by what judged and what came of it.",
        tuple(verdicts(name, status) for name in (*VERIFIERS, CUSTOM) for status in Status),
    ),
    Family(SHARED, "counter", "Verdicts taken from an equal question that was being judged.", (SHARED,)),
    Family(CACHED, "counter", "Verdicts taken from the cache.", (CACHED,)),
    Family(
        UNSAID,
        "counter",
        "Failures that POST /reward could only answer with 500; II-VERL takes them for 0.",
        (UNSAID,),
    ),
    Family(WAITED, "counter", "Requests that had to wait for room.", (WAITED,)),
    Family(IN_PROGRESS, "gauge", "Requests being read or judged.", (IN_PROGRESS,)),
    Family(HELD, "gauge", "Requests waiting for room.", (HELD,)),
    Family(QUEUED, "gauge", "Bytes of the requests in progress.", (QUEUED,)),
    Family(STARTS, "counter", "Server processes started, replacements included.", (STARTS,)),
)
COLUMNS = (PID, STARTED, *(sample for family in FAMILIES for sample in family.samples))
_INDEX = {name: place for place, name in enumerate(COLUMNS)}
ROW_BYTES = 8 * len(COLUMNS)


@dataclass(frozen=True, slots=True)
class Worker:
    """One server process, as the board knows it."""

    pid: int
    starts: int
    alive: bool
    seconds: float


class Board:
    """`path` holds `rows` rows; without one, a row in memory. Claims the first row that no living process holds."""

    def __init__(self, path: Path | None = None, rows: int = 1) -> None:
        self._rows = rows
        self._file = tempfile.TemporaryFile() if path is None else path.open("r+b")  # noqa: SIM115 (held for life)
        row = self._claim()
        os.ftruncate(self._file.fileno(), rows * ROW_BYTES)
        self._map = mmap.mmap(self._file.fileno(), rows * ROW_BYTES)
        self._cells = memoryview(self._map).cast("d")
        self._base = row * len(COLUMNS)
        self.set(PID, os.getpid())
        self.set(STARTED, time.time())
        for gauge in (IN_PROGRESS, HELD, QUEUED):
            self.set(gauge, 0)
        self.add(STARTS)

    def _claim(self) -> int:
        for row in range(self._rows):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            except OSError:
                continue
            return row
        self._file.close()
        raise ReasonkitError(f"all {self._rows} rows of the board are held by living processes")

    def add(self, sample: str, amount: float = 1.0) -> None:
        self._cells[self._base + _INDEX[sample]] += amount

    def set(self, sample: str, value: float) -> None:
        self._cells[self._base + _INDEX[sample]] = value

    def observe(self, route: str, seconds: float) -> None:
        """Count a request of `route` into the histogram."""
        if route not in _JUDGED:
            return
        for name, end in BUCKETS.items():
            if seconds <= end:
                self.add(f'{_SECONDS}_bucket{{route="{route}",le="{name}"}}')
        self.add(f'{_SECONDS}_sum{{route="{route}"}}', seconds)
        self.add(f'{_SECONDS}_count{{route="{route}"}}')

    def total(self, sample: str) -> float:
        """Of all processes."""
        place = _INDEX[sample]
        return sum(self._cells[row * len(COLUMNS) + place] for row in range(self._rows))

    def workers(self) -> list[Worker]:
        found = []
        for row in range(self._rows):
            base = row * len(COLUMNS)
            pid, started = int(self._cells[base + _INDEX[PID]]), self._cells[base + _INDEX[STARTED]]
            if pid:
                starts = int(self._cells[base + _INDEX[STARTS]])
                found.append(Worker(pid, starts, _lives(pid), time.time() - started))
        return found

    def exposition(self) -> str:
        """All samples that ever counted, in Prometheus' text format; whole families where none did."""
        lines = []
        for family in FAMILIES:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
            values = {sample: self.total(sample) for sample in family.samples}
            touched = {sample: value for sample, value in values.items() if value} or values
            shown = values if family.kind == "histogram" else touched
            lines += [f"{sample} {value:.17g}" for sample, value in shown.items()]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        self._cells.release()
        self._map.close()
        self._file.close()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
