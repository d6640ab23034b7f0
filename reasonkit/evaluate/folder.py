"""The folder of an evaluation: its names, and whose it is.

    evaluation.json                 models with their identities, versions, seed
    records/TASK.parquet            the items as they were asked, enough to judge old replies again
    MODEL/TASK/samples.jsonl        replies (samples.py)
    MODEL/TASK/verdicts.jsonl
    MODEL/TASK/results.json         what they come to (results.py)
    results.json                    the same of all models and tasks
    logs/                           what engines in processes of their own print
    report.html  charts/

A folder belongs to the models that it was begun with: another model, or other weights under the same name, are
refused instead of mixed in. More tasks, items, samples or models beside the first are welcome.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Record, from_row, to_row
from reasonkit.rundir import atomic_file, write_json

EVALUATION = "evaluation.json"


@dataclass(frozen=True, slots=True)
class EvaluationDir:
    path: Path

    @property
    def about(self) -> Path:
        return self.path / EVALUATION

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def pair(self, model: str, task: str) -> Path:
        return self.path / _file_name(model) / _file_name(task)

    def records(self, task: str) -> Path:
        return self.path / "records" / f"{_file_name(task)}.parquet"

    def read_about(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.about.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"{self.path} is no evaluation: it has no {EVALUATION}", "reasonkit eval TASK -m MODEL"
            ) from None
        return content

    def claim(self, models: Mapping[str, str], about: Mapping[str, Any]) -> None:
        """Make the folder, or make sure that it is of these models (label -> identity) and may be added to."""
        known: dict[str, str] = self.read_about()["models"] if self.about.exists() else {}
        if not known and self.path.exists() and any(self.path.iterdir()):
            raise UsageError(f"{self.path} exists, is not empty and is no evaluation", "choose another --out")
        if known and not known.keys() & models.keys():
            raise UsageError(
                f"{self.path} is an evaluation of {', '.join(known)}, not of {', '.join(models)}",
                "choose another --out, or name its models too (-m) to have all in it",
            )
        for label, identity in models.items():
            if known.get(label, identity) != identity:
                raise UsageError(
                    f"{self.path} holds samples of another model called '{label}': {known[label]}, and now it is "
                    f"{identity}",
                    "choose another --out",
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.about, {**about, "models": {**known, **models}})
        except OSError as error:
            raise ReasonkitError(
                f"cannot write to {self.path}: {error.strerror}", "choose a writable folder with --out FOLDER"
            ) from error

    def keep_records(self, task: str, records: Sequence[Record]) -> None:
        """Keep what was asked. Items that an earlier, larger evaluation asked stay."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kept = {record.uid: record for record in self.read_records(task)}
        kept.update((record.uid, record) for record in records)
        with atomic_file(self.records(task)) as temporary:
            table = pa.Table.from_pylist([to_row(record) for record in kept.values()])
            pq.write_table(table, temporary, compression="zstd")

    def read_records(self, task: str) -> list[Record]:
        import pyarrow.parquet as pq

        if not self.records(task).exists():
            return []
        return [from_row(row) for row in pq.read_table(self.records(task)).to_pylist()]


def _file_name(name: str) -> str:
    """`name` as a file may be called."""
    return re.sub(r"[^\w.@+=-]+", "-", name).strip("-.") or "-"
