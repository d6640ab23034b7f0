"""Fetch published data sets: a pinned revision in, record files and a manifest out.

A pull survives kill -9 at any point: downloads continue at their last byte, a record file appears whole or not
at all, and what the manifest says is finished is not done again. The first pull fixes the revision; later
ones stay at it until they are told to move. Rows that are no records are counted and written aside with reasons.

Row groups of published files differ in size by a factor of a million, so rows are decoded a few megabytes at a
time; a column of gigabytes passes through without being held.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from reasonkit import __version__
from reasonkit.data.adapters import BadRow, Reader, recognise
from reasonkit.data.files import write_records
from reasonkit.data.published import PUBLISHED, PUBLISHED_READERS, Published, PublishedPart
from reasonkit.datahome import MANIFEST, data_home, dataset_folder, split_file
from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.hub.client import Hub, HubFile, Snapshot
from reasonkit.hub.tables import Malformed, open_tables, python_rows, split_name
from reasonkit.records import Record
from reasonkit.rundir import atomic_file, write_json

log = logging.getLogger(__name__)

BATCH_BYTES = 8 << 20
_COUNT = re.compile(r"_(\d+(?:\.\d+)?)(k?)$")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What to pull. `name` is a published set's, or a dataset's on the Hub."""

    name: str
    domains: Sequence[str] = ()
    """Empty takes all that are not opt-in."""
    limit: int | None = None
    """Rows of each file; only their bytes are fetched, so no file's hash can be checked."""
    revision: str | None = None
    update: bool = False
    """Move on from the revision that an earlier pull fixed."""
    files: Sequence[str] = ()
    read: Reader | None = None
    read_as: str = ""
    """How `read` was chosen, in words: part of what makes a finished file reusable."""
    raw: bool = False
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One record file to make, and the published files that it is made of."""

    name: str
    folder: Path
    split: str
    sources: tuple[HubFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.sources)

    @property
    def path(self) -> Path:
        return split_file(self.folder, self.split)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a pull will do, with sizes, before a byte is fetched."""

    request: Request
    published: Published
    snapshot: Snapshot
    targets: tuple[Target, ...]
    left_out: tuple[str, ...]
    """Domains that are only pulled on request."""


@dataclass(slots=True)
class Pulled:
    """What became of a target."""

    name: str
    path: str
    records: int
    rows: int
    rejected: Counter[str] = field(default_factory=Counter)
    fresh: bool = True
    """False where an earlier pull had finished it."""


def plan(request: Request, hub: Hub) -> Plan:
    """Resolve names, revision and files; nothing is fetched but the listing."""
    published = _published(request)
    repo, asked = split_name(f"hf:{published.repo}") if request.name in PUBLISHED else _hub_name(request.name)
    revision = request.revision or (None if request.update else _locked(request)) or asked
    snapshot = hub.snapshot(repo, revision)
    known = sorted({part.domain for part in published.parts if part.domain})
    for domain in request.domains:
        if domain not in known:
            raise UsageError(f"{request.name} has no domain '{domain}'", nearest(domain, known))
    wanted = [
        part
        for part in published.parts
        if (part.domain in request.domains if request.domains else not part.opt_in)
    ]
    kept_out = [part for part in published.parts if part.opt_in]
    excluded = {file.path for part in kept_out for file in snapshot.matching(part.patterns, some=False)}
    targets = [target for part in wanted for target in _targets(request, part, snapshot, excluded)]
    left_out = tuple(part.domain for part in kept_out if part not in wanted)
    return Plan(request, published, snapshot, tuple(targets), left_out)


def pull(plan: Plan, hub: Hub, advance: Callable[[int], object] = lambda _: None) -> list[Pulled]:
    """Make every target that is not there yet. `advance` hears of bytes."""
    _check_room(plan)
    if plan.published.raw or plan.request.raw:
        return [_keep_raw(plan, target, hub, advance) for target in plan.targets]
    return [_pull_one(plan, target, hub, advance) for target in plan.targets]


