"""Find training records that hold an evaluation item, by runs of 13 words.

Instructions that many items share would flag whole training sets. So words are boilerplate where a run of 8
stands in more than one in a hundred distinct items of a set, and a run of 13 counts only if most of it is not
boilerplate. An item whose own words are fewer than 13 is looked for by all of them, in one run. Every hit is
compared as text before it counts, and reports the words that matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reasonkit.data.cleaning import Judged, Rejection, prompt_text
from reasonkit.data.grams import BATCH_BYTES, Hashes, Indices, Words, batches, pieces, words_of
from reasonkit.errors import UsageError
from reasonkit.records import Record

GRAM = 13
SHORTEST = 5
"""Items of fewer words are only compared as a whole question: they stand in any text by chance."""

COMMON_RUN = 8
COMMON_SHARE = 0.01
COMMON_FLOOR = 4
"""A run is boilerplate if it stands in more distinct items than both: this many, and this share of the set."""

OWN_WORDS = 7
"""Words of a run of 13 that must not be boilerplate."""

_TABLE_BITS = 22


@dataclass(frozen=True, slots=True)
class Item:
    """An evaluation question: the set that it is from, and its place there."""

    name: str
    uid: str
    text: str


class Evaluations:
    """What must not be trained on, indexed once and looked up batch by batch."""

    def __init__(self, sets: Mapping[str, Iterable[Record]], *, mask: bool = True) -> None:
        """Without `mask`, nothing is boilerplate: for comparing two halves of one set."""
        self._items: list[Item] = []
        self._mask = mask
        self.masked: dict[str, int] = {}
        """Of each set, how many distinct runs were taken for boilerplate."""
        self._whole: dict[int, int] = {}
        runs, openings = _Pairs(), _Pairs()
        shorts: dict[int, _Pairs] = {}
        for name, records in sets.items():
            items = _distinct(name, records)
            first = len(self._items)
            self._items += items
            words = words_of([item.text for item in items], punctuation=False)
            own = self._own_words(name, words, len(items))
            hashes, begins = words.grams(GRAM)
            counted = np.concatenate(([0], np.cumsum(own)))
            specific = counted[begins + GRAM] - counted[begins] >= OWN_WORDS
            runs.add(hashes[specific], words.text_of[begins[specific]] + first)
            for number, begin, end in _few_words(words, own):
                owner = np.array([first + number])
                edges = np.array([begin]), np.array([end - 1])
                if end - begin >= SHORTEST:
                    shorts.setdefault(end - begin, _Pairs()).add(words.spans(*edges), owner)
                    openings.add(words.spans(edges[0], edges[0] + SHORTEST - 1), owner)
                else:
                    self._whole[int(words.wholes()[number])] = first + number
        if not self._items:
            raise UsageError("there is no evaluation item to compare with", "--against FILE or TASK")
        self._runs, self._openings = _Index(runs), _Index(openings)
        self._shorts = {size: _Index(pairs) for size, pairs in shorts.items()}

    def __len__(self) -> int:
        return len(self._items)

    def hits(self, texts: Sequence[str]) -> dict[int, tuple[Item, str]]:
        """Of the texts that hold an item, the item and the words that they share."""
        words = words_of(texts, punctuation=False)
        found: dict[int, tuple[Item, str]] = {}
        for text, owner, span in self._candidates(words):
            item = self._items[owner]
            if text not in found and f" {span} " in f" {_words_of_one(item.text)} ":
                found[text] = (item, span)
        return found

    def _candidates(self, words: Words) -> Iterator[tuple[int, int, str]]:
        """(text, item, shared words) wherever hashes agree."""
        grams, begins = words.grams(GRAM)
        for place in self._runs.lookup(grams).tolist():
            begin = int(begins[place])
            yield int(words.text_of[begin]), self._runs.owner(grams[place]), words.span(begin, GRAM)
        if self._shorts:
            # One pass over runs of the shortest size finds where any short item may begin.
            grams, begins = words.grams(SHORTEST)
            begins = begins[self._openings.lookup(grams)]
            for size, index in self._shorts.items():
                fitting = begins[begins + size <= len(words.starts)]
                fitting = fitting[words.text_of[fitting] == words.text_of[fitting + size - 1]]
                hashes = words.spans(fitting, fitting + size - 1)
                for place in index.lookup(hashes).tolist():
                    begin = int(fitting[place])
                    yield int(words.text_of[begin]), index.owner(hashes[place]), words.span(begin, size)
        if self._whole:
            for text, whole in enumerate(words.wholes().tolist()):
                if whole in self._whole:
                    span = words.span(int(words.first[text]), words.words_in(text))
                    yield text, self._whole[whole], span

    def _own_words(self, name: str, words: Words, items: int) -> npt.NDArray[np.bool_]:
        """Which words are an item's own, and not part of a run that many items share."""
        own = np.ones(len(words.starts), np.bool_)
        hashes, begins = words.grams(COMMON_RUN)
        owners = words.text_of[begins].astype(np.uint64)
        pairs = np.unique(np.stack((hashes, owners)), axis=1)
        distinct, counts = np.unique(pairs[0], return_counts=True)
        common = distinct[counts > max(COMMON_FLOOR, COMMON_SHARE * items)]
        self.masked[name] = len(common) if self._mask else 0
        if self._mask:
            for begin in begins[np.isin(hashes, common)].tolist():
                own[begin : begin + COMMON_RUN] = False
        return own


