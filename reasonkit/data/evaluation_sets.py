"""From a Task to its items: found on this machine, generated, or pulled once and pinned.

The first pull fixes the revision and the hash in the manifest beside the file; from then on the file is checked
against it each time, with or without a network. A set that is too large to fetch unasked, gated, or nowhere on the
Hub is an error that says how to get it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from reasonkit.data.adapters import BadRow, Reader, columns_as, read_any
from reasonkit.data.build import SOURCES, build, source_named
from reasonkit.data.files import read_records
from reasonkit.data.load import sha256
from reasonkit.data.published import PUBLISHED
from reasonkit.data.pull import Request, plan, pull
from reasonkit.datahome import MANIFEST, data_home, dataset_folder, split_file
from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.hub.client import Hub
from reasonkit.hub.tables import Malformed, open_tables
from reasonkit.recipe import SourceConfig
from reasonkit.records import Record
from reasonkit.rundir import write_json
from reasonkit.tasks import TASKS, Task, TaskRef

GENERATED_SIZE = 100
"""Items of a generated task, unless its source or `limit` says otherwise."""


def open_task(
    ref: TaskRef, *, limit: int | None = None, seed: int = 0, offline: bool = False
) -> list[Record]:
    """The items of a task, the first `limit` of them. `seed` draws generated ones; others have an order."""
    task = ref.task
    records: dict[tuple[str, str], Record] = {}
    for source in task.source:
        for record in _records(task, source, limit, seed, offline):
            records.setdefault((record.source, record.uid), record)
    items = task.items(records.values())
    if not items:
        raise ReasonkitError(f"task '{task.name}' has no items", f"check its source and adapt: {task.adapt}")
    return items[:limit]


def check_task(ref: TaskRef) -> None:
    """Refuses a task whose items' name means nothing. Whether they can be had, only `open_task` finds out."""
    for source in ref.task.source:
        base = source.name.partition("@")[0].partition(":")[0]
        if _is_generated(source.name):
            source_named(source.name)
        elif not (base == "hf" or base in PUBLISHED or ref.task.obtain or _local_file(ref.task, source)):
            raise _unknown(source)


def pins(ref: TaskRef) -> dict[str, str]:
    """What the task's items are read from, for a run's records: the hash of every file; none of generated ones."""
    files = (_local_file(ref.task, source) for source in ref.task.source)
    return {str(file): sha256(file) for file in files if file is not None}


def is_here(ref: TaskRef) -> bool:
    """Whether all items of the task were fetched to this machine; generated ones never are."""
    return all(
        not _is_generated(source.name) and _local_file(ref.task, source) is not None
        for source in ref.task.source
    )


def _records(
    task: Task, source: SourceConfig, limit: int | None, seed: int, offline: bool
) -> Iterator[Record]:
    file = _local_file(task, source)
    if file is not None:
        _check_pin(file)
        return _read(file, source)
    if _is_generated(source.name):
        size = source.size or limit or GENERATED_SIZE
        return build(source.name, "train" if task.split == "train" else "test", size, seed, source.options)
    if offline or task.obtain:
        raise ReasonkitError(
            f"the items of '{task.name}' are not on this machine: {_stored_at(task, source)} does not exist",
            task.obtain or f"with a network: {_pull_command(source)}",
        )
    return _read(_fetch(task, source), source)


def _is_generated(name: str) -> bool:
    return name in SOURCES or name.startswith("rg:")


def _stored_at(task: Task, source: SourceConfig) -> Path:
    return split_file(dataset_folder(source.name.partition("@")[0]), task.split)


def _local_file(task: Task, source: SourceConfig) -> Path | None:
    path = Path(source.name).expanduser()
    if path.suffix in (".parquet", ".jsonl", ".ndjson"):
        if not path.is_file():
            raise UsageError(f"record file '{source.name}' does not exist", "reasonkit list tasks")
        return path
    if _is_generated(source.name) and (source.size or source.options):
        return None
    stored = _stored_at(task, source)
    return stored if stored.is_file() else None


