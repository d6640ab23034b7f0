"""Parquet and JSONL files, local or on the Hub, as groups of rows that can be read in any order.

A parquet file's groups are its row groups. A JSONL file has none, so it is cut into byte blocks, and a line
belongs to the block in which it starts: no index is built, and any block can be read alone. A line that is
no JSON object comes out as `Malformed`, at its place, so that positions do not depend on what is skipped.

Other formats are left to the Hub, which keeps a parquet copy of most datasets at `refs/convert/parquet`.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.hub.client import Hub, Span

Row = dict[str, Any]

JSONL_BLOCK = 4 << 20
BATCH_BYTES = 32 << 20
"""Rows are decoded in batches of about this size: no nested column reaches Arrow's 2 GiB chunk limit."""

Opener = Callable[[Sequence[Span]], Any]
"""Opens a file for reading, being told which spans of it will be read."""

_FOOTERS_AT_ONCE = 8
_SUFFIXES = {".parquet", ".jsonl", ".ndjson"}


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that cannot be read: where it stands, and why."""

    where: str
    why: str


class Rows(Protocol):
    """One group's rows, as compact as they were read."""

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> list[Row | Malformed]: ...


class Table(Protocol):
    """One file. `identity` is its content in a few digits: the same file elsewhere has the same."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def group_bytes(self) -> Sequence[int]:
        """Decoded size of each group's wanted columns, as far as the file tells."""
        ...

    def read(self, group: int) -> Rows: ...


@dataclass(frozen=True, slots=True)
class Tables:
    """Files in a fixed order, at a fixed revision."""

    revision: str
    files: Sequence[Table]


def open_tables(
    name: str, *, files: Sequence[str] = (), columns: Sequence[str] = (), hub: Hub | None = None
) -> Tables:
    """The tables that `name` means: `hf:ORG/NAME@REV` (or hf://datasets/…), a folder, a file, or a glob.

    `files` are glob patterns within a Hub dataset or a folder; without them every parquet file is meant, or
    every JSONL file where there is no parquet. `columns` projects the others out before they are fetched.
    """
    if name.startswith("hf:"):
        if hub is None:
            raise AssertionError("a Hub dataset needs a Hub to read it with")
        return _hub_tables(name, files, columns, hub)
    return _local_tables(name, files, columns)


def split_name(name: str) -> tuple[str, str]:
    """`hf:ORG/NAME@REV` or `hf://datasets/ORG/NAME@REV` as repository and revision."""
    match = re.fullmatch(r"hf:(?://datasets/)?([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", name)
    if match is None:
        raise UsageError(
            f"'{name}' is no dataset on the Hub", "write it as hf:ORG/NAME or hf:ORG/NAME@REVISION"
        )
    return match[1], match[2] or "main"


def _hub_tables(name: str, patterns: Sequence[str], columns: Sequence[str], hub: Hub) -> Tables:
    snapshot = hub.snapshot(*split_name(name))
    if not patterns:
        chosen_suffix = _preferred([file.path for file in snapshot.files], name)
        patterns = [f"*{chosen_suffix}"]
    chosen = snapshot.matching(patterns)

    def open_one(position: int) -> Table:
        file = chosen[position]
        return _open_table(file.path, file.etag, file.size, functools.partial(hub.open, file), columns)

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        return Tables(snapshot.revision, list(pool.map(open_one, range(len(chosen)))))


def _local_tables(name: str, patterns: Sequence[str], columns: Sequence[str]) -> Tables:
    root = Path(name)
    if root.is_dir():
        present = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        wanted = patterns or [f"**/*{_preferred(present, name)}"]
        found = sorted({path for pattern in wanted for path in root.glob(pattern) if path.is_file()})
    else:
        anchor = Path(root.anchor)
        found = [root] if root.exists() else sorted(anchor.glob(str(root.relative_to(anchor))))
    if not found:
        raise UsageError(f"no file matches {name} {' '.join(patterns)}".rstrip(), "reasonkit list data")
    tables = [
        _open_table(
            str(path.relative_to(root)) if root.is_dir() else path.name,
            _local_identity(path),
            path.stat().st_size,
            functools.partial(_open_local, path),
            columns,
        )
        for path in found
    ]
    return Tables("local", tables)


