"""Record files as other tools read them: parquet or JSONL of foreign rows.

Rows of one file share their shape but for what a gold answer is, which Arrow cannot hold in one column when it
differs from row to row; such a file can still be JSONL.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasonkit.data.adapters import BadRow, writer_named
from reasonkit.data.files import ROW_GROUP, read_records
from reasonkit.errors import UsageError
from reasonkit.rundir import atomic_file


def convert(source: Path, to: str, target: Path) -> tuple[int, dict[str, int]]:
    """Write `source` in the format `to`; how many rows, and how many could not be written, by reason."""
    write = writer_named(to)
    rejected: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for record in read_records(source):
            try:
                yield write(record)
            except BadRow as error:
                rejected[str(error)] += 1

    if target.suffix == ".jsonl":
        written = _write_jsonl(rows(), target)
    elif target.suffix == ".parquet":
        written = _write_parquet(rows(), target, to)
    else:
        raise UsageError(f"'{target}' is neither .parquet nor .jsonl", "--out FILE.parquet")
    return written, dict(rejected)


def _write_jsonl(rows: Iterator[dict[str, Any]], target: Path) -> int:
    written = 0
    with atomic_file(target) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_parquet(rows: Iterator[dict[str, Any]], target: Path, to: str) -> int:
    """The first rows fix the schema."""
    written = 0
    first = list(itertools.islice(rows, ROW_GROUP))
    try:
        schema = pa.Table.from_pylist(first).schema
        with (
            atomic_file(target) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            group = first
            while group:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                written += len(group)
                group = list(itertools.islice(rows, ROW_GROUP))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UsageError(
            f"the rows of format {to} do not fit into one parquet schema: {error}",
            f"write JSONL instead: --out {target.with_suffix('.jsonl')}",
        ) from error
    return written
