"""Sources that convert downloaded raw data: reading it, choosing records, and saying what to download.

Two passes over the raw rows: the first keeps 8 bytes a row to know which problems there are, each once, and
picks the sample; the second writes the picked ones in the order of the files. So memory does not grow with the
texts, and the same seed picks the same records whatever order the files list them in.

Rows that cannot be used are counted by reason and the counts are logged: nothing is dropped in silence.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from reasonkit.data.sources import Problem, Settings, Split, digest, split_of
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Message, Record
from reasonkit.seeding import derive_seed

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

BOXED = "Please output the final answer within \\boxed{}."


class Skip(Exception):
    """A raw row that makes no record; the message is the reason that is counted."""


@dataclass(frozen=True, slots=True)
class Download:
    """One thing to download before a source can be built."""

    what: str
    """A Hub dataset, or a URL."""
    size: str
    licence: str

    @property
    def command(self) -> str:
        """What to type to get it into FOLDER, where one command does."""
        if self.what.startswith("https://github.com/"):
            return f"git clone {self.what} FOLDER"
        if " " in self.what:
            return ""
        return f"hf download {self.what} --repo-type dataset --local-dir FOLDER"


class RawSettings(Settings):
    raw: Path | None = Field(None, description="The folder that holds the downloaded raw files (required).")


def raw_folder(source: str, downloads: Sequence[Download], settings: RawSettings) -> Path:
    """The folder with the raw files, or an error that lists what to download, how large it is and its licence."""
    if settings.raw is not None and settings.raw.expanduser().is_dir():
        return settings.raw.expanduser()
    problem = "needs raw files" if settings.raw is None else f"found no folder {settings.raw}"
    listed = "\n".join(f"  {each.what}   {each.size}, licence {each.licence}" for each in downloads)
    commands = [each.command for each in downloads if each.command]
    raise UsageError(
        f"{source} {problem}; download first:\n{listed}",
        "\n       ".join([*commands, f"reasonkit data build {source} --set raw=FOLDER"]),
    )


def raw_rows(folder: Path, *patterns: str) -> Iterator[Row]:
    """Rows of all files below `folder` that match: parquet, JSON lines, or JSON lists. In path order."""
    files = sorted({file for pattern in patterns for file in folder.rglob(pattern)})
    if not files:
        raise ReasonkitError(
            f"{folder} holds no file that matches {' or '.join(patterns)}",
            "download the raw files into it, subfolders are searched too",
        )
    for file in files:
        yield from _rows(file)


def _rows(file: Path) -> Iterator[Row]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    elif file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        yield from content if isinstance(content, list) else [{"file": file.stem, **content}]
    else:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ReasonkitError(
                        f"{file} line {number} is no JSON: {error}", "download the file again"
                    ) from error


def converted(
    source: str,
    split: Split,
    size: int,
    seed: int,
    rows: Callable[[], Iterator[Row]],
    convert: Callable[[Row], Problem],
    *,
    own_split: bool = False,
    keep: Callable[[Record], bool] = lambda _: True,
) -> Iterator[Record]:
    """Up to `size` records of `split`, a random sample where there are more. `keep` looks at picked ones last.

    `own_split` says that the rows are those of the split already; otherwise a problem's key decides its split.
    """
    reasons: Counter[str] = Counter()
    ranks: dict[int, int] = {}
    for row in rows():
        try:
            problem = convert(row)
        except Skip as reason:
            reasons[str(reason)] += 1
            continue
        if not own_split and split_of(source, problem.group or problem.key) != split:
            reasons["of the other split"] += 1
        elif (identity := digest(source, problem.key)) in ranks:
            reasons["a repetition"] += 1
        else:
            ranks[identity] = derive_seed(seed, "data", source, split, identity)
    picked = {identity for _, identity in heapq.nsmallest(size, ((rank, key) for key, rank in ranks.items()))}
    if len(picked) < len(ranks):
        reasons["not picked"] = len(ranks) - len(picked)
    written = 0
    for record in _picked(source, split, rows(), convert, picked):
        if keep(record):
            written += 1
            yield record
        else:
            reasons["its own solution fails its tests"] += 1
    dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    log.info("%s %s: %d records; left out: %s", source, split, written, dropped or "none")


def _picked(
    source: str, split: Split, rows: Iterator[Row], convert: Callable[[Row], Problem], picked: set[int]
) -> Iterator[Record]:
    waiting = set(picked)
    for index, row in enumerate(rows):
        if not waiting:
            return
        try:
            problem = convert(row)
        except Skip:
            continue
        identity = digest(source, problem.key)
        if identity in waiting:
            waiting.remove(identity)
            yield Record(
                uid=f"{source}-{identity:016x}",
                source=source,
                prompt=problem.prompt,
                answer=problem.answer,
                metadata={**problem.metadata, "split": split, "index": index},
            )


def question(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def text_key(text: str) -> str:
    """A natural-language problem without what typesetting changes: case and white space."""
    return " ".join(text.casefold().split())
