"""The feed's promises: every record once an epoch, the same order however it is read, exact resume."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from reasonkit.data.mixture import ListFeed
from reasonkit.errors import ReasonkitError
from reasonkit.records import Record


def records(count: int, source: str = "toy") -> list[Record]:
    return [Record(str(i), source, ({"role": "user", "content": f"what is {i}?"},), i) for i in range(count)]


def uids(found: list[Record]) -> list[str]:
    return [record.uid for record in found]


def test_an_epoch_gives_every_record_once_and_the_next_one_another_order() -> None:
    feed = ListFeed(records(50), seed=3)
    first, second = uids(feed.next(50)), uids(feed.next(50))
    assert Counter(first) == Counter(second) == Counter(uids(records(50)))
    assert first != second != uids(records(50))


def test_the_order_does_not_depend_on_the_sizes_of_the_requests() -> None:
    whole, pieces = ListFeed(records(17), seed=0), ListFeed(records(17), seed=0)
    assert uids(whole.next(60)) == [uid for size in (1, 20, 3, 36) for uid in uids(pieces.next(size))]


def test_the_seed_changes_the_order() -> None:
    assert uids(ListFeed(records(50), seed=0).next(50)) != uids(ListFeed(records(50), seed=1).next(50))


@pytest.mark.parametrize("consumed", [0, 1, 9, 10, 11, 35])
def test_a_restored_feed_continues_exactly(consumed: int) -> None:
    feed = ListFeed(records(10), seed=5)
    feed.next(consumed)
    state = json.loads(json.dumps(feed.state()))
    resumed = ListFeed(records(10), seed=5)
    resumed.restore(state)
    assert uids(resumed.next(25)) == uids(feed.next(25))


def test_restoring_over_changed_records_is_an_error_that_names_both() -> None:
    state = ListFeed(records(10), seed=0).state()
    with pytest.raises(ReasonkitError, match=r"10:\w+ then, 11:\w+ now"):
        ListFeed(records(11), seed=0).restore(state)


def test_no_records_is_an_error() -> None:
    with pytest.raises(ReasonkitError, match="no record"):
        ListFeed([], seed=0)