def _check_pin(file: Path) -> None:
    """The file is what its manifest says; one without a manifest is pinned by it now."""
    manifest = file.parent / MANIFEST
    if not file.is_relative_to(data_home()):
        return  # a user's own file, which may change
    content = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    made = content.setdefault("files", {}).setdefault(file.stem, {})
    found = sha256(file)
    if made.setdefault("sha256", found) != found:
        raise ReasonkitError(
            f"{file} has sha256 {found}, but {MANIFEST} beside it says {made['sha256']}",
            "delete the file and pull it again, or delete the manifest to accept the file as it is",
        )
    if not manifest.exists():
        write_json(manifest, {"name": file.parent.name, **content})


def _read(file: Path, source: SourceConfig) -> Iterator[Record]:
    pulled = (file.parent / MANIFEST).exists() and source.name.startswith("hf:")
    if file.suffix == ".parquet" and (pulled or source.map is None) and _is_record_file(file):
        return itertools.islice(read_records(file), source.size)
    read = columns_as(source.map, file.stem, source.verifier) if source.map else read_any
    return itertools.islice(_rows(file, read), source.size)


def _rows(file: Path, read: Reader) -> Iterator[Record]:
    """Records of a file that is no record file. A row that is none is an error: a score may not lack an item."""
    for table in open_tables(str(file)).files:
        for group in range(len(table.group_bytes)):
            rows = table.read(group)
            for number, row in enumerate(rows.take(range(len(rows)))):
                if isinstance(row, Malformed):
                    raise ReasonkitError(f"{row.where}: {row.why}", f"mend that line of {file}")
                try:
                    yield read(row)
                except BadRow as error:
                    raise ReasonkitError(
                        f"{file}, row {number}: {error}", "mend the row, or name other columns in map"
                    ) from error


def _is_record_file(file: Path) -> bool:
    import pyarrow.parquet as pq

    return {"uid", "data_source", "reward_model", "extra_info"} <= set(pq.read_schema(file).names)


def _fetch(task: Task, source: SourceConfig) -> Path:
    """Pull the one file that holds the items."""
    name, _, revision = source.name.partition("@")
    base, _, part = name.partition(":")
    with Hub() as hub:
        if name.startswith("hf:"):
            request = _hub_request(name.removeprefix("hf:"), revision, source)
        elif base in PUBLISHED:
            domains = {each.domain for each in PUBLISHED[base].parts}
            request = Request(
                base, domains=(part,) if part in domains and part else (), revision=revision or None
            )
        else:
            raise _unknown(source)
        planned = plan(request, hub)
        wanted = tuple(
            target
            for target in planned.targets
            if target.split == task.split and (target.name == name or name.startswith("hf:"))
        )
        if not wanted:
            raise ReasonkitError(
                f"'{source.name}' is not among what is pulled by itself: "
                f"{', '.join(sorted(target.name for target in planned.targets)[:8])}",
                _pull_command(source, planned.left_out),
            )
        pull(replace(planned, targets=wanted), hub)
    return wanted[0].path


def _unknown(source: SourceConfig) -> UsageError:
    return UsageError(
        f"'{source.name}' is no task, no data set and no file",
        nearest(source.name.partition("@")[0], (*TASKS, *SOURCES, *PUBLISHED)) or "reasonkit list tasks",
    )


def _hub_request(name: str, revision: str, source: SourceConfig) -> Request:
    if source.map is None:
        return Request(name, revision=revision or None, files=source.options.get("files", ()))
    columns = ",".join(f"{key}={column}" for key, column in source.map.items())
    return Request(
        name,
        revision=revision or None,
        files=source.options.get("files", ()),
        read=columns_as(source.map, name, source.verifier),
        read_as=" ".join(filter(None, (columns, source.verifier))),
    )


def _pull_command(source: SourceConfig, left_out: tuple[str, ...] = ()) -> str:
    """What fetches the source on a machine that may."""
    name, _, revision = source.name.partition("@")
    if not name.startswith("hf:"):
        domains = f" --domains {','.join(left_out)}" if left_out else ""
        return f"reasonkit data pull {name.partition(':')[0]}{domains}"
    words = [f"reasonkit data pull {name.removeprefix('hf:')}"]
    if source.map:
        words.append("--map " + ",".join(f"{key}={column}" for key, column in source.map.items()))
    if source.verifier:
        words.append(f"--verifier {source.verifier}")
    if files := source.options.get("files"):
        words.append(f"--files '{','.join(files)}'")
    if revision:
        words.append(f"--revision {revision}")
    return " ".join(words)
