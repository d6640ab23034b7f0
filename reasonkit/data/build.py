"""Build record sets by name: the table of sources, their settings from text, mixtures, and files.

A name is a source (`knights`), a reasoning-gym task (`rg:leg_counting`) or a weighted mixture of
these (`knights=2,countdown,rg:gcd`, `rg:gcd=2,lcm`). The same name, settings, sizes and seed give the
same bytes. Where records come from is each source's business; what cleaning follows is dedup's.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from reasonkit.data.parallel import drawn_by
from reasonkit.data.sources import Settings, Source, Split
from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.records import Record
from reasonkit.registry import load
from reasonkit.seeding import derive_seed

SOURCES: dict[str, str] = {
    "arithmetic_chain": "reasonkit.data.sources.arithmetic_chain:SOURCE",
    "countdown": "reasonkit.data.sources.countdown:SOURCE",
    "episodes": "reasonkit.data.sources.episodes:SOURCE",
    "frozen_lake": "reasonkit.data.sources.frozen_lake:SOURCE",
    "graph": "reasonkit.data.sources.graph:SOURCE",
    "knights": "reasonkit.data.sources.knights:SOURCE",
    "ordering": "reasonkit.data.sources.ordering:SOURCE",
    "sokoban": "reasonkit.data.sources.sokoban:SOURCE",
    "zebra": "reasonkit.data.sources.zebra:SOURCE",
    # From here on: converted from downloaded files, which --set raw=FOLDER names.
    "arc": "reasonkit.data.sources.arc:ARC_SOURCE",
    "barc": "reasonkit.data.sources.arc:BARC_SOURCE",
    "codeio": "reasonkit.data.sources.codeio:SOURCE",
    "hitab": "reasonkit.data.sources.tables:HITAB_SOURCE",
    "leetcode": "reasonkit.data.sources.programs:LEETCODE_SOURCE",
    "math": "reasonkit.data.sources.math:SOURCE",
    "multihiertt": "reasonkit.data.sources.tables:MULTIHIERTT_SOURCE",
    "primeintellect": "reasonkit.data.sources.programs:PRIMEINTELLECT_SOURCE",
    "stem": "reasonkit.data.sources.stem:SOURCE",
    "taco": "reasonkit.data.sources.programs:TACO_SOURCE",
}

WORTH_PROCESSES = 2_000
"""Records of a mixture from which on starting processes costs less than it saves."""

AnySource = Source[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a mixture, and its share."""

    source: AnySource
    weight: float


def parse_name(name: str) -> list[Part]:
    """The sources that a name means, with their weights; more than one for a mixture."""
    parts = [Part(source_named(label), weight) for label, weight in _labels(name)]
    names = [part.source.name for part in parts]
    repeated = [each for each in names if names.count(each) > 1]
    if repeated:
        raise UsageError(f"'{name}' names {repeated[0]} twice", f"give it one weight: {repeated[0]}=2")
    return parts


def _labels(name: str) -> list[tuple[str, float]]:
    """The items of a name with their weights, each a whole name of its own; nothing is loaded."""
    labels: list[tuple[str, float]] = []
    prefix = ""
    for item in name.split(","):
        label, _, weight = item.strip().partition("=")
        if label in SOURCES or label.startswith("rg:"):
            prefix = label[: label.find(":") + 1]
        else:
            label = prefix + label
        labels.append((label, _weight(item, weight)))
    return labels


def source_named(name: str) -> AnySource:
    """The source called `name`: one of ours, or `rg:TASK`."""
    if name.startswith("rg:"):
        from reasonkit.data.sources.reasoning_gym import source_for

        return source_for(name.removeprefix("rg:"))
    if name not in SOURCES:
        raise UsageError(f"unknown data source '{name}'", nearest(name, SOURCES) or "reasonkit list data")
    source: AnySource = load(SOURCES[name])
    return source


