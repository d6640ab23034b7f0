"""From a recipe's data section to what a run draws on: the training feed and the held-out records.

A source's name is looked up in this order: a path; a generator, where the recipe gives a size; a set that was
pulled or built (REASONKIT_DATA); a published set or one on the Hub. Only the last is streamed, and only without
a size. What a run generated, drew or pinned is kept in its folder, so resuming is cheap and sees the same data.

One source stays a plain feed; several become a mixture, by their weights or by the curriculum's stages.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import itertools
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonkit.data.adapters import BadRow, Reader, columns_as, read_any
from reasonkit.data.build import SOURCES, build
from reasonkit.data.files import read_records, write_records
from reasonkit.data.mixture import Feed, ListFeed, MixedFeed, Stage, StreamFeed, open_stream
from reasonkit.data.published import BY_HAND, PUBLISHED, PUBLISHED_READERS, pull_command
from reasonkit.data.pull import Request, Target, plan
from reasonkit.data.sources import Split
from reasonkit.datahome import MANIFEST, dataset_folder, split_file
from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.hub.client import Hub, Unreachable
from reasonkit.hub.stream import RowStream
from reasonkit.hub.tables import Malformed, Tables, open_tables, split_name
from reasonkit.recipe import DataConfig, SourceConfig
from reasonkit.records import Record
from reasonkit.registry import load
from reasonkit.rundir import write_json
from reasonkit.seeding import derive_seed

log = logging.getLogger(__name__)

Keep = Callable[[Record], str | None]
"""Why a record is not wanted, or None."""

_ROWS = (".jsonl", ".ndjson")
_AT_ONCE = 256
"""Rows of a file that are turned into dicts at once."""
_LOOKED_AT = 8
"""Records of a stream that are looked at before a run starts."""
_STORED_SPLITS: Mapping[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation")}


@dataclass(frozen=True, slots=True)
class Stream:
    """Files of a Hub dataset at one commit."""

    name: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Where a source's records are: files of this machine, or a stream."""

    source: SourceConfig
    files: tuple[Path, ...] = ()
    stream: Stream | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "files": [str(file.absolute()) for file in self.files],
            "stream": None if self.stream is None else {"name": self.stream.name, "files": self.stream.files},
        }


@dataclass(frozen=True, slots=True)
class Data:
    """What a run draws on, opened."""

    feed: Feed
    held_out: list[Record]
    finite: Mapping[str, list[Record]]
    """The training sources that are held in memory, by title."""
    streams: Mapping[str, StreamFeed]
    dropped: Mapping[str, Mapping[str, int]]
    """What was left out of the sources in memory, by source and reason. Streams count for themselves."""

    def training_records(self) -> list[Record]:
        """Every record to train on; an error where there is no end to them."""
        if self.streams:
            raise UsageError(
                f"the warm-up needs all training records at hand, but {', '.join(self.streams)} is streamed",
                "give the source a size, or fetch it first: reasonkit data pull",
            )
        return [record for records in self.finite.values() for record in records]

    def some_records(self) -> list[Record]:
        """All that is in memory and the next few of each stream: what can be checked before a run starts."""
        some = [*self.held_out, *(record for records in self.finite.values() for record in records)]
        for stream in self.streams.values():
            here = stream.state()
            some += stream.next(_LOOKED_AT)
            stream.restore(here)
        return some


def prepare(sources: Sequence[SourceConfig], split: Split, folder: Path, seed: int) -> list[Prepared]:
    """Find, generate or pin every source. What was found once is noted in `folder`, and not looked for again."""
    prepared = []
    for place, source in enumerate(sources):
        made, note = (folder / f"{split}-{place}{suffix}" for suffix in (".parquet", ".json"))
        if made.exists():
            prepared.append(Prepared(source, (made,)))
        elif note.exists():
            prepared.append(_noted(source, note))
        else:
            found = _find(source, _local_files(source, split), split, made, seed)
            if found.files != (made,):  # a run's own files move with its folder
                write_json(note, found.as_json())
            prepared.append(found)
    return prepared


