"""Three kinds of duplicates: equal, contained in another, and nearly equal.

Near-duplicates are found by MinHash and then verified: the words must really overlap, the numbers must be the
same, and so must the answer, because a word problem with another number in it is another problem. On puzzles
that a program wrote from a template even that destroys data, so near-dedup refuses them: there, two
records are the same problem exactly if their uid (a hash of the problem's parameters) or their text is.

Records are compared within their domain only. Of duplicates, the first stays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from reasonkit.data.cleaning import Judged, Rejection, prompt_text
from reasonkit.data.grams import Hashes, Words, batches, words_of
from reasonkit.errors import UsageError
from reasonkit.records import Record, dumps

PERMUTATIONS = 128
BANDS = 16
"""16 bands of 8 rows: a pair of Jaccard 0.8 becomes a candidate with probability 0.95, one of 0.5 with 0.06."""

SHINGLE = 5
CONTAINED_WORDS = 8
"""Shorter questions stand in longer ones by chance."""

PROCEDURAL = (
    "rg:",
    "kk_logic",
    "logic__",
    "simulation__",
    "reason_io",
    "graph_logical",
    "ordering_puzzle",
    "zebra_puzzle",
)
"""How the sources begin that were generated from templates elsewhere. Our own say so in their metadata."""

Signatures = npt.NDArray[np.uint32]

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_BLOCK = 1 << 14


def domain(record: Record) -> str:
    """What must agree for two records to be compared."""
    return str(record.metadata.get("ability") or record.source.partition("__")[0])


def is_procedural(record: Record) -> bool:
    return "item_seed" in record.metadata or record.source.startswith(PROCEDURAL)


def normalised(text: str) -> str:
    """Lower case and single spaces. Punctuation stays: 2-2 is not 2+2."""
    return " ".join(text.casefold().split())


def exact(records: Iterable[Record]) -> Iterator[Judged]:
    """Drop records whose question, or whose (source, uid), an earlier record has."""
    questions: dict[bytes, tuple[int, str]] = {}
    uids: set[int] = set()
    digest, short = xxhash.xxh3_128_digest, xxhash.xxh3_64_intdigest
    for record in records:
        key = digest(normalised(prompt_text(record)).encode())
        uid = short(f"{record.source}\x1f{record.uid}".encode())
        answer = short(dumps(record.answer).encode())
        mine = (answer, record.uid)
        earlier = questions.setdefault(key, mine)
        if earlier is not mine:
            reason = "same question" if earlier[0] == answer else "same question, other answer"
            yield record, Rejection(reason, f"first seen as {earlier[1]}")
        elif uid in uids:
            yield record, Rejection("same uid", f"{record.source}/{record.uid}")
        else:
            yield record, None
        uids.add(uid)


def contained(records: Iterable[Record]) -> Iterator[Judged]:
    """Drop records whose question stands, word for word, in a longer one of the same domain."""
    held = list(records)
    texts = [prompt_text(record) for record in held]
    by_key = _rarest_grams(texts)
    keys = np.array(sorted(by_key), np.uint64)
    container: dict[int, int] = {}
    for first, words in _laid_out(texts):
        hashes, begins = words.grams(CONTAINED_WORDS)
        found = _member(hashes, keys)
        wholes = words.text_of[begins[found]] + first
        for gram, whole in zip(hashes[found].tolist(), wholes.tolist(), strict=True):
            for part in by_key[gram]:
                if part != whole and part not in container and _stands_in(held, texts, part, whole):
                    container[part] = whole
    for index, record in enumerate(held):
        if index in container:
            yield record, Rejection("contained in another question", f"in {held[container[index]].uid}")
        else:
            yield record, None


def _laid_out(texts: Sequence[str]) -> Iterator[tuple[int, Words]]:
    """The words of a batch of texts, and which text is its first."""
    first = 0
    for batch in batches(texts):
        yield first, words_of(batch, punctuation=True)
        first += len(batch)


def _rarest_grams(texts: Sequence[str]) -> dict[int, list[int]]:
    """Of each text the gram that stands in fewest others, so that shared phrases bring no pairs together."""
    counts = np.zeros(1 << 22, np.int64)
    shift = np.uint64(64 - 22)
    for _, words in _laid_out(texts):
        counts += np.bincount((words.grams(CONTAINED_WORDS)[0] >> shift).astype(np.int64), minlength=1 << 22)
    by_gram: dict[int, list[int]] = defaultdict(list)
    for first, words in _laid_out(texts):
        hashes, begins = words.grams(CONTAINED_WORDS)
        owners = words.text_of[begins]
        order = np.lexsort((counts[(hashes >> shift).astype(np.int64)], owners))
        _, firsts = np.unique(owners[order], return_index=True)
        rarest = order[firsts]
        for gram, owner in zip(hashes[rarest].tolist(), owners[rarest].tolist(), strict=True):
            by_gram[gram].append(first + owner)
    return by_gram


def _stands_in(records: Sequence[Record], texts: Sequence[str], part: int, whole: int) -> bool:
    if domain(records[part]) != domain(records[whole]):
        return False
    inner, outer = normalised(texts[part]), normalised(texts[whole])
    return len(inner) < len(outer) and f" {inner} " in f" {outer} "


def near(records: Iterable[Record], threshold: float = 0.8, force: bool = False) -> Iterator[Judged]:
    """Drop records that nearly repeat an earlier one: Jaccard of word 5-grams at least `threshold`, verified."""
    index = _Index(threshold)
    pending: list[Record] = []
    size = 0
    for record in records:
        if is_procedural(record) and not force:
            raise UsageError(
                f"near-dedup refuses {record.source} (record {record.uid}): it is generated from templates, where "
                "nearly equal texts are different problems",
                "reasonkit data dedup --exact   compares their parameters; --force if you know better",
            )
        pending.append(record)
        size += len(prompt_text(record))
        if size > 1 << 20:
            yield from index.judge(pending)
            pending, size = [], 0
    yield from index.judge(pending)


class _Index:
    """MinHash signatures in bands, of the records kept so far."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        rng = np.random.Generator(np.random.PCG64(20))
        self._factors = rng.integers(1, 1 << 63, PERMUTATIONS, np.uint64) * np.uint64(2) + np.uint64(1)
        self._offsets = rng.integers(0, 1 << 63, PERMUTATIONS, np.uint64)
        self._buckets: dict[tuple[int, int, str], list[int]] = defaultdict(list)
        self._kept: list[Record] = []
        self._shingles: list[Hashes] = []
        self._signatures = np.empty((1024, PERMUTATIONS), np.uint32)

    def judge(self, records: Sequence[Record]) -> Iterator[Judged]:
        if not records:
            return
        words = words_of([prompt_text(record)[: 1 << 20] for record in records], punctuation=True)
        hashes, begins = words.grams(SHINGLE)
        wholes = words.wholes()
        owners = words.text_of[begins]
        bounds = np.searchsorted(owners, np.arange(len(records) + 1))
        shingles = [
            np.unique(hashes[start:end]) if end > start else wholes[text : text + 1]
            for text, (start, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        ]
        signatures = self._sign(shingles)
        bands = _band_hashes(signatures)
        for record, own, signature, keys in zip(records, shingles, signatures, bands.tolist(), strict=True):
            where = domain(record)
            buckets = [self._buckets[number, key, where] for number, key in enumerate(keys)]
            twin = self._twin(record, own, signature, {one for bucket in buckets for one in bucket})
            if twin is not None:
                yield record, Rejection("nearly the same question", f"as {self._kept[twin].uid}")
                continue
            yield record, None
            self._keep(record, own, signature, buckets)

    def _sign(self, shingles: Sequence[Hashes]) -> Signatures:
        """The smallest of each permutation's values over each record's shingles."""
        signatures = np.empty((len(shingles), PERMUTATIONS), np.uint32)
        lengths = [len(own) for own in shingles]
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        together = np.concatenate(shingles)
        first = 0
        while first < len(shingles):
            last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + _BLOCK, "right")) - 1)
            block = together[bounds[first] : bounds[last]]
            starts = bounds[first:last] - bounds[first]
            for number in range(PERMUTATIONS):
                values = (block * self._factors[number] + self._offsets[number]) >> np.uint64(32)
                signatures[first:last, number] = np.minimum.reduceat(values, starts)
            first = last
        return signatures

    def _twin(self, record: Record, own: Hashes, signature: Signatures, candidates: set[int]) -> int | None:
        """An earlier record that this one repeats. The signatures' estimate spares most of the verification."""
        if not candidates:
            return None
        ordered = np.array(sorted(candidates))
        estimates = (self._signatures[ordered] == signature).mean(axis=1)
        for one in ordered[estimates >= self._threshold - 0.2].tolist():
            common = np.intersect1d(own, self._shingles[one], assume_unique=True).size
            if common < self._threshold * (own.size + self._shingles[one].size - common):
                continue
            if _numbers(record) == _numbers(self._kept[one]) and record.answer == self._kept[one].answer:
                return int(one)
        return None

    def _keep(self, record: Record, own: Hashes, signature: Signatures, buckets: Sequence[list[int]]) -> None:
        position = len(self._kept)
        if position == len(self._signatures):
            self._signatures = np.concatenate((self._signatures, np.empty_like(self._signatures)))
        self._signatures[position] = signature
        self._kept.append(record)
        self._shingles.append(own)
        for bucket in buckets:
            bucket.append(position)


def _band_hashes(signatures: Signatures) -> Hashes:
    """One hash for each band of each signature."""
    rows = PERMUTATIONS // BANDS
    bands = signatures.reshape(len(signatures), BANDS, rows).astype(np.uint64)
    hashes = np.zeros(bands.shape[:2], np.uint64)
    for row in range(rows):
        hashes = (hashes ^ bands[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _numbers(record: Record) -> list[str]:
    return sorted(_NUMBER.findall(prompt_text(record)))


def _member(values: Hashes, of: Hashes) -> npt.NDArray[np.bool_]:
    """Which values stand in the sorted array `of`."""
    if not of.size:
        return np.zeros(len(values), np.bool_)
    return np.equal(of[np.minimum(np.searchsorted(of, values), of.size - 1)], values)
