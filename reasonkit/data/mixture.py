"""The trainer's feed: which records come next, and how to come back to exactly that place.

A feed's order depends on its seed and its position only: not on the number of readers, on the sizes of the
requests, or on whether the run was resumed. Its state is a few JSON values, stored with every checkpoint.
There is no shuffle buffer, because a buffer's content is state that nobody stores. Rollout repeats are not
made here: a feed gives each record once an epoch, and the rollout stage makes a group of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import xxhash

from reasonkit.data.adapters import BadRow, Reader, read_any
from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.hub.client import Hub
from reasonkit.hub.stream import RowStream, permutation
from reasonkit.hub.tables import Tables, open_tables, split_name
from reasonkit.records import Record, dumps, to_row
from reasonkit.seeding import derive_seed

log = logging.getLogger(__name__)


class Feed(Protocol):
    def next(self, count: int) -> list[Record]:
        """The next `count` records. An epoch's end is no boundary: the next epoch fills the request."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the feed stands, as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state` of an equal feed has described."""
        ...

    def notes(self) -> dict[str, float]:
        """Where the feed stands, as figures for a step's metrics. Functions of its state: a resumed run's agree."""
        ...


class ListFeed:
    """Records in memory, reshuffled every epoch."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        if not records:
            raise ReasonkitError(
                "there is no record to train on", "give data.train a source that has records"
            )
        self._records = records
        self._seed = seed
        self._fingerprint = fingerprint(records)
        self._epoch = 0
        self._cursor = 0
        self._order = self._shuffled(0)

    def next(self, count: int) -> list[Record]:
        taken: list[Record] = []
        while len(taken) < count:
            if self._cursor == len(self._records):
                self._go_to(self._epoch + 1, 0)
            end = min(self._cursor + count - len(taken), len(self._records))
            taken.extend(self._records[index] for index in self._order[self._cursor : end])
            self._cursor = end
        return taken

    def state(self) -> dict[str, Any]:
        return {"records": self._fingerprint, "epoch": self._epoch, "cursor": self._cursor}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["records"] != self._fingerprint:
            raise ReasonkitError(
                f"the training records changed since the checkpoint: {state['records']} then, "
                f"{self._fingerprint} now",
                "restore the data that the run started with, or start a new run",
            )
        self._go_to(state["epoch"], state["cursor"])

    def notes(self) -> dict[str, float]:
        return {"data_epoch": float(self._epoch)}

    def _go_to(self, epoch: int, cursor: int) -> None:
        if epoch != self._epoch:
            self._order = self._shuffled(epoch)
        self._epoch, self._cursor = epoch, cursor

    def _shuffled(self, epoch: int) -> list[int]:
        return permutation(len(self._records), derive_seed(self._seed, "data order", epoch))


class StreamFeed:
    """Records made from a stream's rows as they come: for data too large to hold or to wait for.

    A row that `read` refuses, and a record that `keep` refuses, is left out and counted in `dropped` by reason.
    """

    def __init__(
        self, rows: RowStream, read: Reader, keep: Callable[[Record], str | None] = lambda _: None
    ) -> None:
        """`keep` gives the reason why a record is not wanted, or None."""
        self._rows, self._read, self._keep = rows, read, keep
        self.dropped: Counter[str] = Counter()
        self._last_epoch = 0
        """The epoch that gave the last record: what notices that a whole pass gave none."""

    def next(self, count: int) -> list[Record]:
        taken: list[Record] = []
        while len(taken) < count:
            kept = [record for row in self._rows.take(count - len(taken)) if (record := self._record(row))]
            taken += kept
            if kept:
                self._last_epoch = self._rows.epoch
            elif self._rows.epoch > self._last_epoch + 1:
                raise ReasonkitError(
                    f"a whole pass over the data gave no record ({_listed(self.dropped)})",
                    "check the row format, the mapping of columns and the filter",
                )
        return taken

    def state(self) -> dict[str, Any]:
        return {"rows": self._rows.state(), "dropped": dict(self.dropped), "last_epoch": self._last_epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rows.restore(state["rows"])
        self.dropped = Counter(state["dropped"])
        self._last_epoch = state["last_epoch"]

    def notes(self) -> dict[str, float]:
        """The epoch, and how many rows were left out so far: malformed, refused, filtered or too long."""
        dropped = self.dropped.total() + self._rows.malformed
        return {"data_epoch": float(self._rows.epoch), "data_dropped": float(dropped)}

    def close(self) -> None:
        self._rows.close()

    def _record(self, row: Mapping[str, Any]) -> Record | None:
        try:
            record = self._read(row)
            reason = self._keep(record)
        except BadRow as error:
            reason = str(error)
        if reason is None:
            return record
        if reason not in self.dropped:
            log.warning("dropped a row (more of this kind are only counted): %s", reason)
        self.dropped[reason] += 1
        return None


def open_stream(
    name: str,
    seed: int,
    *,
    hub: Hub | None = None,
    files: Sequence[str] = (),
    columns: Sequence[str] = (),
    read: Reader = read_any,
    keep: Callable[[Record], str | None] = lambda _: None,
) -> StreamFeed:
    """A feed from a Hub dataset (`hf:ORG/NAME@REV`) or from local parquet or JSONL, read as it is needed.

    It stays at the revision that it opened; a checkpoint goes back to the revision that it was taken at.
    """

    def reopen(revision: str | None) -> Tables:
        pinned = f"hf:{split_name(name)[0]}@{revision}" if revision and name.startswith("hf:") else name
        return open_tables(pinned, files=files, columns=columns, hub=hub)

    return StreamFeed(RowStream(reopen, seed), read, keep)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a curriculum: shares of the sources, and when it ends. The last stage never ends."""

    weights: Mapping[str, float]
    records: int | None = None
    """It ends after this many records, …"""
    pass_rate: float | None = None
    """… or once the mean pass rate of the last `over` batches has reached this."""
    over: int = 10


