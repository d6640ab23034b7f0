"""Verifiers: `(Record, text) -> Verdict`, the one scoring path of training, evaluation, filtering and the judge.

A verifier never raises on what a model wrote: hostile, empty or absurd text gets a Verdict. It
raises only where the Record itself is unusable. `text` is the model's reply alone, without the
prompt. Each family is one file; `VERIFIERS` names them, `ROUTES` says which one a data source uses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from reasonkit.records import Record, Verdict
from reasonkit.registry import resolve

Verifier = Callable[[Record, str], Verdict]
"""Pure parsers: synchronous, run in the killable pool."""
AsyncVerifier = Callable[[Record, str], Awaitable[Verdict]]
"""Sandboxed code, judges, remote servers: awaited, with their own deadline."""

VERIFIERS: dict[str, str] = {
    "exact": "reasonkit.verifiers.exact:verify_exact",
}


def verify(record: Record, text: str) -> Verdict:
    """The verdict on `text` as a reply to `record`."""
    name = record.verifier or record.source
    verifier: Verifier = resolve("verifier", name, VERIFIERS)
    return verifier(record, text)
