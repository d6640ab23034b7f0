"""What every cleaning step shares: it reads records, keeps some, and accounts for each of the others.

A step is a generator of `(record, rejection)`, where a rejection is None for a record that is kept. So no step
can drop a record without saying why, and all of them write, count and report alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonkit.data.files import read_records, write_records
from reasonkit.records import Record, to_row
from reasonkit.rundir import atomic_file


@dataclass(frozen=True, slots=True)
class Rejection:
    reason: str
    """Few distinct values: what is counted."""
    detail: str = ""
    """What this record collided with, or by how much it missed."""


Judged = tuple[Record, Rejection | None]
Step = Callable[[Iterable[Record]], Iterator[Judged]]


@dataclass(slots=True)
class Report:
    """Rows in, rows out, and why."""

    step: str
    rows_in: int = 0
    rows_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    kept: str = ""
    rejected: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "reasons": dict(self.reasons),
            "kept": self.kept,
            "rejected": self.rejected,
        }


def clean(name: str, step: Step, source: Path, target: Path) -> Report:
    """Run `step` over a record file: what it keeps goes to `target`, the rest beside it with reasons."""
    report = Report(name, kept=str(target), rejected=str(rejected_path(target)))
    with (
        atomic_file(rejected_path(target)) as temporary,
        temporary.open("w", encoding="utf-8") as rejected,
    ):

        def kept() -> Iterator[Record]:
            for record, rejection in step(read_records(source)):
                report.rows_in += 1
                if rejection is None:
                    report.rows_out += 1
                    yield record
                else:
                    report.reasons[rejection.reason] += 1
                    row = {"reason": rejection.reason, "detail": rejection.detail, **to_row(record)}
                    rejected.write(json.dumps(row, ensure_ascii=False) + "\n")

        write_records(kept(), target)
        rejected.flush()
    return report


def rejected_path(target: Path) -> Path:
    return target.with_name(f"{target.stem}.rejected.jsonl")


def prompt_text(record: Record) -> str:
    """What a record asks: the turns that are not the system's, whose instructions many records share."""
    turns = [turn["content"] for turn in record.prompt if turn["role"] != "system"]
    return turns[0] if len(turns) == 1 else "\n".join(turns)
