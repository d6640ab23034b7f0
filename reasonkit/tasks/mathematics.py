"""Mathematics beside Guru's: competitions by year, and the usual benchmarks, from their usual places on the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from reasonkit.recipe import SourceConfig
from reasonkit.records import Record
from reasonkit.tasks import Task

BOXED = "{question} Please output the final answer within \\boxed{}."
"""The words that Guru puts behind every problem, so that scores of all these tasks compare."""

EXAMS = SourceConfig(
    name="hf:di-zhang-fdu/AIME_1983_2024@refs/convert/parquet",
    map={"question": "Question", "answer": "Answer", "uid": "ID"},
    verifier="math",
)


def _of_year(year: int) -> Callable[[Sequence[Record]], list[Record]]:
    def chosen(records: Sequence[Record]) -> list[Record]:
        return [record for record in records if record.uid.startswith(f"{year}-")]

    return chosen


of_2021, of_2022, of_2023 = _of_year(2021), _of_year(2022), _of_year(2023)


def whole_answers(records: Sequence[Record]) -> list[Record]:
    """The file keeps whole numbers as floats."""
    return [replace(record, answer=f"{float(record.answer):g}") for record in records]


def _task(
    name: str, about: str, source: SourceConfig, split: Literal["test", "train"], **fields: Any
) -> Task:
    return Task(
        name=name, about=about, source=(source,), split=split, prompt=BOXED, **{"verifier": "math"} | fields
    )


def _exam(year: int) -> Task:
    adapt = f"reasonkit.tasks.mathematics:of_{year}"
    return _task(f"aime{year % 100}", f"AIME {year}, both exams", EXAMS, "train", adapt=adapt, k=32)


AIME21, AIME22, AIME23 = _exam(2021), _exam(2022), _exam(2023)
AIME25 = Task(
    name="aime25",
    about="AIME 2025: 30 problems, as Guru's files word them",
    source=(SourceConfig(name="guru-offline:math__aime2025_repeated_8x"),),
    verifier="math",
    k=32,
)
AMC = _task(
    "amc",
    "83 problems of AMC 12, 2022 and 2023",
    SourceConfig(
        name="hf:AI-MO/aimo-validation-amc",
        map={"question": "problem", "answer": "answer", "uid": "id"},
        verifier="math",
    ),
    "train",
    adapt="reasonkit.tasks.mathematics:whole_answers",
    k=4,
)
GSM8K = _task(
    "gsm8k",
    "1,319 word problems of primary school",
    SourceConfig(
        name="hf:openai/gsm8k",
        options={"files": ["main/test-*.parquet"]},
        map={"question": "question", "answer": "answer"},
        verifier="gsm8k",
    ),
    "test",
    verifier="gsm8k",
)
OLYMPIADBENCH = _task(
    "olympiadbench",
    "674 olympiad problems in English, without pictures",
    SourceConfig(name="olympiadbench"),
    "test",
    breakdown=("subfield",),
)
MINERVA = _task(
    "minerva",
    "272 problems of university courses",
    SourceConfig(
        name="hf:math-ai/minervamath",
        map={"question": "question", "answer": "answer"},
        verifier="math",
    ),
    "test",
)
