"""How often each model solved each record, by (data_source, uid): measured, written down, joined to a file again.

A record and its rate are only ever joined by both halves of that key. A record without a rate, or two records with
one key, is an error: a join that fails quietly keeps everything, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.run import Opener, Options, Watcher, evaluate
from reasonkit.evaluate.work import TaskPlan, kept
from reasonkit.models import FoundModel
from reasonkit.records import Record
from reasonkit.rundir import atomic_file

TASK = "filter"
FULL_MARKS = 1.0

Key = tuple[str, str]
"""(data_source, uid)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One model on one record."""

    asked: int
    judged: int
    """Samples with a verdict; the others failed, or their grader did."""
    passed: int
    truncated: int

    @property
    def value(self) -> float:
        """The share of judged samples that are wholly right."""
        return self.passed / self.judged

    @property
    def missing(self) -> int:
        return self.asked - self.judged


Rates = Mapping[str, Mapping[Key, Rate]]
"""By the model's label."""


def key_of(record: Record) -> Key:
    return record.source, record.uid


def unique(records: Iterable[Record], where: str) -> list[Record]:
    """The records, if their keys tell them apart."""
    by_key: dict[Key, Record] = {}
    for record in records:
        if key_of(record) in by_key:
            raise ReasonkitError(
                f"{where} holds two records of source '{record.source}' with the uid '{record.uid}': no rate can "
                "be joined to either",
                f"reasonkit data dedup {where}",
            )
        by_key[key_of(record)] = record
    return list(by_key.values())


def as_items(records: Sequence[Record]) -> list[Record]:
    """The records under uids that hold their source: an evaluation tells its items apart by uid alone."""
    return [replace(record, uid=f"{record.source}/{record.uid}") for record in records]


async def sample(
    found: FoundModel,
    plan: TaskPlan,
    folder: EvaluationDir,
    options: Options,
    watcher: Watcher,
    opener: Opener,
) -> list[str]:
    """Draw and judge what `folder` lacks. Returns why the model was given up, if it was."""
    return (await evaluate([found], [plan], folder, options, watcher, opener)).stopped


def measured(
    found: FoundModel, plan: TaskPlan, folder: EvaluationDir, records: Sequence[Record]
) -> dict[Key, Rate]:
    """What the samples in `folder` say of each of `records`, whose items `plan` has in the same order."""
    items = kept(folder, found, plan).items()
    rates = {}
    for record, item in zip(records, items, strict=True):
        verdicts = [verdict for each in item.samples if (verdict := each.verdict("strict")) is not None]
        judged = [verdict for verdict in verdicts if not verdict.status.is_failure]
        rates[key_of(record)] = Rate(
            asked=plan.k,
            judged=len(judged),
            passed=sum(verdict.score >= FULL_MARKS for verdict in judged),
            truncated=sum(each.truncated and each.failure is None for each in item.samples),
        )
    return rates


def truncated(rates: Rates) -> dict[str, float]:
    """Of each model, the share of its replies that were cut at the length limit."""
    return {
        label: sum(rate.truncated for rate in of.values()) / max(1, sum(rate.asked for rate in of.values()))
        for label, of in rates.items()
    }


def annotated(record: Record, rates: Rates) -> Record:
    """The record with `pass_rates` in its metadata: of each model, the share and what it is a share of."""
    found = {label: of[key_of(record)] for label, of in rates.items()}
    shown = {
        label: {"rate": rate.value, "passed": rate.passed, "samples": rate.judged}
        for label, rate in found.items()
        if rate.judged
    }
    return replace(record, metadata={**record.metadata, "pass_rates": shown})


def write_rates(rates: Rates, path: Path) -> None:
    """One line a record: its key, and each model's counts."""
    keys = dict.fromkeys(key for of in rates.values() for key in of)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for source, uid in keys:
            counts = {label: asdict(of[source, uid]) for label, of in rates.items()}
            out.write(
                json.dumps({"data_source": source, "uid": uid, "models": counts}, ensure_ascii=False) + "\n"
            )


def read_rates(path: Path, records: Sequence[Record]) -> dict[str, dict[Key, Rate]]:
    """The rates of exactly these records. One that has none is an error."""
    rates: dict[str, dict[Key, Rate]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                _read_line(rates, json.loads(line), path, number)
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist", "reasonkit filter FILE -m MODEL writes rates.jsonl"
        ) from None
    for label, of in rates.items():
        lost = [key_of(record) for record in records if key_of(record) not in of]
        if lost:
            source, uid = lost[0]
            raise ReasonkitError(
                f"{path} has no rate of '{label}' for {len(lost)} of {len(records)} records; the first is uid "
                f"'{uid}' of source '{source}'",
                "take the rates of this very file, or measure them: reasonkit filter FILE -m MODEL",
            )
    return rates


def _read_line(rates: dict[str, dict[Key, Rate]], line: object, path: Path, number: int) -> None:
    match line:
        case {"data_source": str(source), "uid": str(uid), "models": dict(models)}:
            for label, counts in models.items():
                if (source, uid) in rates.setdefault(label, {}):
                    raise ReasonkitError(
                        f"{path}, line {number}: uid '{uid}' of source '{source}' has a rate already",
                        "keep one line a record",
                    )
                rates[label][source, uid] = Rate(**counts)
        case _:
            raise ReasonkitError(
                f"{path}, line {number} has no data_source, uid and models",
                "reasonkit filter writes rates.jsonl",
            )
