"""Hashes of all word n-grams of many texts at once.

Texts are laid into one byte array with single spaces between words, and prefix sums of a polynomial hash give
the hash of any span as one subtraction and one product. Python touches each text once; the rest is numpy over
about a megabyte at a time, which is what makes one core enough for whole training sets.

A gram is a run of words, so a text without spaces (Chinese, Japanese) counts each character as a word.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BATCH_BYTES = 1 << 20

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

_PRIME = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_PRIME, -1, 1 << 64)
_SPACE = 32
_WIDE = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_LOWER = bytes(
    byte + 32 if 65 <= byte <= 90 else 32 if byte in b"\t\n\r\x0b\x0c" else byte for byte in range(256)
)
_LETTERS_AND_DIGITS = bytes(
    byte if byte >= 128 or chr(byte).isalnum() else _SPACE for byte in (_LOWER[code] for code in range(256))
)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some texts, in one array of bytes."""

    buffer: npt.NDArray[np.uint8]
    starts: Indices
    """Of each word."""
    ends: Indices
    text_of: Indices
    """The text that each word belongs to."""
    first: Indices
    """Of each text, its first word; one more than there are texts."""
    prefix: Hashes

    def grams(self, size: int) -> tuple[Hashes, Indices]:
        """The hash of every run of `size` words within one text, and the word that it begins with."""
        count = len(self.starts) - size + 1
        if count <= 0:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        begins = np.flatnonzero(self.text_of[:count] == self.text_of[size - 1 :])
        return self.spans(begins, begins + size - 1), begins

    def wholes(self) -> Hashes:
        """One hash a text: of all its words. 0 for a text without words."""
        hashes = np.zeros(len(self.first) - 1, np.uint64)
        some = np.flatnonzero(self.first[1:] > self.first[:-1])
        hashes[some] = self.spans(self.first[some], self.first[some + 1] - 1)
        return hashes

    def words_in(self, text: int) -> int:
        return int(self.first[text + 1] - self.first[text])

    def span(self, begin: int, size: int) -> str:
        """The `size` words from word `begin` on, as they were hashed."""
        return (
            self.buffer[self.starts[begin] : self.ends[begin + size - 1]].tobytes().decode(errors="replace")
        )

    def spans(self, begins: Indices, lasts: Indices) -> Hashes:
        """The hash of the words from each of `begins` to each of `lasts`, both included."""
        starts = self.starts[begins]
        hashes: Hashes = (self.prefix[self.ends[lasts]] - self.prefix[starts]) * _powers_of(
            _INVERSE, len(self.buffer)
        )[starts]
        # A polynomial's low bits depend on few low bits of the text; fold the high ones in.
        hashes ^= hashes >> np.uint64(32)
        hashes *= np.uint64(0xD6E8FEB86659FD93)
        hashes ^= hashes >> np.uint64(32)
        return hashes


def words_of(texts: Sequence[str], *, punctuation: bool) -> Words:
    """Words in lower case. Without `punctuation`, all but letters and digits separates words."""
    table = _LOWER if punctuation else _LETTERS_AND_DIGITS
    # The record separator cannot be part of a word, and shows where a text ends.
    joined = "\x1e".join([text if text.isascii() and "\x1e" not in text else _folded(text) for text in texts])
    raw = joined.encode("utf-8", errors="replace")
    buffer = np.frombuffer(raw.translate(table[:30] + b"\x1e" + table[31:]), np.uint8)
    breaks = buffer == 0x1E
    blank = breaks | (buffer == _SPACE)
    edges = np.diff(blank.astype(np.int8), prepend=np.int8(1), append=np.int8(1))
    starts, ends = np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)
    lengths = ends - starts
    # Lay the words out again with one space between them, so that spans do not depend on spacing.
    compact_starts = np.concatenate(([0], np.cumsum(lengths + 1)[:-1])) if len(starts) else starts
    shift = np.repeat(starts - compact_starts, lengths)
    places = np.arange(len(shift)) + np.repeat(np.arange(len(starts)), lengths)
    compact = np.full(int(lengths.sum()) + len(starts) + 1, _SPACE, np.uint8)
    compact[places] = buffer[places + shift]
    text_of = np.cumsum(breaks)[starts] if len(starts) else starts
    first = np.searchsorted(text_of, np.arange(len(texts) + 1))
    prefix = np.zeros(len(compact) + 1, np.uint64)
    np.cumsum((compact.astype(np.uint64) + np.uint64(1)) * _powers_of(_PRIME, len(compact)), out=prefix[1:])
    return Words(compact, compact_starts, compact_starts + lengths, text_of, first, prefix)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Runs of texts of about BATCH_BYTES; a longer text is a run of its own."""
    batch: list[str] = []
    held = 0
    for text in texts:
        if batch and held + len(text) > BATCH_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(text)
        held += len(text) + 1
    if batch:
        yield batch


def pieces(text: str, overlap: int = 4096) -> list[str]:
    """A text of more than BATCH_BYTES in overlapping parts, so that memory does not grow with one row."""
    if len(text) <= BATCH_BYTES:
        return [text]
    step = BATCH_BYTES - overlap
    return [text[start : start + BATCH_BYTES] for start in range(0, max(1, len(text) - overlap), step)]


def _folded(text: str) -> str:
    return _WIDE.sub(r" \1 ", unicodedata.normalize("NFKC", text).casefold()).replace("\x1e", " ")


@functools.cache
def _table(base: int, size: int) -> Hashes:
    powers = np.full(size, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _powers_of(base: int, size: int) -> Hashes:
    """1, base, base², … modulo 2⁶⁴: `size` of them."""
    return _table(base, max(2 * BATCH_BYTES, 1 << size.bit_length()))[:size]
