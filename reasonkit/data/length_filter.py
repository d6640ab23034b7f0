"""Drop prompts that are too long for a model, counted in its own tokens and through its own chat template.

The same test serves files and streams: `too_long` is a filter for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from reasonkit.data.cleaning import Judged, Rejection
from reasonkit.dialogue import Dialogue
from reasonkit.records import Record


def too_long(dialogue: Dialogue, limit: int) -> Callable[[Record], str | None]:
    """Why a record's prompt does not fit into `limit` tokens, or None where it does."""

    def reason(record: Record) -> str | None:
        length = len(dialogue.record_ids(record, record.prompt))
        return f"prompt over {limit} tokens" if length > limit else None

    return reason


def length_filter(records: Iterable[Record], dialogue: Dialogue, limit: int) -> Iterator[Judged]:
    for record in records:
        length = len(dialogue.record_ids(record, record.prompt))
        if length > limit:
            yield record, Rejection(f"prompt over {limit} tokens", f"{length} tokens")
        else:
            yield record, None
