"""The files that a filter run leaves: kept records with their pass rates, and the others with reasons."""

from __future__ import annotations

import json
from pathlib import Path

from reasonkit.data.cleaning import rejected_path
from reasonkit.data.files import write_records
from reasonkit.filter.choose import Choice
from reasonkit.filter.rates import Rates, annotated
from reasonkit.records import to_row
from reasonkit.rundir import atomic_file


def write_choice(choice: Choice, rates: Rates, target: Path) -> Path:
    """Write both halves; where the dropped ones are."""
    write_records((annotated(record, rates) for record in choice.kept), target)
    dropped = rejected_path(target)
    with atomic_file(dropped) as temporary, temporary.open("w", encoding="utf-8") as out:
        for record, rejection in choice.dropped:
            row = {"reason": rejection.reason, "detail": rejection.detail, **to_row(annotated(record, rates))}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return dropped