def _preferred(paths: Sequence[str], name: str) -> str:
    for suffixes in ((".parquet",), (".jsonl",), (".ndjson",)):
        if any(path.endswith(suffixes) for path in paths):
            return suffixes[0]
    raise UsageError(
        f"{name} holds no parquet and no JSONL file",
        "for a dataset on the Hub, its parquet copy: add @refs/convert/parquet to the name",
    )


def _open_table(label: str, identity: str, size: int, opener: Opener, columns: Sequence[str]) -> Table:
    suffix = Path(label).suffix
    if suffix not in _SUFFIXES:
        raise UsageError(f"{label} is neither parquet nor JSONL", f"known: {', '.join(sorted(_SUFFIXES))}")
    if size == 0:
        raise ReasonkitError(f"{label} is empty (0 bytes)", "fetch or build the file again")
    if suffix == ".parquet":
        return ParquetTable(label, identity, opener, columns)
    return JsonlTable(label, identity, size, opener, columns)


def _open_local(path: Path, _: Sequence[Span]) -> BinaryIO:
    return path.open("rb")


def _local_identity(path: Path) -> str:
    """Size and 18 samples: reading all of a 25 GB file to name it would cost minutes."""
    size = path.stat().st_size
    digest = xxhash.xxh3_64(str(size).encode())
    sample = 64 << 10
    with path.open("rb") as file:
        for step in range(18):
            file.seek(max(0, size - sample) * step // 17)
            digest.update(file.read(sample))
    return digest.hexdigest()


class ParquetTable:
    """A parquet file; its footer is read when it is opened and kept."""

    def __init__(self, name: str, identity: str, opener: Opener, columns: Sequence[str]) -> None:
        self.name, self.identity, self._opener = name, identity, opener
        with self._open((), None) as file:
            self._metadata: pq.FileMetaData = file.metadata
            self._columns = _checked_columns(name, file.schema_arrow.names, columns)
        self.group_bytes = [
            sum(chunk.total_uncompressed_size for chunk in self._chunks(group))
            for group in range(self._metadata.num_row_groups)
        ]

    @contextmanager
    def _open(self, spans: Sequence[Span], metadata: pq.FileMetaData | None) -> Iterator[pq.ParquetFile]:
        # Arrow gets Python files here. It must call them on this thread only (no pre-buffering, no decoding
        # threads): one of its own threads that waits for Python while the process exits aborts the process.
        with self._opener(spans) as source:
            try:
                yield pq.ParquetFile(source, metadata=metadata, pre_buffer=False)
            except (pa.ArrowInvalid, OSError) as error:
                raise ReasonkitError(
                    f"{self.name} is no complete parquet file: {error}",
                    "it is truncated, damaged or of another format: fetch it again",
                ) from error

    def _chunks(self, group: int) -> list[Any]:
        """The column chunks of a row group that are wanted."""
        part = self._metadata.row_group(group)
        chunks = [part.column(index) for index in range(part.num_columns)]
        if self._columns is None:
            return chunks
        return [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in self._columns]

    def read(self, group: int) -> ArrowRows:
        rows = self._metadata.row_group(group).num_rows
        batch = max(1, min(4096, rows * BATCH_BYTES // max(1, self.group_bytes[group])))
        spans = [_span(chunk) for chunk in self._chunks(group)]
        with self._open(spans, self._metadata) as file:
            batches = file.iter_batches(batch, [group], self._columns, use_threads=False)
            return ArrowRows(f"{self.name}, row group {group}", list(batches))


def _span(chunk: Any) -> Span:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


class ArrowRows:
    def __init__(self, where: str, batches: Sequence[pa.RecordBatch]) -> None:
        self._where, self._batches = where, batches
        self._starts = [0]
        for batch in batches:
            self._starts.append(self._starts[-1] + batch.num_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def take(self, indices: Sequence[int]) -> list[Row | Malformed]:
        rows: list[Row | Malformed] = [{}] * len(indices)
        for number, batch in enumerate(self._batches):
            start, end = self._starts[number], self._starts[number + 1]
            here = [slot for slot, index in enumerate(indices) if start <= index < end]
            if here:
                local = pa.array([indices[slot] - start for slot in here], pa.int64())
                for slot, row in zip(here, python_rows(batch.take(local), self._where), strict=True):
                    rows[slot] = row
        return rows


def python_rows(batch: pa.RecordBatch, where: str) -> list[Row | Malformed]:
    """Rows as dicts. A row whose text is not UTF-8 is malformed, and costs the others nothing."""
    try:
        rows: list[Row | Malformed] = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [Malformed(where, f"text that is not UTF-8: {error}")]
        rows = [row for index in range(batch.num_rows) for row in python_rows(batch.slice(index, 1), where)]
    return rows


class JsonlTable:
    """One JSON object a line; group g is the lines that start in the g-th block of bytes."""

    def __init__(self, name: str, identity: str, size: int, opener: Opener, columns: Sequence[str]) -> None:
        self.name, self.identity, self._size, self._opener = name, identity, size, opener
        self._columns = frozenset(columns)
        blocks = range(0, size, JSONL_BLOCK)
        self.group_bytes = [min(JSONL_BLOCK, size - start) for start in blocks]

    def read(self, group: int) -> ListRows:
        start = group * JSONL_BLOCK
        end = min(start + JSONL_BLOCK, self._size)
        with self._opener([(max(0, start - 1), end)]) as file:
            lines = list(_lines_that_start_in(file, start, end))
        return ListRows([self._parse(offset, line) for offset, line in lines if line.strip()])

    def _parse(self, offset: int, line: bytes) -> Row | Malformed:
        try:
            row = json.loads(line)
            if b"\\ud" in line.lower():  # an escaped half of a surrogate pair is JSON, and yet no text
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return Malformed(f"{self.name} at byte {offset}", f"text that is not UTF-8: {error}")
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            return Malformed(f"{self.name} at byte {offset}", f"not JSON: {error}")
        if not isinstance(row, dict):
            return Malformed(f"{self.name} at byte {offset}", f"a JSON {type(row).__name__}, not an object")
        return {name: row.get(name) for name in self._columns} if self._columns else row


class ListRows:
    def __init__(self, rows: Sequence[Row | Malformed]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Sequence[int]) -> list[Row | Malformed]:
        return [self._rows[index] for index in indices]


def _lines_that_start_in(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) for each line whose first byte lies in [start, end); the last may reach beyond `end`."""
    before = min(1, start)
    file.seek(start - before)
    block = file.read(end - start + before)
    if before:
        first = block.find(b"\n") + 1
        if first == 0 or first == len(block):
            return
        start, block = start - before + first, block[first:]
    if not block.endswith(b"\n"):
        block += _rest_of_line(file)
    for line in io.BytesIO(block):
        yield start, line
        start += len(line)


def _rest_of_line(file: BinaryIO, step: int = 64 << 10) -> bytes:
    pieces: list[bytes] = []
    while piece := file.read(step):
        head, newline, _ = piece.partition(b"\n")
        pieces.append(head + newline)
        if newline:
            break
        step *= 2
    return b"".join(pieces)


def _checked_columns(name: str, present: Sequence[str], wanted: Sequence[str]) -> list[str] | None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise UsageError(
            f"{name} has no column {', '.join(missing)}; it has {', '.join(present)}",
            "name other columns in the mapping",
        )
    return list(wanted) or None
