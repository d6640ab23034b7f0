"""Split a set into train and test so that what belongs together stays together, and report what still leaks.

A group is a program, a template, a room: records whose answers help each other. A random split by row puts
parts of one group on both sides and makes a test set that measures memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonkit.data.cleaning import prompt_text
from reasonkit.data.decontaminate import Evaluations
from reasonkit.data.dedup import normalised
from reasonkit.data.mixture import ListFeed, MixedFeed, Stage
from reasonkit.errors import UsageError
from reasonkit.records import Record, dumps
from reasonkit.seeding import derive_seed

OPENING = 400
"""Characters of a question that, when equal, suggest the same underlying program or passage."""


@dataclass(frozen=True, slots=True)
class Halves:
    train: list[Record]
    test: list[Record]


@dataclass(frozen=True, slots=True)
class Leaks:
    """How many test records have something in train that they should not have."""

    test_rows: int
    same_group: int
    same_question: int
    same_opening: int
    shared_13_words: int
    examples: tuple[str, ...]

    @property
    def none(self) -> bool:
        return not (self.same_group or self.same_question or self.same_opening or self.shared_13_words)

    def as_json(self) -> dict[str, Any]:
        return {
            "test_rows": self.test_rows,
            "same_group": self.same_group,
            "same_question": self.same_question,
            "same_opening": self.same_opening,
            "shared_13_words": self.shared_13_words,
            "examples": list(self.examples),
        }


def group_of(record: Record, fields: Sequence[str]) -> str:
    """What a record belongs to: the values of its metadata `fields`, or the question itself without any."""
    missing = [name for name in fields if name not in record.metadata]
    if missing:
        raise UsageError(
            f"record {record.uid} of {record.source} has no metadata '{missing[0]}'",
            f"its metadata: {', '.join(sorted(record.metadata)) or 'none'}",
        )
    if not fields:
        return normalised(prompt_text(record))
    return dumps([record.metadata[name] for name in fields])


def split(records: Sequence[Record], test_size: int, seed: int, fields: Sequence[str] = ()) -> Halves:
    """About `test_size` records for test, in whole groups, drawn by a hash of the seed and the group."""
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(group_of(record, fields), []).append(index)
    if not 0 < test_size < len(records):
        raise UsageError(f"a test set of {test_size} cannot be cut from {len(records)} records")
    test: set[int] = set()
    for name in sorted(groups, key=lambda name: (derive_seed(seed, "split", name), name)):
        # A group that would overshoot by more than it helps stays in train; a smaller one may follow.
        if len(test) + len(groups[name]) / 2 <= test_size:
            test.update(groups[name])
    if not test or len(test) == len(records):
        raise UsageError(
            f"{len(groups)} groups are too few or too large for a test set of {test_size}",
            "group by other fields, or choose another size",
        )
    return Halves(
        [record for index, record in enumerate(records) if index not in test],
        [records[index] for index in sorted(test)],
    )


def leaks(halves: Halves, fields: Sequence[str] = ()) -> Leaks:
    """Compare the two halves in four ways, whatever they were split by."""
    groups, questions, openings = (set[str]() for _ in range(3))
    for record in halves.train:
        groups.add(group_of(record, fields))
        questions.add(normalised(prompt_text(record)))
        openings.add(prompt_text(record)[:OPENING])
    shared = Evaluations({"train": halves.train}, mask=False).hits(
        [prompt_text(record) for record in halves.test]
    )
    counts = dict.fromkeys(("group", "question", "opening"), 0)
    examples: list[str] = []
    for index, record in enumerate(halves.test):
        text = prompt_text(record)
        found = {
            "group": group_of(record, fields) in groups,
            "question": normalised(text) in questions,
            "opening": len(text) >= OPENING and text[:OPENING] in openings,
        }
        for name, leaked in found.items():
            counts[name] += leaked
        if any(found.values()) or index in shared:
            examples.append(record.uid)
    return Leaks(
        len(halves.test),
        counts["group"],
        counts["question"],
        counts["opening"],
        len(shared),
        tuple(examples[:10]),
    )


def mix(sets: Mapping[str, tuple[Sequence[Record], float]], size: int, seed: int) -> Iterator[Record]:
    """`size` records from several sets by weight, each record at most once."""
    feeds = {name: ListFeed(records, seed) for name, (records, _) in sets.items()}
    weights = {name: weight for name, (_, weight) in sets.items()}
    drawn = MixedFeed(feeds, [Stage(weights)], seed)
    used = dict.fromkeys(sets, 0)
    names = {id(record): name for name, (records, _) in sets.items() for record in records}
    for _ in range(size):
        (record,) = drawn.next(1)
        name = names[id(record)]
        used[name] += 1
        if used[name] > len(sets[name][0]):
            raise UsageError(
                f"{name} has {len(sets[name][0])} records, too few for its weight in a mixture of {size}",
                "ask for a smaller --size, or give it a smaller weight",
            )
        yield record


def counted(records: Iterable[Record], counts: dict[str, int]) -> Iterator[Record]:
    """Pass records on, counting them by source."""
    for record in records:
        counts[record.source] = counts.get(record.source, 0) + 1
        yield record
