"""Zebra puzzles: a table of houses and attributes, scored by the share of its cells that are right.

Strict: columns go by their heading and rows by their house number, in any order; the house column itself
earns nothing, for it is given. `reasoning360` compares cell by cell in place and counts that column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged
from reasonkit.verifiers.literals import parse_literal, published_answer

POSITION_HEADINGS = frozenset({"position", "house", "house number", "place", "#"})


def verify_zebra(record: Record, text: str) -> Verdict:
    """`record.answer` is {"header": [...], "rows": [[...], ...]}, and so is the reply's answer."""
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    try:
        stated = _cells(parse_literal(_unfenced(answer)))
    except ValueError as error:
        return Verdict.no_answer(f"the answer is no table: {error}")
    gold = _cells(record.answer)
    right = sum(stated.get(cell) == value for cell, value in gold.items())
    return _verdict(answer.strip(), right, len(gold))


def verify_zebra_reasoning360(record: Record, text: str) -> Verdict:
    answer = published_answer(text, one_line=True)
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> on one line")
    try:
        table = parse_literal(answer)
    except ValueError as error:
        return Verdict.no_answer(f"the answer is no table: {error}")
    header, rows = record.answer["header"], record.answer["rows"]
    try:
        right = sum(table["rows"][i][j] == rows[i][j] for i in range(len(rows)) for j in range(len(header)))
    except (TypeError, KeyError, IndexError):
        return Verdict.wrong(answer, "the answer lacks rows or cells of the table")
    return _verdict(answer, right, len(rows) * len(header))


def _verdict(answer: str, right: int, cells: int) -> Verdict:
    if right == cells:
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"{right} of {cells} cells are right", right / cells)


def _unfenced(answer: str) -> str:
    """The answer without the ```json fence that models like to put around it."""
    lines = answer.strip().splitlines()
    if len(lines) >= 3 and lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1])
    return answer


def _cells(table: Any) -> dict[tuple[str, str], str]:
    """(house, attribute) -> value, all as folded text. ValueError says why this is no such table."""
    if not isinstance(table, Mapping) or not {"header", "rows"} <= table.keys():
        raise ValueError("it has no header and rows")
    header, rows = table["header"], table["rows"]
    if not isinstance(header, list) or not isinstance(rows, list):
        raise ValueError("its header and rows are no lists")
    headings = [_fold(heading) for heading in header]
    if len(set(headings)) != len(headings):
        raise ValueError("two columns have the same heading")
    houses = [column for column, heading in enumerate(headings) if heading in POSITION_HEADINGS]
    cells: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(header):
            raise ValueError(f"row {number} does not have {len(header)} cells")
        house = _fold(row[houses[0]]) if houses else str(number)
        for heading, value in zip(headings, row, strict=True):
            if heading in POSITION_HEADINGS:
                continue
            if (house, heading) in cells:
                raise ValueError(f"house {house} has two rows")
            cells[house, heading] = _fold(value)
    return cells


def _fold(value: Any) -> str:
    return " ".join(str(value).casefold().split())
