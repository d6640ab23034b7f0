"""Duplicates: equal, contained, nearly equal. What is another problem must stay."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonkit.data.cleaning import Judged, clean
from reasonkit.data.dedup import contained, exact, near, normalised
from reasonkit.data.files import read_records, write_records
from reasonkit.data.grams import pieces, words_of
from reasonkit.errors import UsageError
from reasonkit.records import Message, Record

WORDS = [
    f"{a}{b}"
    for a in ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu"]
    for b in ["ren", "lo", "ti", "mus", "ke", "va", "ros", "dan"]
]


def question(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(WORDS, k=length))


def record(uid: object, text: str, answer: Any = "1", source: str = "math__toy", **metadata: Any) -> Record:
    return Record(str(uid), source, (Message(role="user", content=text),), answer, metadata=metadata)


def kept(judged: Iterable[Judged]) -> list[str]:
    return [one.uid for one, rejection in judged if rejection is None]


def reasons(judged: Iterable[Judged]) -> Counter[str]:
    return Counter(rejection.reason for _, rejection in judged if rejection is not None)


def test_exact_ignores_case_and_spacing_but_not_punctuation() -> None:
    found = list(exact([record(1, "What is  2+2?"), record(2, "what IS 2+2?\n"), record(3, "What is 2-2?")]))
    assert kept(found) == ["1", "3"]
    assert found[1][1] is not None
    assert found[1][1].detail == "first seen as 1"


def test_exact_tells_repeats_from_contradictions_and_reused_uids() -> None:
    same, other = record(2, "a b c", "1"), record(3, "a b c", "7")
    found = list(exact([record(1, "a b c", "1"), same, other, record(1, "d e f")]))
    assert reasons(found) == {"same question": 1, "same question, other answer": 1, "same uid": 1}


def test_system_instructions_do_not_make_questions_equal_or_different() -> None:
    def with_system(uid: int, system: str, text: str) -> Record:
        turns = (Message(role="system", content=system), Message(role="user", content=text))
        return Record(str(uid), "math", turns, "1")

    found = exact([with_system(1, "A", "x"), with_system(2, "B", "x"), with_system(3, "A", "y")])
    assert kept(found) == ["1", "3"]


def test_a_question_that_stands_in_a_longer_one_is_dropped() -> None:
    rng = random.Random(0)
    inner = question(rng, 20)
    rows = [
        record("inner", inner),
        record("outer", f"Given this: {inner} and then some more"),
        record("free", question(rng, 20)),
    ]
    found = list(contained(rows))
    assert kept(found) == ["outer", "free"]
    assert reasons(found) == {"contained in another question": 1}


def test_containment_respects_word_borders_domains_and_short_questions() -> None:
    rng = random.Random(1)
    inner = question(rng, 12)
    rows = [
        record("a", inner),
        record("cut word", f"x{inner}y"),
        record("other domain", f"see {inner} there", source="codegen__x"),
        record("short", "what is it"),
        record("holds short", f"{question(rng, 9)} what is it"),
    ]
    assert kept(contained(rows)) == [row.uid for row in rows]


def test_containment_finds_what_a_slow_search_finds_among_shared_boilerplate() -> None:
    rng = random.Random(2)
    lead = "Solve the following problem step by step and box the final answer :"
    texts = [f"{lead} {question(rng, rng.randint(3, 12))}" for _ in range(150)]
    texts += [f"{rng.choice(texts)} {question(rng, 4)}" for _ in range(50)]
    rows = [record(number, text) for number, text in enumerate(texts)]
    slow = {
        str(a)
        for a, inner in enumerate(texts)
        if any(a != b and inner != outer and f" {inner} " in f" {outer} " for b, outer in enumerate(texts))
    }
    assert len(slow) > 20
    assert {row.uid for row in rows} - set(kept(contained(rows))) == slow


def test_near_duplicates_are_dropped_and_the_first_stays() -> None:
    rng = random.Random(3)
    base = question(rng, 60)
    edited = base.replace(base.split()[30], "changed", 1)
    rows = [record("first", base), record("edited", edited), record("other", question(rng, 60))]
    assert kept(near(rows)) == ["first", "other"]


def test_another_number_or_another_answer_is_another_problem() -> None:
    base = question(random.Random(4), 60)
    rows = [
        record("a", f"{base} and 15 apples", "15"),
        record("b", f"{base} and 16 apples", "15"),
        record("c", f"{base} plus 15 apples", "30"),
        record("d", f"{base} with 15 apples", "15"),
    ]
    assert kept(near(rows)) == ["a", "b", "c"]


def test_near_recall_and_false_merges_against_brute_force() -> None:
    rng = random.Random(5)
    originals = [question(rng, rng.randint(40, 80)) for _ in range(300)]
    rows = [record(f"o{number}", text) for number, text in enumerate(originals)]
    for number, text in enumerate(originals):
        words = text.split()
        for _ in range(rng.choice((1, 12))):
            words[rng.randrange(len(words))] = "swap"
        rows.append(record(f"e{number}", " ".join(words)))

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}

    near_pairs = set()
    for number, text in enumerate(originals):
        a, b = shingles(text), shingles(rows[300 + number].prompt[0]["content"])
        if len(a & b) / len(a | b) >= 0.8:
            near_pairs.add(f"e{number}")
    dropped = {row.uid for row in rows} - set(kept(near(rows)))
    assert 50 < len(near_pairs) < 250
    assert dropped <= near_pairs, "nothing below the threshold is merged"
    assert len(dropped) >= 0.93 * len(near_pairs)


def test_near_dedup_refuses_generated_puzzles_and_says_why() -> None:
    puzzle = record("p", "A says B is a knave.", source="knights", item_seed=7)
    with pytest.raises(UsageError, match="generated from templates") as caught:
        kept(near([puzzle]))
    assert "--exact" in caught.value.hint
    assert kept(near([puzzle], force=True)) == ["p"]
    with pytest.raises(UsageError, match="refuses kk_logic"):
        kept(near([record("q", "x", source="kk_logic")]))


def test_near_duplicates_of_different_domains_stay() -> None:
    text = question(random.Random(6), 50)
    assert kept(near([record(1, text), record(2, text, source="table__hitab")])) == ["1", "2"]


def test_dedup_is_idempotent_on_awkward_texts() -> None:
    texts = ["", " ", "?", "一二三四五六", "é" * 3, "a\x1eb", "x" * 3_000_000, "tab\tnewline\n"]
    rows = [record(number, text) for number, text in enumerate(texts)]
    once = [one for one, rejection in near(rows) if rejection is None]
    assert kept(near(once)) == [one.uid for one in once]


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=8), st.integers(1, 5))
def test_span_hashes_agree_exactly_where_words_agree(texts: list[str], size: int) -> None:
    words = words_of(texts, punctuation=True)
    hashes, begins = words.grams(size)
    by_words: dict[str, int] = {}
    for value, begin in zip(hashes.tolist(), begins.tolist(), strict=True):
        assert by_words.setdefault(words.span(begin, size), value) == value
    assert len(set(by_words.values())) == len(by_words)
    assert np.array_equal(words_of(list(reversed(texts)), punctuation=True).wholes()[::-1], words.wholes())


def test_words_are_those_of_a_plain_split() -> None:
    texts = ["The  quick, BROWN fox.", "", "jumps\tover\nit"]
    words = words_of(texts, punctuation=False)
    found = [
        [words.span(begin, 1) for begin in range(words.first[text], words.first[text + 1])]
        for text in range(3)
    ]
    assert found == [["the", "quick", "brown", "fox"], [], ["jumps", "over", "it"]]
    assert [words_of([text], punctuation=True).words_in(0) for text in texts] == [
        len(normalised(t).split()) for t in texts
    ]


def test_pieces_cover_a_long_text_with_overlap() -> None:
    text = "word " * 700_000
    parts = pieces(text)
    assert len(parts) > 1
    assert max(map(len, parts)) <= 1 << 20
    assert all(left[-4096:] == right[:4096] for left, right in itertools.pairwise(parts))
    assert parts[0] + "".join(part[4096:] for part in parts[1:]) == text


def test_a_step_accounts_for_every_row_and_writes_the_rejected_with_reasons(tmp_path: Path) -> None:
    rows = [record(1, "one two"), record(2, "one two"), record(3, "three")]
    write_records(rows, tmp_path / "in.parquet")
    report = clean("exact", exact, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (report.rows_in, report.rows_out, report.reasons) == (3, 2, {"same question": 1})
    assert [one.uid for one in read_records(tmp_path / "out.parquet")] == ["1", "3"]
    rejected = (tmp_path / "out.rejected.jsonl").read_text()
    assert '"reason": "same question"' in rejected
    assert '"uid": "2"' in rejected
