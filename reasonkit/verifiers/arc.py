"""ARC grids: every cell right, shape included. No credit for parts, and none for a missing answer."""

from __future__ import annotations

import re
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged
from reasonkit.verifiers.literals import parse_literal, published_answer

Grid = list[list[int]]

ROW = re.compile(r"[\[(]?\s*([0-9]{1,3}(?:[\s,]+[0-9]{1,3})*)\s*[\])]?,?")
"""A row on a line of its own, bracketed or bare."""


def verify_arc(record: Record, text: str) -> Verdict:
    """`record.answer` is a grid: a list of rows of whole numbers. Rows may also stand on lines of their own."""
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    grid = _grid(answer)
    if grid is None:
        return Verdict.no_answer("the answer is no grid of whole numbers")
    return _verdict(grid, record.answer)


def verify_arc_reasoning360(record: Record, text: str) -> Verdict:
    """The first `[[…]]` of the last answer; cells are made whole numbers first, as the published grader does."""
    answer = published_answer(text, one_line=False)
    if answer is None:
        return Verdict.no_answer("the reply has no <answer>")
    flat = answer.replace("\n", "").replace("...", "-1")
    start = flat.find("[[")
    end = flat.find("]]", start)
    if start < 0 or end < 0:
        return Verdict.no_answer("the answer holds no [[…]]")
    try:
        rows = parse_literal(flat[start : end + 2])
        grid = [[int(cell) for cell in row] for row in rows]
    except (ValueError, TypeError, OverflowError):
        return Verdict.no_answer("the answer is no grid of whole numbers")
    return _verdict(grid, record.answer)


def _grid(answer: str) -> Grid | None:
    try:
        value: Any = parse_literal(answer)
    except ValueError:
        rows = [ROW.fullmatch(line.strip()) for line in answer.strip().splitlines() if line.strip(" \t[]")]
        if not rows or any(row is None for row in rows):
            return None
        return [[int(cell) for cell in re.findall(r"[0-9]+", row[1])] for row in rows if row is not None]
    is_grid = isinstance(value, list) and all(
        isinstance(row, list) and all(type(cell) is int for cell in row) for row in value
    )
    return value if is_grid and value and all(value) else None


def _verdict(grid: Grid, gold: Grid) -> Verdict:
    shown = str(grid)
    shape, wanted = (len(grid), len(grid[0])), (len(gold), len(gold[0]))
    if grid == gold:
        return Verdict.correct(shown)
    if len({len(row) for row in grid}) > 1:
        return Verdict.wrong(shown, "the answer's rows differ in length")
    if shape != wanted:
        return Verdict.wrong(shown, f"the grid is {shape[0]}x{shape[1]}, not {wanted[0]}x{wanted[1]}")
    cells = [
        a == b for row, gold_row in zip(grid, gold, strict=True) for a, b in zip(row, gold_row, strict=True)
    ]
    return Verdict.wrong(shown, f"{cells.count(False)} of {len(cells)} cells are wrong")
