"""Sets on disk: build one into its folder with a manifest, open one by name, path or source.

The manifest (dataset.json) says how a set was made and what its files' hashes are, so that anyone can make
the same bytes again and see that they did.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reasonkit import __version__
from reasonkit.data.build import SOURCES, build
from reasonkit.data.files import read_records, write_records
from reasonkit.data.load import pulled_files, sample, sha256
from reasonkit.data.published import PUBLISHED, pull_command
from reasonkit.data.sources import Split
from reasonkit.datahome import MANIFEST, dataset_folder, split_file
from reasonkit.errors import UsageError, nearest
from reasonkit.recipe import SourceConfig
from reasonkit.records import Record
from reasonkit.rundir import write_json


@dataclass(frozen=True, slots=True)
class BuiltFile:
    path: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made, and what it takes to make it again."""

    name: str
    folder: str
    seed: int
    settings: Mapping[str, Any]
    reasonkit: str
    files: Mapping[str, BuiltFile]


def build_dataset(
    name: str,
    folder: Path,
    sizes: Mapping[Split, int],
    seed: int,
    settings: Mapping[str, Any],
    advance: Callable[[int], None] = lambda _: None,
    workers: int = 1,
) -> Built:
    """Write the splits of `sizes` and the manifest into `folder`; `advance` hears of every finished record.

    The bytes do not depend on `workers`, the number of processes that draw a mixture.
    """
    files: dict[str, BuiltFile] = {}
    for split, size in sizes.items():
        path = split_file(folder, split)
        records = build(name, split, size, seed, settings, workers=workers)
        count = write_records(_counted(records, advance), path)
        files[split] = BuiltFile(str(path), count, path.stat().st_size, sha256(path))
    built = Built(name, str(folder), seed, dict(settings), __version__, files)
    manifest = asdict(built)
    manifest["files"] = {
        split: {**asdict(file), "path": Path(file.path).name} for split, file in files.items()
    }
    del manifest["folder"]  # the folder may move, and equal sets should have equal manifests
    write_json(folder / MANIFEST, manifest)
    return built


def open_records(
    name: str, split: Split, limit: int | None, seed: int = 0, settings: Mapping[str, Any] | None = None
) -> tuple[Iterator[Record], str]:
    """Records of a file, of a set in the data folder or fresh from a source, and where they come from in words."""
    path = Path(name).expanduser()
    if path.is_file():
        return read_records(path, limit), str(path)
    if path.suffix == ".parquet":
        raise UsageError(f"record file '{name}' does not exist", "reasonkit data build --help")
    file = split_file(path if path.is_dir() else dataset_folder(name), split)
    if file.is_file() and not settings:
        return read_records(file, limit), str(file)
    base = name.partition("@")[0].partition(":")[0]
    if base in PUBLISHED or base == "hf":
        return _published_records(name, split, limit, seed)
    if limit is None:
        raise UsageError(
            f"'{name}' is neither a record file nor a set that has been built ({file} does not exist)",
            f"reasonkit data build {name}" if name.startswith("rg:") else nearest(name, SOURCES),
        )
    return build(name, split, limit, seed, settings), f"drawn now from {name} with seed {seed}"


def _published_records(name: str, split: Split, limit: int | None, seed: int) -> tuple[Iterator[Record], str]:
    """Records of all pulled parts of a published set; where it was not pulled, the first few from the Hub."""
    if files := pulled_files(name, split):
        records = itertools.chain.from_iterable(map(read_records, files))
        return itertools.islice(records, limit), ", ".join(map(str, files))
    if limit is None:
        raise UsageError(f"'{name}' has no {split} split on this machine", pull_command(name))
    source = SourceConfig(name=name, size=limit)
    return iter(sample(source, split, seed, limit)), f"drawn now from {name} on the Hub with seed {seed}"


def _counted(records: Iterator[Record], advance: Callable[[int], None]) -> Iterator[Record]:
    for record in records:
        yield record
        advance(1)