def check_source(source: SourceConfig, split: Split) -> None:
    """Refuses what no run could be fed with, whatever can be fetched; `sample` is content with less."""
    _check(source, _local_files(source, split), split)


def sample(source: SourceConfig, split: Split, seed: int, count: int) -> list[Record]:
    """At most `count` records of a source, without making or fetching many more."""
    few = source.model_copy(update={"size": min(source.size or count, count)})
    with tempfile.TemporaryDirectory() as folder:
        found = _find(few, _local_files(source, split), split, Path(folder) / "few.parquet", seed)
        return _read(found, None)[0]


@contextlib.contextmanager
def open_data(
    data: DataConfig, train: Sequence[Prepared], held_out: Sequence[Prepared], seed: int, fits: Keep | None
) -> Iterator[Data]:
    """The feed and the held-out records. `fits` refuses prompts that are too long, of every source."""
    streams: dict[str, StreamFeed] = {}
    finite: dict[str, list[Record]] = {}
    feeds: dict[str, Feed] = {}
    dropped: dict[str, Mapping[str, int]] = {}
    with contextlib.ExitStack() as stack:
        for each in train:
            title = each.source.title
            # One source keeps the run's own seed; the orders of several must have nothing in common.
            own_seed = seed if len(train) == 1 else derive_seed(seed, "source", title)
            if each.stream is not None:
                hub = stack.enter_context(Hub())
                feeds[title] = streams[title] = _open_stream(each.source, each.stream, own_seed, hub, fits)
                stack.callback(_close_stream, title, streams[title])
            else:
                finite[title], dropped[f"train {title}"] = _read_some(each, fits)
                feeds[title] = ListFeed(finite[title], own_seed)
        kept: list[Record] = []
        for each in held_out:
            records, dropped[f"held_out {each.source.title}"] = _read_some(each, fits)
            kept += records
        left_out = {source: counts for source, counts in dropped.items() if counts}
        yield Data(_mixed(data, feeds, seed), kept, finite, streams, left_out)


def identities(sources: Sequence[Prepared]) -> dict[str, str]:
    """What a run is fed, for its run.json: the hash of every file, the commit of every stream."""
    found: dict[str, str] = {}
    for each in sources:
        found |= {str(file): sha256(file) for file in each.files}
        if each.stream is not None:
            name, revision = _split_revision(each.stream.name)
            found[name] = str(revision)
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mixed(data: DataConfig, feeds: Mapping[str, Feed], seed: int) -> Feed:
    if not feeds:
        return ListFeed([], seed)  # which says what is missing
    if len(feeds) == 1:
        return next(iter(feeds.values()))
    stages = [Stage(stage.weights, records=stage.records, pass_rate=stage.pass_rate) for stage in data.stages]
    return MixedFeed(feeds, stages or [Stage({source.title: source.weight for source in data.train})], seed)


def _find(source: SourceConfig, local: tuple[Path, ...], split: Split, made: Path, seed: int) -> Prepared:
    """Where `source` is; what has to be generated or drawn for this run becomes the file `made`."""
    _check(source, local, split)
    if local:
        return Prepared(source, local)
    if not _is_generated(source.name):
        return _from_hub(source, split, made, seed)
    assert source.size is not None
    write_records(build(source.name, split, source.size, seed, source.options), made)
    return Prepared(source, (made,))


def _check(source: SourceConfig, local: tuple[Path, ...], split: Split) -> None:
    """Refuses a name that means nothing, and keys that do not go with what it means."""
    if not local and _is_generated(source.name):
        _check_generated(source)
        return
    known = {"files"} if source.name.startswith("hf:") else set[str]()
    if source.options.keys() - known:
        raise UsageError(
            f"data source '{source.name}' is read, not generated, so it does not take options {source.options}",
            "choose records with filter: module:function, and files of a Hub set with options: {files: [PATTERN]}",
        )
    if not local:
        _check_published(source, split)


def _noted(source: SourceConfig, note: Path) -> Prepared:
    content = json.loads(note.read_text(encoding="utf-8"))
    files = tuple(map(Path, content["files"]))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ReasonkitError(
            f"the run was fed from {missing[0]}, which does not exist any more",
            "put the file back, or start a new run",
        )
    stream = content["stream"]
    return Prepared(source, files, stream and Stream(stream["name"], tuple(stream["files"])))


