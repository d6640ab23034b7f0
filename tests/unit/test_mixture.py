"""The feed's promises: every record once an epoch, the same order however it is read, exact resume."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from reasonkit.data.adapters import columns_as
from reasonkit.data.files import write_records
from reasonkit.data.mixture import Feed, ListFeed, MixedFeed, Stage, StreamFeed, open_stream
from reasonkit.errors import ReasonkitError, UsageError
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


def three_to_seven(seed: int = 0) -> dict[str, Feed]:
    return {name: ListFeed(records(40, name), seed) for name in ("easy", "middle", "hard")}


def sources(found: list[Record]) -> Counter[str]:
    return Counter(record.source for record in found)


def test_a_mixture_keeps_its_shares_and_every_feeds_own_order() -> None:
    mixed = MixedFeed(three_to_seven(), [Stage({"easy": 3, "middle": 1})], seed=0)
    taken = mixed.next(4000)
    assert sources(taken)["hard"] == 0
    assert abs(sources(taken)["easy"] - 3000) < 120
    easy = [record.uid for record in taken if record.source == "easy"]
    assert easy == uids(three_to_seven()["easy"].next(len(easy)))


def test_a_mixture_does_not_depend_on_the_sizes_of_the_requests() -> None:
    stages = [Stage({"easy": 1}, records=25), Stage({"easy": 1, "hard": 2})]
    whole, pieces = MixedFeed(three_to_seven(), stages, 1), MixedFeed(three_to_seven(), stages, 1)
    expected = [(record.source, record.uid) for record in whole.next(100)]
    assert expected == [(r.source, r.uid) for size in (1, 24, 1, 74) for r in pieces.next(size)]
    assert {source for source, _ in expected[:25]} == {"easy"}
    assert {source for source, _ in expected[25:]} == {"easy", "hard"}


def test_a_curriculum_moves_on_when_the_pass_rate_is_reached() -> None:
    stages = [Stage({"easy": 1}, pass_rate=0.8, over=3), Stage({"hard": 1})]
    mixed = MixedFeed(three_to_seven(), stages, 0)
    for rate in (1.0, 0.9, 0.1, 0.7, 0.8):
        mixed.observe(rate)
        assert set(sources(mixed.next(8))) == {"easy"}
    mixed.observe(0.95)
    assert set(sources(mixed.next(8))) == {"hard"}


def test_a_feed_says_where_it_stands_and_a_resumed_one_says_the_same(tmp_path: Path) -> None:
    lines = [json.dumps({"q": f"{n}?" if n % 4 else 5, "a": n}) for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "{half"]) + "\n")

    def mixed() -> tuple[MixedFeed, StreamFeed]:
        stream = open_stream(
            str(tmp_path / "rows.jsonl"),
            0,
            read=columns_as({"question": "q", "answer": "a"}, "s"),
            keep=lambda record: "large" if record.answer > 17 else None,
        )
        stages = [Stage({"easy": 1}, records=8), Stage({"rows": 1})]
        return MixedFeed({"easy": ListFeed(records(5), 0), "rows": stream}, stages, 0), stream

    feed, stream = mixed()
    assert feed.notes() == {"data_stage": 0, "data_dropped": 0, "data_epoch/easy": 0, "data_epoch/rows": 0}
    feed.next(8 + 13)
    notes = feed.notes()
    # Of 21 lines, 5 have no text for a question, 2 answers are large, one is half a line: 13 records an epoch.
    assert notes == {"data_stage": 1, "data_dropped": 8, "data_epoch/easy": 1, "data_epoch/rows": 0}
    resumed, other = mixed()
    resumed.restore(json.loads(json.dumps(feed.state())))
    assert resumed.notes() == notes
    assert all(isinstance(value, float) for value in notes.values())
    for each in (stream, other):
        each.close()


@pytest.mark.parametrize("consumed", [0, 7, 25, 26, 90])
def test_a_restored_mixture_continues_exactly(consumed: int) -> None:
    stages = [
        Stage({"easy": 1}, records=25),
        Stage({"easy": 1, "middle": 1}, pass_rate=0.5, over=1),
        Stage({"hard": 1}),
    ]

    def go_on(mixed: MixedFeed) -> list[Record]:
        taken = mixed.next(30)
        mixed.observe(0.6)
        return taken + mixed.next(30)

    mixed = MixedFeed(three_to_seven(), stages, 2)
    mixed.next(consumed)
    state = json.loads(json.dumps(mixed.state()))
    resumed = MixedFeed(three_to_seven(), stages, 2)
    resumed.restore(state)
    assert go_on(resumed) == go_on(mixed)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "without a stage"),
        ([Stage({"eazy": 1})], "weighs 'eazy'"),
        ([Stage({"easy": 0})], "no positive weight"),
        ([Stage({"easy": 2, "hard": -1})], "no positive weight"),
        ([Stage({"easy": 1}), Stage({"hard": 1})], "never ends"),
    ],
)
def test_a_mixture_that_cannot_be_is_an_error(stages: list[Stage], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixedFeed(three_to_seven(), stages, 0)


def test_a_streamed_record_file_feeds_what_the_file_holds(tmp_path: Path) -> None:
    write_records(records(2500), tmp_path / "train.parquet")
    feed = open_stream(str(tmp_path / "train.parquet"), seed=1)
    first = feed.next(1000)
    state = json.loads(json.dumps(feed.state()))
    rest = feed.next(1500)
    feed.restore(state)
    assert feed.next(1500) == rest
    assert sorted(uids(first + rest)) == sorted(uids(records(2500)))
    feed.close()


def test_a_streams_map_and_filter_drop_rows_with_a_count_and_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps({"q": f"{number}?", "a": number if number % 3 else None}) for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    feed = open_stream(
        str(tmp_path / "rows.jsonl"),
        seed=0,
        read=columns_as({"question": "q", "answer": "a"}, "toy"),
        keep=lambda record: "even" if record.answer % 2 == 0 else None,
    )
    assert Counter(record.answer for record in feed.next(10)) == Counter(
        n for n in range(30) if n % 3 and n % 2
    )
    feed.next(1)
    assert feed.dropped["column a is empty"] >= 10
    assert feed.dropped["even"] >= 10
    assert len(caplog.messages) == 2, "one line a reason, not one a row"
    feed.close()


def test_a_stream_that_yields_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "1?", "a": 1}\n')
    read = columns_as({"question": "question", "answer": "a"}, "toy")
    feed = open_stream(str(tmp_path / "rows.jsonl"), seed=0, read=read)
    with pytest.raises(ReasonkitError, match=r"gave no record \(column question is missing"):
        feed.next(1)
    feed.close()
