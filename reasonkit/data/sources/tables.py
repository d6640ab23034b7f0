"""Questions over hierarchical tables: HiTab and MultiHiertt, with tables as Markdown.

MultiHiertt's tables are HTML; only questions that need arithmetic on tables and no text around them are kept,
as Guru did. HiTab's answers are lists, joined by `|`. Both sets bring their own splits; MultiHiertt's
development set is the test split, since its test answers are not public.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from reasonkit.data.sources import Problem, Source, Split
from reasonkit.data.sources.raw import (
    BOXED,
    Download,
    RawSettings,
    Row,
    Skip,
    converted,
    question,
    raw_folder,
    raw_rows,
    text_key,
)
from reasonkit.records import Record

HITAB = "hitab"
MULTIHIERTT = "multihiertt"
HITAB_DOWNLOADS = (
    Download(
        "https://github.com/microsoft/HiTab",
        "10,672 samples, 3,597 tables (unzip data/tables.zip)",
        "C-UDA 1.0",
    ),
)
MULTIHIERTT_DOWNLOADS = (
    Download(
        "the MultiHiertt_dataset folder of github.com/psunlpgroup/MultiHiertt",
        "train.json, dev.json",
        "see there",
    ),
)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table with its first row as heading; short rows are filled up."""
    width = max((len(row) for row in rows), default=0)
    if width == 0:
        raise Skip("with an empty table")
    cells = [
        [" ".join(cell.replace("|", "/").split()) for cell in row] + [""] * (width - len(row)) for row in rows
    ]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{' --- |' * width}", *lines[1:]])


class _TableReader(HTMLParser):
    """The cells of an HTML table; a cell over several columns leaves the others empty."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._span = 0
        """Columns of the open cell; 0 outside cells."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            given = dict(attrs).get("colspan") or "1"
            self._span = max(1, int(given)) if given.isdecimal() else 1
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._span:
            self.rows[-1] += [""] * (self._span - 1)
            self._span = 0

    def handle_data(self, data: str) -> None:
        if self._span:
            self.rows[-1][-1] += data


def html_rows(html: str) -> list[list[str]]:
    reader = _TableReader()
    reader.feed(html)
    reader.close()
    return [row for row in reader.rows if row]


def _problem(tables: Sequence[str], asked: str, answer: str, group: str) -> Problem:
    text = (
        "You are given one or more tables. Use the information in the tables to answer the following question.\n"
        + "\n\n".join(tables)
        + f"\nThe question is:\n{asked}\n{BOXED}"
    )
    return Problem(
        text_key(f"{group}\n{asked}"), question(text), answer, {"ability": "table", "group": group}, group
    )


def convert_hitab(row: Row, tables: Path) -> Problem:
    """A line of HiTab's samples; its table is `tables/<table_id>.json`."""
    file = tables / f"{row['table_id']}.json"
    if not file.is_file():
        raise Skip("without its table")
    table = json.loads(file.read_text(encoding="utf-8"))
    answer = "|".join(str(value) for value in row["answer"])
    if not answer:
        raise Skip("without an answer")
    title = f"{table['title']}\n\n" if table.get("title") else ""
    rows = [[str(cell) for cell in cells] for cells in table["texts"]]
    return _problem([title + markdown(rows)], str(row["question"]), answer, str(row["table_id"]))


def convert_multihiertt(row: Row) -> Problem:
    """An entry of MultiHiertt."""
    asked = row["qa"]
    if asked["question_type"] != "arithmetic":
        raise Skip("that needs no arithmetic")
    if asked["text_evidence"]:
        raise Skip("that needs the text around the tables")
    tables = [markdown(html_rows(table)) for table in row["tables"]]
    return _problem(tables, str(asked["question"]), str(asked["answer"]), str(row["uid"]))


def build_hitab(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(HITAB, HITAB_DOWNLOADS, settings)
    tables = next(
        (found for found in sorted(folder.rglob("raw")) if found.is_dir()), folder / "tables" / "raw"
    )
    return converted(
        HITAB,
        split,
        size,
        seed,
        lambda: raw_rows(folder, f"{split}_samples.jsonl"),
        lambda row: convert_hitab(row, tables),
        own_split=True,
    )


def build_multihiertt(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(MULTIHIERTT, MULTIHIERTT_DOWNLOADS, settings)
    file = {"train": "train.json", "test": "dev.json"}[split]
    return converted(
        MULTIHIERTT, split, size, seed, lambda: raw_rows(folder, file), convert_multihiertt, own_split=True
    )


HITAB_SOURCE = Source(
    HITAB, "HiTab questions over hierarchical tables, from its repository", RawSettings, build_hitab
)
MULTIHIERTT_SOURCE = Source(
    MULTIHIERTT, "MultiHiertt arithmetic over tables, from its files", RawSettings, build_multihiertt
)