def _is_generated(name: str) -> bool:
    """Whether the name, or the first of a mixture, is a generator's or a converter's."""
    first = name.split(",")[0].partition("=")[0]
    return first in SOURCES or first.startswith("rg:")


def _check_generated(source: SourceConfig) -> None:
    if source.map is not None:
        raise UsageError(
            f"data source '{source.name}' is generated, so map ({source.map}) has no columns to name",
            "remove map",
        )
    if source.size is None:
        raise UsageError(
            f"data source '{source.name}' is generated, so the recipe must say how many records: size is null",
            "write size: 1000 beside its name",
        )


def _local_files(source: SourceConfig, split: Split) -> tuple[Path, ...]:
    """The files on this machine that the source means; none where it must be generated or fetched."""
    path = Path(source.name).expanduser()
    if path.suffix in (".parquet", *_ROWS):
        if not path.is_file():
            raise UsageError(f"record file '{source.name}' does not exist", "reasonkit data build --help")
        return (path,)
    if path.is_dir():
        found = _split_in(path, split)
        if not found:
            raise UsageError(f"folder '{source.name}' holds no {split}.parquet", "name the file itself")
        return found
    name, revision = _split_revision(source.name)
    if _is_generated(name):
        asked = source.size is not None or source.options or "," in name
        return () if asked else _split_in(dataset_folder(name), split)
    if name in PUBLISHED:
        return _pulled_parts(name, split)
    if name.startswith("hf:"):
        return _pulled_from_hub(source, name, revision, split)
    return _split_in(dataset_folder(name), split)


def pulled_files(name: str, split: Split) -> tuple[Path, ...]:
    """The record files of a published set, or of its part, that are on this machine."""
    if name in PUBLISHED and (whole := _pulled_parts(name, split)):
        return whole
    folder = dataset_folder(name)
    return _split_in(folder, split) or tuple(
        file for each in sorted(folder.glob("*/")) for file in _split_in(each, split)
    )


def _split_in(folder: Path, split: Split) -> tuple[Path, ...]:
    stored = (split_file(folder, each) for each in _STORED_SPLITS[split])
    return next(((file,) for file in stored if file.is_file()), ())


def _pulled_parts(name: str, split: Split) -> tuple[Path, ...]:
    """The files of a published set that was pulled whole; of one in parts unknown here, the Hub tells."""
    parts = [
        part for part in PUBLISHED[name].parts if not part.opt_in and part.split in _STORED_SPLITS[split]
    ]
    if any(part.each for part in parts):
        return ()
    found = [
        _split_in(dataset_folder(f"{name}:{part.domain}" if part.domain else name), split) for part in parts
    ]
    return tuple(itertools.chain.from_iterable(found)) if all(found) else ()


def _pulled_from_hub(source: SourceConfig, name: str, revision: str | None, split: Split) -> tuple[Path, ...]:
    """What `data pull` made of it, if it was made as the recipe says."""
    found = _split_in(dataset_folder(name), split)
    if not found:
        return ()
    manifest = json.loads((dataset_folder(name) / MANIFEST).read_text(encoding="utf-8"))
    columns, _, verifier = manifest["files"][found[0].stem]["signature"]["read"].partition(" ")
    mapping = dict(pair.partition("=")[::2] for pair in columns.split(",")) if "=" in columns else None
    wanted = _patterns(source)
    sources = manifest["files"][found[0].stem]["signature"]["sources"]
    same_files = not wanted or all(
        any(fnmatch.fnmatchcase(path, pattern) for pattern in wanted) for path in sources
    )
    as_asked = source.map is None or (source.map, source.verifier or "") == (mapping, verifier)
    if as_asked and same_files and manifest["revision"].startswith(revision or ""):
        return found
    log.warning(
        "%s was pulled at %s from %s and read as '%s', which is not what the recipe says: not used",
        name,
        manifest["revision"],
        ", ".join(sources),
        " ".join(filter(None, (columns, verifier))),
    )
    return ()


