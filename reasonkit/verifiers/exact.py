"""Exact match of the final answer, after trimming. What the reply's final answer is, extract.py says.

`answer` is a text, or a list of texts any of which is right. Case, inner spaces and surrounding punctuation
are forgiven; spelling, order and number formats are not: those have verifiers of their own.
"""

from __future__ import annotations

import unicodedata

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import final_answer

EDGES = " \t\r\n.,;:!\"'`*$"


def normalise(answer: str) -> str:
    """Compatibility forms folded, case folded, runs of spaces made one, quotes and full stops at the ends cut."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    return " ".join(folded.split()).strip(EDGES)


def verify_exact(record: Record, text: str) -> Verdict:
    """The final answer equals the gold text, or one of the gold texts."""
    gold = record.answer if isinstance(record.answer, list) else [record.answer]
    accepted = {normalise(str(answer)) for answer in gold}
    answer = final_answer(text)
    if answer is None:
        return Verdict.no_answer("the reply is empty")
    if normalise(answer) in accepted - {""}:
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"'{answer[:200]}' is not '{gold[0]}'")
