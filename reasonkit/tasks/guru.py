"""The 17 tasks of Guru's evaluation, from the files that its published figures were made with.

The files hold each item with the words of its prompt, so that a score compares with the published one; what those
words are is in the data, pinned at the first pull. k is explicit, because the sources disagree on it: here it is
what the published table says, and 1 where it says nothing. GPQA's own repository is gated; this copy is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reasonkit.recipe import SourceConfig
from reasonkit.records import Record
from reasonkit.tasks import Task

MODELS = ("Guru-7B", "GenReas-7B", "ORZ-7B", "SimpleRL-7B", "Guru-32B", "ORZ-32B", "SimpleRL-32B")

QUESTION_MARKS = ("The question is", "Question:", "question:")
"""What stands between a table and the question about it."""

BY_TABLE: dict[str, Any] = {"adapt": "reasonkit.tasks.guru:by_table", "cluster": "table"}


def _task(name: str, about: str, files: str, verifier: str, scores: tuple[float, ...], **fields: Any) -> Task:
    sources = tuple(SourceConfig(name=f"guru-offline:{file}") for file in files.split())
    reference = dict(zip(MODELS, scores, strict=True))
    return Task(name=name, about=about, source=sources, verifier=verifier, reference=reference, **fields)


def by_table(records: Sequence[Record]) -> list[Record]:
    """Items on the same table share `table`: the hash of all that stands before the question."""
    return [replace(each, metadata={**each.metadata, "table": _table(each)}) for each in records]


def _table(record: Record) -> str:
    text = record.prompt[-1]["content"]
    end = max(text.rfind(mark) for mark in QUESTION_MARKS)
    return hashlib.sha256((text[:end] if end > 0 else text).encode()).hexdigest()[:16]


AIME24 = _task(
    "aime24",
    "AIME 2024: 30 problems with whole-number answers",
    "math__aime_repeated_8x",
    "math",
    (17.50, 17.08, 16.25, 15.60, 34.89, 47.50, 27.20),
    k=32,
)
MATH500 = _task(
    "math500",
    "500 problems of the MATH benchmark",
    "math__math",
    "math",
    (77.25, 70.40, 80.80, 87.00, 86.00, 89.80, 89.60),
)
LIVECODEBENCH = _task(
    "livecodebench",
    "LiveCodeBench v5: 279 contest problems with hidden tests; a large file, fetched on request",
    "codegen__livecodebench",
    "code",
    (16.49, 8.51, 5.47, 6.72, 29.30, 22.04, 19.80),
    k=4,
)
HUMANEVAL = _task(
    "humaneval",
    "164 functions to complete from their docstrings",
    "codegen__humaneval",
    "code",
    (82.62, 61.12, 67.38, 58.08, 90.85, 84.30, 81.25),
    k=4,
)
MBPP = _task(
    "mbpp",
    "500 small functions, with their tests shown",
    "codegen__mbpp",
    "code",
    (70.00, 39.80, 48.40, 49.60, 78.80, 74.20, 76.75),
)
GPQA_DIAMOND = _task(
    "gpqa-diamond",
    "198 graduate questions of science with four choices",
    "stem__gpqa_diamond",
    "choice",
    (40.78, 38.64, 37.63, 35.98, 50.63, 55.67, 46.46),
    k=4,
)
SUPERGPQA = _task(
    "supergpqa",
    "1,000 questions of many disciplines with up to ten choices",
    "stem__supergpqa",
    "choice",
    (31.80, 30.64, 29.75, 27.29, 43.60, 46.05, 37.73),
)
ARC_AGI_1 = _task(
    "arc-agi-1",
    "400 grids of the public evaluation set, first test grid only",
    "logic__arcagi1",
    "arc",
    (3.31, 0.75, 0.00, 0.50, 7.63, 2.31, 5.25),
    k=4,
    max_tokens=16_384,
)
ZEBRA = _task(
    "zebra",
    "200 zebra puzzles, scored by the share of cells",
    "logic__zebra_puzzle_dataset",
    "zebra",
    (39.40, 0.07, 1.00, 0.62, 45.21, 0.54, 1.16),
    k=4,
    metric="score",
)
CODEIO = _task(
    "codeio",
    "200 predictions of a program's input or output",
    "simulation__codeio",
    "codeio",
    (15.63, 7.13, 5.13, 6.63, 12.63, 3.75, 9.75),
    k=4,
)
CRUXEVAL_I = _task(
    "cruxeval-i",
    "800 inputs to find for a function and its output",
    "simulation__cruxeval-i",
    "cruxeval",
    (61.72, 63.63, 69.38, 56.25, 80.63, 71.13, 72.63),
)
CRUXEVAL_O = _task(
    "cruxeval-o",
    "800 outputs to predict of a function",
    "simulation__cruxeval-o",
    "cruxeval",
    (71.28, 56.50, 65.88, 58.31, 88.75, 82.38, 67.75),
)
FINQA = _task(
    "finqa",
    "1,100 numeric questions on financial reports",
    "table__finqa",
    "table",
    (34.70, 34.33, 37.60, 35.10, 46.14, 45.20, 45.41),
    **BY_TABLE,
)
HITAB = _task(
    "hitab",
    "1,000 questions on hierarchical tables",
    "table__hitab",
    "table",
    (74.20, 54.40, 54.10, 50.40, 82.00, 63.30, 69.00),
    **BY_TABLE,
)
MULTIHIERTT = _task(
    "multihiertt",
    "336 questions that need arithmetic on several tables",
    "table__multihier",
    "table",
    (44.94, 31.62, 38.10, 37.57, 55.28, 52.83, 52.83),
    k=4,
    **BY_TABLE,
)
IFEVAL = _task(
    "ifeval",
    "541 prompts with instructions that can be checked; right if all are followed",
    "ood__ifeval",
    "ifeval",
    (35.81, 39.56, 32.72, 36.69, 55.45, 38.26, 55.27),
)
LIVEBENCH = _task(
    "livebench",
    "440 questions of June and July 2024: reasoning, language, data analysis",
    "ood__livebench_reasoning ood__livebench_language ood__livebench_data_analysis",
    "livebench",
    (18.57, 19.76, 12.64, 15.20, 34.30, 28.78, 28.33),
    metric="score",
    cluster="task",
    breakdown=("category", "task"),
)