def _check_published(source: SourceConfig, split: Split) -> None:
    name, _ = _split_revision(source.name)
    base = name.partition(":")[0]
    if name in BY_HAND:
        raise ReasonkitError(
            f"{name} is not on this machine, and on no hub",
            f"put it at {dataset_folder(name) / split}.parquet: {BY_HAND[name]}",
        )
    if not name.startswith("hf:") and base not in PUBLISHED:
        raise UsageError(
            f"unknown data source '{source.name}'",
            nearest(name, (*SOURCES, *PUBLISHED)) or "reasonkit list data",
        )
    if base in PUBLISHED and PUBLISHED[base].raw:
        raise UsageError(
            f"'{base}' is raw material, not records",
            f"reasonkit data pull {base}, then name what is built from it: reasonkit list data",
        )
    if base in PUBLISHED and source.map is not None:
        raise UsageError(f"the rows of '{base}' are known, so map ({source.map}) cannot apply", "remove map")
    if source.size is None and split != "train":
        raise UsageError(
            f"held-out source '{source.name}' would be streamed, which has no end: size is null",
            f"write size: 500 beside its name, or fetch it: {pull_command(name)}",
        )


def _from_hub(source: SourceConfig, split: Split, made: Path, seed: int) -> Prepared:
    try:
        return _fetched(source, split, made, seed)
    except Unreachable as error:
        raise Unreachable(
            error.message,
            f"fetch it where there is a network: {pull_command(_split_revision(source.name)[0])}",
        ) from error


def _fetched(source: SourceConfig, split: Split, made: Path, seed: int) -> Prepared:
    base = _split_revision(source.name)[0].partition(":")[0]
    with Hub() as hub:
        targets = _targets(source, split, hub)
        if base in PUBLISHED and all(target.path.is_file() for target in targets):
            return Prepared(source, tuple(target.path for target in targets))
        files = [file for target in targets for file in target.sources]
        stream = Stream(f"hf:{files[0].repo}@{files[0].revision}", tuple(file.path for file in files))
        if source.size is None:
            return Prepared(source, stream=stream)
        write_records(_drawn(source, stream, source.size, seed, hub), made)
    return Prepared(source, (made,))


def _targets(source: SourceConfig, split: Split, hub: Hub) -> list[Target]:
    """The published files that the source means, at a fixed commit."""
    name, revision = _split_revision(source.name)
    base, _, part = (name, "", "") if name.startswith("hf:") else name.partition(":")
    domains = {each.domain for each in PUBLISHED[base].parts} if base in PUBLISHED else set()
    asked = Request(
        base, domains=(part,) if part in domains and part else (), revision=revision, files=_patterns(source)
    )
    known = plan(asked, hub).targets
    named = [target for target in known if not part or part in domains or target.name == name]
    for stored in _STORED_SPLITS[split]:
        if found := [target for target in named if target.split == stored]:
            return found
    if not named:
        raise UsageError(
            f"'{source.name}' names no part of {base}", nearest(name, [target.name for target in known])
        )
    raise UsageError(
        f"'{source.name}' has no {split} split; it has {', '.join(sorted({target.split for target in named}))}",
        "split it first: reasonkit data pull, then reasonkit data split",
    )


def _patterns(source: SourceConfig) -> tuple[str, ...]:
    """Which files of a Hub set the recipe asks for; none asks for all."""
    patterns = source.options.get("files", [])
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(
            f"options.files of '{source.name}' is {patterns!r}, not a list of patterns",
            "for example options: {files: [main/*.parquet]}",
        )
    return tuple(patterns)


def _split_revision(name: str) -> tuple[str, str | None]:
    base, _, revision = name.partition("@")
    return base, revision or None


def _drawn(source: SourceConfig, stream: Stream, size: int, seed: int, hub: Hub) -> Iterator[Record]:
    """The first `size` records of the shuffled stream, or all where there are fewer."""
    read, dropped, given = _reader(source), Counter[str](), 0
    files, columns = _exactly(stream.files), _columns(source)

    def reopen(_: str | None) -> Tables:
        return open_tables(stream.name, files=files, columns=columns, hub=hub)

    with RowStream(reopen, seed) as rows:
        while given < size:
            taken = rows.take(1)
            if rows.epoch:
                break
            for record in _records_of(taken, read, dropped):
                given += 1
                yield record
    _tell(source.title, dropped, given)
    if given < size:
        log.warning("%s has only %d records; size asks for %d", source.title, given, size)


