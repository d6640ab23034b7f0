"""Patches, by the likeness of their diffs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonkit.records import Record, Status
from reasonkit.verifiers.swe import MAX_PAIRS, equal_pairs, likeness, unified_diff, verify_swe

ORIGINAL = "".join(f"line {index}\n" for index in range(40))
GOLD = ORIGINAL.replace("line 20\n", "line twenty\n")
RECORD = Record("u", "swe_verifiable", (), {"input": ORIGINAL, "ground_truth": GOLD})


def fenced(code: str) -> str:
    return f"<think>hm</think>Here:\n```python\n{code}```\n"


def test_the_gold_patch_is_right() -> None:
    assert verify_swe(RECORD, fenced(GOLD)).status is Status.CORRECT


def test_a_similar_patch_earns_its_likeness_and_never_full_marks() -> None:
    verdict = verify_swe(RECORD, fenced(GOLD.replace("twenty", "20!")))
    assert verdict.status is Status.WRONG
    assert 0.5 < verdict.score < 1.0


@pytest.mark.parametrize("text", ["", "no fence", "```\n" + GOLD + "```", f"```python\n{GOLD}", fenced("")])
def test_no_tagged_fence_is_no_answer(text: str) -> None:
    assert verify_swe(RECORD, text).score < 0.7


def test_a_patch_that_changes_nothing_scores_0() -> None:
    verdict = verify_swe(RECORD, fenced(ORIGINAL))
    assert (verdict.score, verdict.status) == (0.0, Status.WRONG)


def test_a_record_whose_gold_changes_nothing_is_unusable() -> None:
    with pytest.raises(ValueError, match="no patch"):
        verify_swe(Record("u", "s", (), {"input": "a", "ground_truth": "a"}), fenced("b"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "code",
    ["a\n" * 100_000, "ab" * 50_000, "".join(f"{index % 7}\n" for index in range(60_000)), "x" * 10_000_000],
    ids=["one line repeated", "one long line", "seven lines", "ten megabytes"],
)
def test_oversized_patches_cost_no_quadratic_time(code: str) -> None:
    assert verify_swe(RECORD, fenced(code)).score < 0.5


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_diffs_are_empty_exactly_for_equal_texts(old: list[str], new: list[str]) -> None:
    before, after = "\n".join(old), "\n".join(new)
    assert (unified_diff(before, after) == "") == (before.splitlines() == after.splitlines())


def test_likeness_falls_back_to_lines_where_characters_would_be_too_many() -> None:
    left, right = "ab\n" * 2000, "ba\n" * 2000
    assert equal_pairs(left, right) > MAX_PAIRS
    assert likeness(left, right) < 1.0