def _weight(item: str, text: str) -> float:
    try:
        weight = float(text or 1)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UsageError(f"'{item}' has no positive weight", "write it as NAME=WEIGHT, for example knights=2")
    return weight


def build(
    name: str,
    split: Split,
    size: int,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    *,
    workers: int = 1,
) -> Iterator[Record]:
    """`size` records of what `name` means. In a mixture, settings are given per source: {"knights": {…}}.

    The parts of a large mixture are drawn by `workers` processes, whose number changes no record.
    """
    if size < 0:
        raise UsageError(f"a set cannot have {size} records", "--size 1000")
    parts = parse_name(name)
    given = dict(settings or {})
    if len(parts) == 1:
        source = parts[0].source
        return source.build(split, size, seed, validate(source, given))
    unknown = given.keys() - {part.source.name for part in parts}
    if unknown:
        raise UsageError(
            f"setting '{min(unknown)}' belongs to no source of the mixture '{name}'",
            f"write SOURCE.KEY=VALUE, for example --set {parts[0].source.name}.KEY=VALUE",
        )
    for part in parts:
        validate(part.source, given.get(part.source.name, {}))
    return _mix(parts, name, split, size, seed, given, workers)


def _mix(
    parts: list[Part],
    name: str,
    split: Split,
    size: int,
    seed: int,
    settings: Mapping[str, Any],
    workers: int,
) -> Iterator[Record]:
    """Records of all parts in a shuffled order, each part with its exact share."""
    counts = shares([part.weight for part in parts], size)
    order = [place for place, count in enumerate(counts) for _ in range(count)]
    random.Random(derive_seed(seed, "data", "mix", split)).shuffle(order)
    open_part = functools.partial(_stream, name, split, counts, seed, settings)
    if workers > 1 and size >= WORTH_PROCESSES:
        libraries = [part.source.name.partition(":")[0] for part in parts]
        drawn = drawn_by(workers, open_part, libraries, order)
    else:
        streams = [open_part(place) for place in range(len(parts))]
        drawn = (next(streams[place], None) for place in order)
    for place, record in zip(order, drawn, strict=True):
        if record is None:
            raise ReasonkitError(
                f"{parts[place].source.name} has fewer than the {counts[place]} {split} records of its share",
                "give it a smaller weight, or the whole mixture a smaller --size",
            )
        yield record


def _stream(
    name: str, split: Split, counts: Sequence[int], seed: int, settings: Mapping[str, Any], place: int
) -> Iterator[Record]:
    """The stream of one part of the mixture `name`: by name, so that another process can open it too."""
    source = source_named(_labels(name)[place][0])
    records: Iterator[Record] = source.build(
        split, counts[place], seed, validate(source, settings.get(source.name, {}))
    )
    return records


def shares(weights: list[float], size: int) -> list[int]:
    """`size` split by `weights`, exactly: what rounding down leaves goes to the largest remainders."""
    exact = [size * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: size - sum(counts)]:
        counts[i] += 1
    return counts


def validate(source: AnySource, values: Mapping[str, Any]) -> Settings:
    """`values` as the settings of `source`; an unknown key or a bad value says what is wrong and what is known."""
    try:
        settings: Settings = source.settings.model_validate(dict(values))
    except ValidationError as invalid:
        error = invalid.errors()[0]
        key = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            raise UsageError(
                f"{source.name} has no setting '{key}'", nearest(key, source.settings.model_fields)
            ) from None
        # A validator of ours names the value itself; pydantic's own messages do not.
        problem = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
        where = f"{source.name}: {key} = {error['input']!r}" if key else source.name
        raise UsageError(f"{where}: {problem}", f"reasonkit show {source.name}") from None
    return settings


def parse_settings(assignments: list[str]) -> dict[str, Any]:
    """`key=value` texts as nested settings: values are YAML, dots nest."""
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise UsageError(
                f"--set '{assignment}' is not of the form key=value", "for example --set people=[3,4]"
            )
        *above, last = key.strip().split(".")
        inner = settings
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = _value(text)
    return settings


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
