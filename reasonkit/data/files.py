"""Record files: parquet with one Arrow schema for all sources, so that files concatenate and verl reads them.

Writing streams, is atomic (a reader never sees half a file) and is byte-identical for equal records.
Content-defined chunks and a page index let the Hub and other stores move only what changed and let
readers fetch single pages. Foreign schemas are not read here: adapters turn them into records first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, from_row, to_row
from reasonkit.rundir import atomic_file

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("data_source", pa.string(), nullable=False),
        pa.field("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("ability", pa.string()),
        pa.field("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        pa.field("extra_info", pa.string()),
    ]
)

ROW_GROUP = 1000
"""Rows a group: the unit in which streaming permutes and prefetches."""

GROUP_BYTES = 32 << 20
"""A group ends early at about this size: programs that come with megabytes of tests must not add up."""


def write_records(records: Iterable[Record], path: Path) -> int:
    """Write `records` to `path` in constant memory; how many there were."""
    written = 0
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd", use_content_defined_chunking=True, write_page_index=True
        ) as writer,
    ):
        for group in _groups(map(to_row, records)):
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA), row_group_size=ROW_GROUP)
            written += len(group)
    return written


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    held = 0
    for row in rows:
        group.append(row)
        held += len(row["reward_model"]["ground_truth"]) + len(row["extra_info"])
        if len(group) == ROW_GROUP or held >= GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def read_records(path: Path, limit: int | None = None) -> Iterator[Record]:
    """The records of a file that reasonkit wrote, in order, holding one row group at a time."""
    return itertools.islice(_records(path), limit)


def count_records(path: Path) -> int:
    """From the file's footer; no row is read."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def _records(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
        if missing:
            raise ReasonkitError(
                f"{path} is no record file: it lacks {', '.join(missing)} (it has "
                f"{', '.join(file.schema_arrow.names)})",
                "reasonkit data pull PATH --map question=COLUMN,answer=COLUMN",
            )
        for batch in file.iter_batches(batch_size=ROW_GROUP, columns=SCHEMA.names):
            row: dict[str, Any]
            for row in batch.to_pylist():
                yield from_row(row)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise ReasonkitError(f"record file {path} does not exist", "reasonkit list data") from None
    except pa.ArrowInvalid as error:
        raise ReasonkitError(
            f"{path} is not parquet: {error}", "check the file, or build it again"
        ) from error