def _pull_one(plan: Plan, target: Target, hub: Hub, advance: Callable[[int], object]) -> Pulled:
    finished = _finished(plan, target)
    if finished is not None:
        advance(target.bytes)
        return finished
    read = _reader(plan)
    pulled = Pulled(target.name, str(target.path), 0, 0)
    seen: set[int] = set()
    downloads: list[Path] = []
    hashes: dict[str, str] = {}
    aside = target.path.with_name(f"{target.split}.rejected.jsonl")
    with atomic_file(aside) as temporary, temporary.open("w", encoding="utf-8") as rejected:

        def rows() -> Iterator[Row | Malformed]:
            for file in target.sources:
                if plan.request.limit is not None:
                    yield from _first_rows(file, plan, hub)
                    advance(file.size)
                    continue
                path = _download_path(file)
                hashes[file.path] = (
                    hub.download(file, path, advance) if not path.exists() else file.sha256 or ""
                )
                downloads.append(path)
                yield from _all_rows(file, path)

        def records() -> Iterator[Record]:
            for row in rows():
                pulled.rows += 1
                record, reason = _read(read, row, seen)
                if record is not None:
                    yield record
                    continue
                pulled.rejected[reason] += 1
                rejected.write(json.dumps({"reason": reason, "row": _shown(row)}, ensure_ascii=False) + "\n")

        pulled.records = write_records(records(), target.path)
        rejected.flush()
    if not pulled.rejected:
        aside.unlink()
    if not pulled.records and pulled.rows:
        target.path.unlink()
        raise ReasonkitError(
            f"none of the {pulled.rows} rows of {target.name} is a record: {_listed(pulled.rejected)}",
            "name the columns: --map question=COLUMN,answer=COLUMN   or the format: --format NAME",
        )
    _note(plan, target, pulled, hashes)
    for path in downloads:
        path.unlink(missing_ok=True)
    return pulled


def _read(read: Reader, row: Row | Malformed, seen: set[int]) -> tuple[Record | None, str]:
    if isinstance(row, Malformed):
        return None, row.why
    try:
        record = read(row)
    except BadRow as error:
        return None, str(error)
    key = xxhash.xxh3_64_intdigest(f"{record.source}\x1f{record.uid}".encode())
    if key in seen:
        return None, "repeats an earlier row"
    seen.add(key)
    return record, ""


