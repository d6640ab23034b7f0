"""The trainer's feed: which records come next, and how to come back to exactly that place.

A feed's order depends on its seed and its position only: not on the number of readers, on the sizes of the
requests, or on whether the run was resumed. Its state is a few JSON values, stored with every checkpoint.
There is no shuffle buffer, because a buffer's content is state that nobody stores. Rollout repeats are not
made here: a feed gives each record once an epoch, and the rollout stage makes a group of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import xxhash

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, dumps, to_row
from reasonkit.seeding import derive_seed


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
        self._order = epoch_order(len(records), seed, 0)

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

    def _go_to(self, epoch: int, cursor: int) -> None:
        if epoch != self._epoch:
            self._order = epoch_order(len(self._records), self._seed, epoch)
        self._epoch, self._cursor = epoch, cursor


def epoch_order(size: int, seed: int, epoch: int) -> list[int]:
    """A permutation of `size` positions: sorted by a hash, so that it is the same in every Python."""
    key = derive_seed(seed, "data order", epoch)
    return sorted(
        range(size), key=lambda index: (xxhash.xxh3_64_intdigest(index.to_bytes(8, "big"), key), index)
    )


def fingerprint(records: Sequence[Record]) -> str:
    """What the records say and how they are ordered, in a few digits."""
    digest = xxhash.xxh3_64()
    for record in records:
        digest.update(dumps(to_row(record)).encode())
    return f"{len(records)}:{digest.hexdigest()}"
