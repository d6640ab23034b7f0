"""What a reward server was asked and answered, step by step, in parquet files: `{split}/{step}.parquet`.

The columns are those of II-VERL's `reward_api` dumps. An entry belongs to the step for which it was asked, however
late its verdict comes and whatever other steps are under way; a step's file is written once it has ended and all
its verdicts are there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger(__name__)
COLUMNS = ("llm_output", "verification_info", "score", "id", "data_source")
MOST_ROWS = 50_000
"""Of one file, so that a run which never says where it is does not fill the memory."""

Place = tuple[str, int]
START: Place = ("train", 0)
"""For what is asked before any step. It ends with the log."""
PLACE: ContextVar[Place] = ContextVar("PLACE", default=START)
"""Of whoever asks: several steps may be sampled at once."""


class RewardLog:
    def __init__(self, folder: Path, every: int) -> None:
        self._folder = folder
        self._every = every
        self._rows: defaultdict[Place, list[dict[str, Any]]] = defaultdict(list)
        self._expected = defaultdict[Place, int](int, {START: 1})  # verdicts, and steps that have not ended
        self._parts: defaultdict[Place, int] = defaultdict(int)
        self._writing: set[asyncio.Task[None]] = set()

    @contextmanager
    def at(self, split: str, step: int) -> Iterator[None]:
        before = PLACE.set((split, step))
        try:
            with self._expecting():
                yield
        finally:
            PLACE.reset(before)

    @contextmanager
    def entry(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yields what takes the row, once its verdict is there."""
        with self._expecting() as place:

            def note(row: dict[str, Any]) -> None:
                self._rows[place].append(row)  # looked up now: the list of before may have been written down

            yield note

    @contextmanager
    def _expecting(self) -> Iterator[Place]:
        place = PLACE.get()
        self._expected[place] += 1
        try:
            yield place
        finally:
            self._expected[place] -= 1
            if len(self._rows[place]) >= MOST_ROWS or not self._expected[place]:
                self._write(place)

    async def close(self) -> None:
        for place in list(self._rows):
            self._write(place)
        await asyncio.gather(*self._writing)

    def _write(self, place: Place) -> None:
        rows = self._rows.pop(place, [])
        split, step = place
        if not rows or step % self._every:
            return
        part = self._parts[place]
        self._parts[place] += 1
        name = f"{step}.parquet" if part == 0 else f"{step}-{part}.parquet"
        task = asyncio.create_task(asyncio.to_thread(write_rows, self._folder / split / name, rows))
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), OSError):
            LOGGER.warning("what the reward server answered could not be written down: %s", error)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [pa.field(name, pa.string()) for name in COLUMNS if name != "score"]
    schema = pa.schema([*texts[:2], pa.field("score", pa.float64()), *texts[2:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
    temporary.replace(path)
