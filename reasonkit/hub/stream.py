"""A shuffled, endless stream of rows that stops and resumes at any row, with nothing lost or repeated.

There is no shuffle buffer, because a buffer's content is state that nobody stores. Instead the order is
computed: an epoch permutes the row groups, cuts them into windows of about ten, and permutes the rows of
each window jointly, all by hashes of (seed, epoch, window). A place in that order is four numbers. Resuming
reads one window. Windows to come are fetched in the background, and a bounded number of bytes is held.

The order is one for all readers: of every `readers` rows in it, reader r takes the r-th. A checkpoint of one
reader therefore resumes with any number of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import xxhash

from reasonkit.errors import ReasonkitError
from reasonkit.hub.tables import Malformed, Row, Rows, Tables
from reasonkit.seeding import derive_seed

log = logging.getLogger(__name__)

WINDOW_GROUPS = 10
WINDOW_BYTES = 64 << 20
AHEAD = 2
"""Windows fetched before they are needed."""

_FETCHERS = 4
_CHUNK = 1024
"""Rows turned into dicts at once: few enough to stay small, enough to be quick."""

Place = tuple[int, int]
"""A row group: (file, group)."""


def permutation(size: int, key: int) -> list[int]:
    """An order of `size` things, by hash: unlike a library's shuffle it is the same in every version."""
    digest = xxhash.xxh3_64_intdigest
    return sorted(range(size), key=lambda index: (digest(index.to_bytes(8, "big"), key), index))


@dataclass(frozen=True, slots=True)
class Plan:
    """Which windows an epoch has. The same tables, in the same state, give the same plan."""

    tables: Tables
    seed: int

    @property
    def hash(self) -> str:
        digest = xxhash.xxh3_64(f"{self.seed} {WINDOW_GROUPS} {WINDOW_BYTES}".encode())
        for table in self.tables.files:
            digest.update(f"\x1e{table.name}\x1f{table.identity}\x1f{table.group_bytes}".encode())
        return digest.hexdigest()

    def windows(self, epoch: int) -> list[list[Place]]:
        places = [
            (file, group)
            for file, table in enumerate(self.tables.files)
            for group in range(len(table.group_bytes))
        ]
        windows: list[list[Place]] = []
        held = 0
        for index in permutation(len(places), derive_seed(self.seed, "row groups", epoch)):
            file, group = places[index]
            size = self.tables.files[file].group_bytes[group]
            if not windows or len(windows[-1]) == WINDOW_GROUPS or held + size > WINDOW_BYTES:
                windows.append([])
                held = 0
            windows[-1].append((file, group))
            held += size
        return windows


