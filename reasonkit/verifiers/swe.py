"""Software patches, by the likeness of two unified diffs, as RL Verifier scores them.

The record holds the original file (`answer["input"]`) and the file after the gold patch (`answer["ground_truth"]`).
The reply gives the whole new file in its last fence. Both are turned into unified diffs against the original, and
the score is how alike the diffs are. It says nothing on whether the patch works: `swe_tests` runs the project's
tests.

difflib's cost grows with the number of equal pairs of elements. Where that is large, common ends are cut off
before the diff (which shifts its line numbers), a file that changed beyond that is one hunk, and diffs are
compared by lines instead of by characters.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, fences

MAX_CHARACTERS = 300_000
MAX_PAIRS = 3_000_000


def verify_swe(record: Record, text: str) -> Verdict:
    """How alike the reply's patch is to the gold patch, 0 to 1; a patch that changes nothing scores 0."""
    original, gold = str(record.answer["input"]), str(record.answer["ground_truth"])
    wanted = unified_diff(original, gold)
    if not wanted:
        raise ValueError("the gold file equals the original: there is no patch to compare with")
    blocks = [body for language, body in fences(after_thinking(text)) if language]
    if not blocks:
        return Verdict.no_answer("the reply has no closed fence that names a language")
    patched = blocks[-1]
    if len(patched) > MAX_CHARACTERS + 2 * len(original):
        return Verdict.wrong(None, f"the file has {len(patched)} characters, the original {len(original)}")
    found = unified_diff(original, patched)
    if not found:
        return Verdict.wrong(patched, "the patch changes nothing")
    if found == wanted:
        return Verdict.correct(patched)
    score = likeness(found, wanted)
    return Verdict.wrong(patched, f"the patch is {score:.0%} like the gold patch", score=score)


def unified_diff(before: str, after: str) -> str:
    """The hunks that lead from one text to the other, without file names; empty where they are equal."""
    old, new = before.splitlines(), after.splitlines()
    if equal_pairs(old, new) > MAX_PAIRS:
        start = _common(old, new)
        old, new = old[start:], new[start:]
        end = _common(old[::-1], new[::-1])
        old, new = old[: len(old) - end], new[: len(new) - end]
    if equal_pairs(old, new) > MAX_PAIRS:
        return "\n".join(["@@", *(f"-{line}" for line in old), *(f"+{line}" for line in new)])
    return "\n".join(list(difflib.unified_diff(old, new, lineterm=""))[2:])


def likeness(left: str, right: str) -> float:
    """2 × matching / total, over characters or else over lines; never 1, for the texts are not equal."""
    units: tuple[Sequence[str], Sequence[str]] = (left, right)
    if equal_pairs(left, right) > MAX_PAIRS:
        units = (left.splitlines(), right.splitlines())
        if equal_pairs(*units) > MAX_PAIRS:
            return 0.0
    return min(0.999, difflib.SequenceMatcher(None, *units, autojunk=False).ratio())


def equal_pairs(left: Sequence[str], right: Sequence[str]) -> int:
    """How many pairs of one element of each are equal: what difflib looks at."""
    counts = Counter(right)
    return sum(count * counts[element] for element, count in Counter(left).items())


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """How many first elements are equal."""
    length = min(len(left), len(right))
    return next((index for index in range(length) if left[index] != right[index]), length)
