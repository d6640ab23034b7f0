"""Tables in the formats that LiveBench converts between, read as rows of named cells and compared cell by cell.

Numbers are compared as numbers; the order of columns does not matter, that of rows does. Row labels that
writing a table adds (a column without a name, or named `index`) do not count. Text around a table is passed over.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

Table = list[dict[str, Any]]

MAX_CHARACTERS = 200_000
TOLERANCE = 1e-6
_LABELS = ("", "index")


def same_table(format_name: str, answer: str, gold: str) -> str:
    """How the table in `answer` differs from the gold one; an empty text where it does not."""
    if format_name not in READERS:
        raise ValueError(f"'{format_name}' is no format of tables; there are {', '.join(READERS)}")
    if len(answer) > MAX_CHARACTERS:
        return f"the answer has {len(answer)} characters"
    wanted = READERS[format_name](gold)
    try:
        found = READERS[format_name](
            _from_header(answer, wanted) if format_name in ("csv", "tsv") else answer
        )
    except (ValueError, TypeError, csv.Error, RecursionError) as error:
        return f"the answer is no {format_name} table: {error}"
    if len(found) != len(wanted):
        return f"the table has {len(found)} rows, not {len(wanted)}"
    for number, (row, gold_row) in enumerate(zip(found, wanted, strict=True), 1):
        if row.keys() != gold_row.keys():
            return f"row {number} has the columns {', '.join(row)[:100]}, not {', '.join(gold_row)[:100]}"
        for column, value in gold_row.items():
            if not _same_cell(row[column], value):
                return f"row {number}, column {column}: {str(row[column])[:50]} is not {str(value)[:50]}"
    return ""


def _from_header(answer: str, wanted: Table) -> str:
    """The answer from the line that names all the columns on: text may stand before a table."""
    lines = answer.splitlines()
    first = next(
        (place for place, line in enumerate(lines) if wanted and all(name in line for name in wanted[0])), 0
    )
    return "\n".join(lines[first:])


def _same_cell(value: Any, gold: Any) -> bool:
    left, right = _number(value), _number(gold)
    if left is not None and right is not None:
        return left == right or abs(left - right) < TOLERANCE
    return _text(value) == _text(gold)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    shown = str(value).strip()
    return "" if shown.lower() in ("nan", "none", "null") else shown


def _named(header: list[str], rows: list[list[Any]]) -> Table:
    columns = [
        (place, name.strip()) for place, name in enumerate(header) if name.strip().lower() not in _LABELS
    ]
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"a row does not have {len(header)} cells")
    return [{name: row[place] for place, name in columns} for row in rows]


def _separated(separator: str) -> Callable[[str], Table]:
    def read(text: str) -> Table:
        rows = [row for row in csv.reader(io.StringIO(text.strip()), delimiter=separator) if row]
        if not rows:
            raise ValueError("it is empty")
        return _named(rows[0], rows[1:])

    return read


def _json(text: str) -> Table:
    value = json.loads(text)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    rows = list(value.values()) if isinstance(value, dict) else value
    return _objects(rows)


def _jsonl(text: str) -> Table:
    lines = [line.strip() for line in text.splitlines()]
    return _objects([json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")])


def _objects(rows: Any) -> Table:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of rows")
    return [
        {name.strip(): cell for name, cell in row.items() if name.strip().lower() not in _LABELS}
        for row in rows
    ]


def _markdown(text: str) -> Table:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in rows if not all(set(cell) <= set("-: ") and cell for cell in row)]
    if not rows:
        raise ValueError("it has no line that begins with |")
    return _named(rows[0], rows[1:])


class _Cells(HTMLParser):
    """The cells of all tables of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data


def _html(text: str) -> Table:
    reader = _Cells()
    reader.feed(text)
    reader.close()
    rows = [row for row in reader.rows if row]
    if not rows:
        raise ValueError("it has no table row")
    return _named(rows[0], [list(row) for row in rows[1:]])


READERS: dict[str, Callable[[str], Table]] = {
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "json": _json,
    "jsonl": _jsonl,
    "markdown": _markdown,
    "html": _html,
}