class RowStream:
    """Rows of `tables`, shuffled, for ever. Close it, or use it as a context manager: it owns threads."""

    def __init__(self, reopen: Callable[[str | None], Tables], seed: int) -> None:
        """`reopen` gives the tables at a revision, or at the newest one for None."""
        self._reopen, self._seed = reopen, seed
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="row-groups")
        self._held: dict[Place, Future[Rows]] = {}
        self._epoch = self._index = self._row = self._position = 0
        self.malformed = 0
        """Rows that could not be read since the stream began; each was logged and skipped."""
        self._use(reopen(None))
        self._seek(0, 0, 0, 0)

    def __enter__(self) -> RowStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._fetchers.shutdown(wait=True, cancel_futures=True)

    @property
    def revision(self) -> str:
        return self._plan.tables.revision

    @property
    def epoch(self) -> int:
        return self._epoch

    def take(self, count: int, reader: int = 0, readers: int = 1) -> list[Row]:
        """Go `count` rows on, and give those among them that belong to `reader`.

        Rows that cannot be read are counted in `malformed`, logged, and left out.
        """
        taken: list[Row] = []
        while count:
            window = self._window()
            if self._row == len(window.order):
                self._next_window()
                continue
            start = self._row
            end = min(start + count, len(window.order), (start // _CHUNK + 1) * _CHUNK)
            chunk = window.chunk(start // _CHUNK)
            for row in range(start, end):
                if (self._position + row - start) % readers == reader:
                    self._keep(chunk[row % _CHUNK], taken)
            self._row, self._position, count = end, self._position + end - start, count - (end - start)
        return taken

    def state(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "plan": self._plan.hash,
            "epoch": self._epoch,
            "window": self._index,
            "row": self._row,
            "position": self._position,
            "malformed": self.malformed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, at the revision that it was taken at."""
        if state["revision"] != self.revision:
            log.info("the data moved to %s since; continuing at %s", self.revision, state["revision"])
            self._use(self._reopen(state["revision"]))
        if state["plan"] != self._plan.hash:
            raise ReasonkitError(
                f"the data changed since the checkpoint: its plan was {state['plan']} and is {self._plan.hash} "
                f"(revision {state['revision']})",
                "restore the files, columns and seed that the run started with, or start a new run",
            )
        self.malformed = state["malformed"]
        self._seek(state["epoch"], state["window"], state["row"], state["position"])

    def _keep(self, row: Row | Malformed, taken: list[Row]) -> None:
        if isinstance(row, Malformed):
            self.malformed += 1
            log.warning("skipped a malformed row: %s: %s", row.where, row.why)
        else:
            taken.append(row)

    def _use(self, tables: Tables) -> None:
        for future in self._held.values():
            future.cancel()
        self._held = {}
        self._plan = Plan(tables, self._seed)
        if not any(table.group_bytes for table in tables.files):
            raise ReasonkitError("there is no row in " + ", ".join(table.name for table in tables.files))

    def _seek(self, epoch: int, index: int, row: int, position: int) -> None:
        self._epoch, self._index = epoch, index
        self._row, self._position = row, position
        self._windows = self._plan.windows(epoch)
        self._loaded: _Window | None = None
        self._rows_in_epoch = row
        self._fetch_ahead()

    def _next_window(self) -> None:
        self._index, self._row, self._loaded = self._index + 1, 0, None
        if self._index == len(self._windows):
            if self._rows_in_epoch == 0 and self._position == 0:
                raise ReasonkitError("the files have no row at all", "check that they are the right ones")
            self._epoch, self._index = self._epoch + 1, 0
            self._windows = self._plan.windows(self._epoch)
        self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        """Start fetching what the next windows lack, and let go of what they do not need."""
        coming = self._windows[self._index : self._index + 1 + AHEAD]
        if len(coming) < 1 + AHEAD:
            coming += self._plan.windows(self._epoch + 1)[: 1 + AHEAD - len(coming)]
        needed = [place for window in coming for place in window]
        for place in self._held.keys() - set(needed):
            self._held.pop(place).cancel()
        for file, group in needed:
            if (file, group) not in self._held:
                table = self._plan.tables.files[file]
                self._held[file, group] = self._fetchers.submit(table.read, group)

    def _window(self) -> _Window:
        if self._loaded is None:
            groups = [self._held[place].result() for place in self._windows[self._index]]
            key = derive_seed(self._seed, "rows", self._epoch, self._index)
            self._loaded = _Window(groups, key)
            self._rows_in_epoch += len(self._loaded.order)
        return self._loaded


class _Window:
    """The rows of some groups, in one joint random order."""

    def __init__(self, groups: list[Rows], key: int) -> None:
        self._groups = groups
        places = [(number, row) for number, rows in enumerate(groups) for row in range(len(rows))]
        self.order = [places[index] for index in permutation(len(places), key)]
        self._chunk: tuple[int, list[Row | Malformed]] = (-1, [])

    def chunk(self, number: int) -> list[Row | Malformed]:
        """Rows [number × _CHUNK, …) of the order. The last one asked for is kept."""
        if self._chunk[0] != number:
            places = self.order[number * _CHUNK : (number + 1) * _CHUNK]
            rows: list[Row | Malformed] = [{}] * len(places)
            for which in {group for group, _ in places}:
                slots = [slot for slot, (group, _) in enumerate(places) if group == which]
                found = self._groups[which].take([places[slot][1] for slot in slots])
                for slot, row in zip(slots, found, strict=True):
                    rows[slot] = row
            self._chunk = (number, rows)
        return self._chunk[1]
