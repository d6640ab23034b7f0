"""From a recipe's sources to records: procedural sources are built into the run's folder, files are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from reasonkit.data.build import build
from reasonkit.data.files import read_records, write_records
from reasonkit.data.sources import Split
from reasonkit.errors import UsageError
from reasonkit.recipe import SourceConfig
from reasonkit.records import Record


def prepare(sources: Sequence[SourceConfig], split: Split, folder: Path, seed: int) -> list[Path]:
    """The record file of every source. What is already built is not built again, so resuming is cheap."""
    return [
        _file(source, split, folder / f"{split}-{place}.parquet", seed)
        for place, source in enumerate(sources)
    ]


def read_all(sources: Sequence[SourceConfig], files: Sequence[Path]) -> list[Record]:
    return [
        record
        for source, file in zip(sources, files, strict=True)
        for record in read_records(file, source.size)
    ]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(source: SourceConfig, split: Split, built: Path, seed: int) -> Path:
    if source.name.endswith(".parquet"):
        path = Path(source.name).expanduser()
        if not path.is_file():
            raise UsageError(f"record file '{source.name}' does not exist", "reasonkit data build --help")
        return path
    if source.size is None:
        raise UsageError(
            f"data source '{source.name}' is generated, so the recipe must say how many records: size is null",
            "write size: 1000 beside its name",
        )
    if not built.exists():
        write_records(build(source.name, split, source.size, seed, source.options), built)
    return built
