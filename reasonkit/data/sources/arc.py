"""Grid puzzles: ARC-AGI 1 and 2 from their repositories, and BARC's synthetic ones.

A task shows pairs of grids and asks for the output of one more input. ARC's folders say which tasks are for
training and which for evaluation; only the training folder is read for `train`, the evaluation folder for
`test`. BARC's tasks are one list of pairs, of which the last is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reasonkit.data.sources import Problem, Source, Split
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

ARC = "arc"
BARC = "barc"
ARC_DOWNLOADS = (
    Download("https://github.com/fchollet/ARC-AGI", "400 training and 400 evaluation tasks", "Apache-2.0"),
    Download(
        "https://github.com/arcprize/ARC-AGI-2", "1,000 training and 120 evaluation tasks", "Apache-2.0"
    ),
)
BARC_DOWNLOADS = (
    Download(
        "barc0/200k_HEAVY_gpt4o-description-gpt4omini-code_generated_problems",
        "data_100k.jsonl, 2.8 GB",
        "see its card",
    ),
)

MOST_EXAMPLES = 6

Grid = list[list[int]]


def convert_arc(row: Row) -> Problem:
    """A task file of ARC-AGI. Of several test pairs the first is asked for."""
    if not row["test"] or "output" not in row["test"][0]:
        raise Skip("without a test output")
    examples = [(pair["input"], pair["output"]) for pair in row["train"]]
    return _problem(examples, row["test"][0]["input"], row["test"][0]["output"], str(row["file"]))


def convert_barc(row: Row) -> Problem:
    """A line of BARC: `examples` is a list of [input, output]."""
    examples = [(_whole(before), _whole(after)) for before, after in row["examples"]]
    if len(examples) < 2:
        raise Skip("with fewer than two pairs")
    *shown, (asked, gold) = examples
    return _problem(shown, asked, gold, "")


def _whole(grid: Sequence[Sequence[Any]]) -> Grid:
    return [[int(cell) for cell in row] for row in grid]


def _problem(examples: Sequence[tuple[Grid, Grid]], asked: Grid, gold: Grid, task: str) -> Problem:
    shown = examples[:MOST_EXAMPLES]
    pairs = "\n\n".join(
        f"Example {number}\nInput: {dumps(before)}\nOutput: {dumps(after)}"
        for number, (before, after) in enumerate(shown, 1)
    )
    text = (
        "Each example turns an input grid into an output grid by the same rule. The numbers 0 to 9 are colours. "
        f"Find the rule and apply it to the last input.\n\n{pairs}\n\nInput: {dumps(asked)}\n\n"
        "Give the output grid within <answer> </answer> tags as a list of rows, for example "
        "<answer>[[1, 2], [3, 4]]</answer>."
    )
    metadata = {"ability": "logic", "task": task, "examples": len(shown), "cells": sum(map(len, gold))}
    return Problem(dumps([shown, asked]), question(text), gold, metadata)


def build_arc(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(ARC, ARC_DOWNLOADS, settings)
    pattern = {"train": "training/*.json", "test": "evaluation/*.json"}[split]
    return converted(ARC, split, size, seed, lambda: raw_rows(folder, pattern), convert_arc, own_split=True)


def build_barc(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(BARC, BARC_DOWNLOADS, settings)
    return converted(BARC, split, size, seed, lambda: raw_rows(folder, "*.jsonl", "*.parquet"), convert_barc)


ARC_SOURCE = Source(ARC, "ARC-AGI 1 and 2 from their task files", RawSettings, build_arc)
BARC_SOURCE = Source(BARC, "BARC's synthetic ARC tasks from raw files", RawSettings, build_barc)