def _few_words(words: Words, own: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Items with fewer than 13 words of their own: (item, first, end) of the run that holds these words."""
    for number in range(len(words.first) - 1):
        first = int(words.first[number])
        places = np.flatnonzero(own[first : int(words.first[number + 1])]) + first
        if not places.size:
            if words.words_in(number):
                yield number, first, first
        elif places[-1] + 1 - places[0] < GRAM:
            yield number, int(places[0]), int(places[-1]) + 1


class _Pairs:
    """Hashes and the items that they stand for, as they are collected."""

    def __init__(self) -> None:
        self.hashes: list[Hashes] = [np.empty(0, np.uint64)]
        self.owners: list[Indices] = [np.empty(0, np.int64)]

    def add(self, hashes: Hashes, owners: Indices) -> None:
        self.hashes.append(hashes)
        self.owners.append(owners)


class _Index:
    """Membership of hashes: a table of bits throws out nearly all, a sorted array decides the rest."""

    def __init__(self, pairs: _Pairs) -> None:
        hashes, owners = np.concatenate(pairs.hashes), np.concatenate(pairs.owners)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        self._table = np.zeros(1 << _TABLE_BITS, np.bool_)
        self._table[_slot(hashes)] = True

    def lookup(self, hashes: Hashes) -> Indices:
        """The places of those that are in the index."""
        maybe: Indices = np.flatnonzero(self._table[_slot(hashes)])
        if not maybe.size:
            return maybe
        places = np.minimum(np.searchsorted(self._hashes, hashes[maybe]), len(self._hashes) - 1)
        sure: Indices = maybe[self._hashes[places] == hashes[maybe]]
        return sure

    def owner(self, gram: np.uint64) -> int:
        return int(self._owners[np.searchsorted(self._hashes, gram)])


def decontaminate(records: Iterable[Record], evaluations: Evaluations) -> Iterator[Judged]:
    """Drop records that hold an item of an evaluation set."""
    held: list[Record] = []

    def kept() -> Iterator[str]:
        for record in records:
            held.append(record)
            yield prompt_text(record)

    for batch in batches(kept()):
        parts = [(text, piece) for text, content in enumerate(batch) for piece in pieces(content)]
        found = evaluations.hits([piece for _, piece in parts])
        by_text = {parts[place][0]: hit for place, hit in found.items()}
        for text, record in enumerate(held[: len(batch)]):
            if text not in by_text:
                yield record, None
            else:
                item, span = by_text[text]
                yield record, Rejection(f"holds an item of {item.name}", f"{item.uid}: {span}")
        del held[: len(batch)]


def _distinct(name: str, records: Iterable[Record]) -> list[Item]:
    """Sets that repeat each item (AIME eight times) would otherwise look like boilerplate."""
    items = {
        _words_of_one(text): Item(name, record.uid, text)
        for record in records
        if (text := prompt_text(record))
    }
    return list(items.values())


def _words_of_one(text: str) -> str:
    words = words_of([text[:BATCH_BYTES]], punctuation=False)
    return words.span(0, words.words_in(0)) if words.words_in(0) else ""


def _slot(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