def _open_stream(source: SourceConfig, stream: Stream, seed: int, hub: Hub, fits: Keep | None) -> StreamFeed:
    return open_stream(
        stream.name,
        seed,
        hub=hub,
        files=_exactly(stream.files),
        columns=_columns(source),
        read=_reader(source),
        keep=_keep(source, fits),
    )


def _columns(source: SourceConfig) -> tuple[str, ...]:
    """The columns to fetch: those that the map names, or all."""
    return tuple(source.map.values()) if source.map is not None else ()


def _close_stream(title: str, stream: StreamFeed) -> None:
    _tell(title, stream.dropped, None)
    stream.close()


def _exactly(files: Sequence[str]) -> list[str]:
    """Patterns that match these paths only."""
    return [glob.escape(file) for file in files]


def _reader(source: SourceConfig) -> Reader:
    name, _ = _split_revision(source.name)
    if source.map is not None:
        shown = split_name(name)[0] if name.startswith("hf:") else Path(name).stem
        return columns_as(source.map, shown, source.verifier)
    base = name.partition(":")[0]
    return PUBLISHED_READERS[PUBLISHED[base].read] if base in PUBLISHED else read_any


def _keep(source: SourceConfig, fits: Keep | None) -> Keep:
    """Why a record of `source` is left out: its own filter first, which is cheaper than counting tokens."""
    wanted: Callable[[Record], bool] | None = load(source.filter) if source.filter is not None else None

    def reason(record: Record) -> str | None:
        if wanted is not None and not wanted(record):
            return f"filter {source.filter}"
        return fits(record) if fits is not None else None

    return reason


def _read_some(prepared: Prepared, fits: Keep | None) -> tuple[list[Record], Counter[str]]:
    records, dropped = _read(prepared, fits)
    if not records:
        raise ReasonkitError(
            f"no record of {prepared.source.title} is left ({_listed(dropped) or 'its files are empty'})",
            "check its map and filter, and data.filter_overlong_prompts",
        )
    return records, dropped


def _read(prepared: Prepared, fits: Keep | None) -> tuple[list[Record], Counter[str]]:
    source, dropped = prepared.source, Counter[str]()
    keep, kept = _keep(source, fits), []
    for record in itertools.islice(_records(prepared, dropped), source.size):
        reason = keep(record)
        if reason is None:
            kept.append(record)
        else:
            dropped[reason] += 1
    _tell(source.title, dropped, len(kept))
    return kept, dropped


def _records(prepared: Prepared, dropped: Counter[str]) -> Iterator[Record]:
    """The records of files in their order; rows that are none are counted in `dropped`."""
    # What was pulled or drawn from the Hub by a map is a record file by now.
    as_rows = prepared.source.map is not None and not prepared.source.name.startswith("hf:")
    for file in prepared.files:
        if file.suffix == ".parquet" and not as_rows:
            yield from read_records(file)
            continue
        for table in open_tables(str(file)).files:
            for group in range(len(table.group_bytes)):
                rows = table.read(group)
                for start in range(0, len(rows), _AT_ONCE):
                    taken = rows.take(range(start, min(start + _AT_ONCE, len(rows))))
                    yield from _records_of(taken, _reader(prepared.source), dropped)


def _records_of(
    rows: Sequence[dict[str, Any] | Malformed], read: Reader, dropped: Counter[str]
) -> Iterator[Record]:
    for row in rows:
        if isinstance(row, Malformed):
            dropped[row.why] += 1
            continue
        try:
            yield read(row)
        except BadRow as error:
            dropped[str(error)] += 1


def _tell(title: str, dropped: Mapping[str, int], kept: int | None) -> None:
    if dropped:
        of = "" if kept is None else f" and kept {kept}"
        log.warning("%s: left out %d records%s (%s)", title, sum(dropped.values()), of, _listed(dropped))


def _listed(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