def _all_rows(file: HubFile, path: Path) -> Iterator[Row | Malformed]:
    """The rows of a downloaded file, in order, a few megabytes at a time."""
    if path.suffix != ".parquet":
        yield from _table_rows(str(path))
        return
    try:
        yield from _parquet_rows(file, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ReasonkitError(
            f"{file.repo}/{file.path} is no complete parquet file: {error}",
            "it is so on the Hub: leave it out with --files, or take another --revision",
        ) from error


def _parquet_rows(file: HubFile, path: Path) -> Iterator[Row | Malformed]:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as table:
        metadata = table.metadata
        _check_count(file, metadata.num_rows)
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            size = sum(part.column(index).total_uncompressed_size for index in range(part.num_columns))
            batch = max(1, min(1024, BATCH_BYTES * part.num_rows // max(1, size)))
            for rows in table.iter_batches(batch, [group], use_threads=False):
                yield from python_rows(rows, file.path)


def _table_rows(name: str, hub: Hub | None = None, files: Sequence[str] = ()) -> Iterator[Row | Malformed]:
    for table in open_tables(name, files=files, hub=hub).files:
        for group in range(len(table.group_bytes)):
            rows = table.read(group)
            for start in range(0, len(rows), 256):
                yield from rows.take(range(start, min(start + 256, len(rows))))


def _first_rows(file: HubFile, plan: Plan, hub: Hub) -> Iterator[Row | Malformed]:
    """The first rows of a file, of which only the groups that hold them are fetched."""
    assert plan.request.limit is not None
    rows = _table_rows(f"hf:{file.repo}@{file.revision}", hub, [file.path])
    for _, row in zip(range(plan.request.limit), rows, strict=False):
        yield row


def _keep_raw(plan: Plan, target: Target, hub: Hub, advance: Callable[[int], object]) -> Pulled:
    """Fetch files as they are."""
    hashes = {}
    for file in target.sources:
        path = target.folder / file.path
        if path.exists() and path.stat().st_size == file.size:
            advance(file.size)
            hashes[file.path] = file.sha256 or ""
        else:
            hashes[file.path] = hub.download(file, path, advance)
    pulled = Pulled(target.name, str(target.folder), 0, 0)
    _note(plan, target, pulled, hashes)
    return pulled


def _published(request: Request) -> Published:
    if request.name in PUBLISHED:
        return replace(PUBLISHED[request.name], raw=PUBLISHED[request.name].raw or request.raw)
    if "/" not in request.name:
        raise UsageError(
            f"unknown data set '{request.name}'",
            nearest(request.name, PUBLISHED) or "for one on the Hub: ORG/NAME",
        )
    repo, _ = _hub_name(request.name)
    return Published(repo, "", (PublishedPart("", tuple(request.files)),), raw=request.raw)


def _hub_name(name: str) -> tuple[str, str]:
    return split_name(name if name.startswith("hf:") else f"hf:{name}")


def _targets(
    request: Request, part: PublishedPart, snapshot: Snapshot, excluded: set[str]
) -> Iterator[Target]:
    files = snapshot.matching(part.patterns, some=not part.each) if part.patterns else _data_files(snapshot)
    files = [file for file in files if part.opt_in or file.path not in excluded]
    base = request.name if request.name in PUBLISHED else f"hf:{snapshot.repo}"
    name = f"{base}:{part.domain}" if part.domain and not part.each else base
    if part.each:
        for file in files:
            stem = _COUNT.sub("", Path(file.path).stem)
            yield _target(request, f"{base}:{stem}", part.split, [file])
    elif request.name in PUBLISHED or request.raw:
        yield _target(request, name, part.split, files)
    else:
        by_split: dict[str, list[HubFile]] = {}
        for file in files:
            by_split.setdefault(split_in(file.path), []).append(file)
        for split, members in by_split.items():
            yield _target(request, name, split, members)


def _target(request: Request, name: str, split: str, files: Sequence[HubFile]) -> Target:
    folder = dataset_folder(name)
    if request.out is not None:
        folder = request.out.joinpath(*name.split(":")[1:]) if request.name in PUBLISHED else request.out
    return Target(name, folder, split, tuple(files))


def _data_files(snapshot: Snapshot) -> list[HubFile]:
    for suffix in (".parquet", ".jsonl", ".ndjson"):
        found = [file for file in snapshot.files if file.path.endswith(suffix)]
        if found:
            return found
    raise UsageError(
        f"{snapshot.repo} holds no parquet and no JSONL file",
        f"its parquet copy: --revision refs/convert/parquet   (its files: "
        f"{', '.join(file.path for file in snapshot.files[:8])})",
    )


def split_in(path: str) -> str:
    """The split that a file's path names; train where it names none."""
    words = re.split(r"[^a-z]+", path.lower())
    if "test" in words:
        return "test"
    return "validation" if {"validation", "valid", "val", "dev"} & set(words) else "train"


def _reader(plan: Plan) -> Reader:
    if plan.request.read is not None:
        return plan.request.read
    if plan.request.name in PUBLISHED:
        return PUBLISHED_READERS[plan.published.read]
    return lambda row: PUBLISHED_READERS[recognise(list(row))](row)


def _download_path(file: HubFile) -> Path:
    return data_home() / ".downloads" / file.repo.replace("/", "--") / file.revision / file.path


def _check_room(plan: Plan) -> None:
    if plan.request.limit is not None:
        return
    home = data_home()
    home.mkdir(parents=True, exist_ok=True)
    needed = sum(target.bytes for target in plan.targets if _finished(plan, target) is None)
    free = shutil.disk_usage(home).free
    if 2 * needed > free:
        raise ReasonkitError(
            f"{home} has {free / 1e9:.1f} GB free; the download takes {needed / 1e9:.1f} GB, and as much again "
            "until it is converted",
            "choose fewer --domains, or another disk with REASONKIT_DATA=FOLDER",
        )


def _check_count(file: HubFile, rows: int) -> None:
    """Guru's file names say how many rows a file has; more than rounding between the two is suspicious."""
    match = _COUNT.search(Path(file.path).stem)
    if match is None:
        return
    stated = float(match[1]) * (1000 if match[2] else 1)
    slack = 100 if match[2] else 0
    if abs(rows - stated) > slack:
        log.warning("%s is named for %s%s rows and has %d", file.path, match[1], match[2], rows)


def _signature(plan: Plan, target: Target) -> dict[str, Any]:
    """What a finished file depends on: where it is the same, the file need not be made again."""
    return {
        "repo": plan.snapshot.repo,
        "revision": plan.snapshot.revision,
        "sources": {file.path: file.etag for file in target.sources},
        "limit": plan.request.limit,
        "read": plan.request.read_as or (plan.published.read if plan.request.name in PUBLISHED else ""),
    }


def _note(plan: Plan, target: Target, pulled: Pulled, hashes: dict[str, str]) -> None:
    """Write the target into its folder's manifest, beside the splits that are there already."""
    path = target.folder / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made: dict[str, Any] = {"signature": _signature(plan, target), "downloaded_sha256": hashes}
    if target.path.exists():
        made |= {
            "path": target.path.name,
            "bytes": target.path.stat().st_size,
            "sha256": _sha256(target.path),
        }
        made |= {"records": pulled.records, "rows": pulled.rows, "rejected": dict(pulled.rejected)}
    files = {**content.get("files", {}), target.split: made}
    identity = {"name": target.name, "repo": plan.snapshot.repo, "revision": plan.snapshot.revision}
    write_json(path, {**identity, "reasonkit": __version__, "files": files})


def _finished(plan: Plan, target: Target) -> Pulled | None:
    """What an earlier pull made of exactly this, if its file is still what it wrote."""
    path = target.folder / MANIFEST
    if not path.exists() or not target.path.exists():
        return None
    made = json.loads(path.read_text(encoding="utf-8")).get("files", {}).get(target.split, {})
    if made.get("signature") != _signature(plan, target) or made.get("sha256") != _sha256(target.path):
        return None
    return Pulled(
        target.name, str(target.path), made["records"], made["rows"], Counter(made["rejected"]), fresh=False
    )


def _locked(request: Request) -> str | None:
    """The revision that an earlier pull fixed."""
    base = request.out or dataset_folder(
        request.name if request.name in PUBLISHED else f"hf:{_hub_name(request.name)[0]}"
    )
    revisions = {
        str(revision)
        for path in sorted(base.rglob(MANIFEST))
        if (revision := json.loads(path.read_text(encoding="utf-8")).get("revision"))
    }
    if len(revisions) > 1:
        raise ReasonkitError(
            f"{base} holds files of {len(revisions)} revisions: {', '.join(sorted(revisions))}",
            "choose one with --revision, or move to the newest with --update",
        )
    return revisions.pop() if revisions else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(row: Row | Malformed) -> Any:
    """A rejected row, as far as JSON can show it, with long values cut."""
    if isinstance(row, Malformed):
        return row.where
    return {name: repr(value)[:500] for name, value in row.items()}


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))


def as_json(pulled: Iterable[Pulled]) -> list[dict[str, Any]]:
    return [asdict(one) | {"rejected": dict(one.rejected)} for one in pulled]