class MixedFeed:
    """Several feeds in one, record by record in the shares of the current stage.

    Which feed a place belongs to is a hash of (seed, place), so the mixture is a function of place and stage.
    """

    def __init__(self, feeds: Mapping[str, Feed], stages: Sequence[Stage], seed: int) -> None:
        _check_stages(feeds, stages)
        self._feeds, self._stages, self._seed = feeds, stages, seed
        self._position = 0
        self._stage = 0
        self._entered = 0
        """Where the current stage began."""
        self._rates: list[float] = []

    @property
    def stage(self) -> int:
        return self._stage

    def next(self, count: int) -> list[Record]:
        taken: list[Record] = []
        while len(taken) < count:
            self._end_stage_by_records()
            stage = self._stages[self._stage]
            left = count - len(taken)
            if stage.records is not None and self._stage + 1 < len(self._stages):
                left = min(left, self._entered + stage.records - self._position)
            names = [self._name(position) for position in range(self._position, self._position + left)]
            drawn = {name: iter(self._feeds[name].next(share)) for name, share in Counter(names).items()}
            taken.extend(next(drawn[name]) for name in names)
            self._position += left
        return taken

    def observe(self, pass_rate: float) -> None:
        """Tell the curriculum how a batch went; a stage that waits for a pass rate may end with it."""
        stage = self._stages[self._stage]
        self._rates = [*self._rates, pass_rate][-stage.over :]
        if stage.pass_rate is None or self._stage + 1 == len(self._stages):
            return
        if len(self._rates) == stage.over and sum(self._rates) / stage.over >= stage.pass_rate:
            self._advance()

    def state(self) -> dict[str, Any]:
        return {
            "position": self._position,
            "stage": self._stage,
            "entered": self._entered,
            "rates": self._rates,
            "feeds": {name: feed.state() for name, feed in self._feeds.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["feeds"].keys() != self._feeds.keys():
            raise ReasonkitError(
                f"the sources changed since the checkpoint: {', '.join(state['feeds'])} then, "
                f"{', '.join(self._feeds)} now",
                "restore the recipe's data section, or start a new run",
            )
        self._position, self._stage = state["position"], state["stage"]
        self._entered, self._rates = state["entered"], list(state["rates"])
        for name, feed in self._feeds.items():
            feed.restore(state["feeds"][name])

    def notes(self) -> dict[str, float]:
        """The curriculum's stage; rows dropped by all streams; the epoch of each source, in the order of feeds."""
        own = {name: feed.notes() for name, feed in self._feeds.items()}
        dropped = [notes["data_dropped"] for notes in own.values() if "data_dropped" in notes]
        return {
            "data_stage": float(self._stage),
            **({"data_dropped": sum(dropped)} if dropped else {}),
            **{f"data_epoch/{name}": notes["data_epoch"] for name, notes in own.items()},
        }

    def _end_stage_by_records(self) -> None:
        stage = self._stages[self._stage]
        last = self._stage + 1 == len(self._stages)
        if not last and stage.records is not None and self._position >= self._entered + stage.records:
            self._advance()

    def _advance(self) -> None:
        self._stage, self._entered, self._rates = self._stage + 1, self._position, []
        log.info(
            "the curriculum moves to stage %d: %s", self._stage, _listed(self._stages[self._stage].weights)
        )

    def _name(self, position: int) -> str:
        """The feed that a place belongs to."""
        weights = self._stages[self._stage].weights
        point = derive_seed(self._seed, "mixture", position) / 2**63 * sum(weights.values())
        for name, weight in weights.items():
            point -= weight
            if point < 0:
                return name
        return max(weights, key=lambda name: weights[name])  # rounding left a crumb beyond the last


def _check_stages(feeds: Mapping[str, Feed], stages: Sequence[Stage]) -> None:
    if not stages:
        raise UsageError("a mixture without a stage", "give it one: the weights of its sources")
    for number, stage in enumerate(stages):
        unknown = stage.weights.keys() - feeds.keys()
        if unknown:
            raise UsageError(f"stage {number} weighs '{min(unknown)}'", nearest(min(unknown), feeds))
        if min(stage.weights.values(), default=0.0) < 0 or not sum(stage.weights.values()) > 0:
            raise UsageError(f"stage {number} has no positive weight: {_listed(stage.weights)}")
        if number + 1 < len(stages) and stage.records is None and stage.pass_rate is None:
            raise UsageError(
                f"stage {number} never ends, so stage {number + 1} never begins",
                "give it a number of records, or a pass rate",
            )


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {value:g}" for name, value in values.items()) or "nothing was dropped"


def fingerprint(records: Sequence[Record]) -> str:
    """What the records say and how they are ordered, in a few digits."""
    digest = xxhash.xxh3_64()
    for record in records:
        digest.update(dumps(to_row(record)).encode())
    return f"{len(records)}:{digest.hexdigest()}"
