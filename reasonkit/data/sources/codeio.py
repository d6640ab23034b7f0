"""Predict what a program returns, or what it was given: CodeI/O's PyEdu programs, as Guru chose from them.

One pair of input and output a program, the first; a hash of the program decides which of the two is asked
for, so that the choice is the same in every build. Programs whose pairs were too large come without any
and are left out. All questions about a program are in one split.
"""

from __future__ import annotations

from collections.abc import Iterator

from reasonkit.data.sources import Problem, Source, Split, digest
from reasonkit.data.sources.raw import (
    Download,
    RawSettings,
    Row,
    Skip,
    converted,
    question,
    raw_folder,
    raw_rows,
)
from reasonkit.records import Record, dumps

NAME = "codeio"
DOWNLOADS = (
    Download(
        "hkust-nlp/CodeIO-PyEdu-Reasoning-Raw",
        "0_368500_filtered_v2_ds25.sced.jsonl, 368,500 programs",
        "see its card",
    ),
)


def convert(row: Row) -> Problem:
    if not row["ios"]:
        raise Skip("without a pair of input and output")
    pair, program = row["ios"][0], str(row["refcode"])
    asked = "output" if digest(NAME, program) % 2 else "input"
    given = "input" if asked == "output" else "output"
    text = (
        f"You are given a question that asks for an input and an output:\n\n{row['problem_description']}\n\n"
        f"The requirements on input and output are:\n\n{row['io_requirements']}\n\n"
        f"Given this {given}:\n\n{dumps(pair[given])}\n\n"
        f"Predict a possible {asked} without writing any code. Reason first, then give the answer in a json code "
        f'block of the form {{"{asked}": …}}, where … fits the requirements.\n\n'
        f"Here is a reference program; let it guide your reasoning, but do not copy from it:\n\n{program}"
    )
    metadata = {
        "ability": "simulation",
        "task": asked,
        "input": pair["input"],
        "output": pair["output"],
        "reference": program,
        "entry_point": row["funcname"],
        "category": row.get("category") or "",
    }
    return Problem(program, question(text), {asked: pair[asked]}, metadata)


def build(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(NAME, DOWNLOADS, settings)
    return converted(NAME, split, size, seed, lambda: raw_rows(folder, "*.jsonl", "*.parquet"), convert)


SOURCE = Source(NAME, "Input and output prediction from raw CodeI/O PyEdu programs", RawSettings, build)
