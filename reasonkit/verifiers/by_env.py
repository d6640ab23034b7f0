"""Records that only their environment can judge: a game's verdict is that of its last step, not of a text."""

from __future__ import annotations

from reasonkit.records import Record, Verdict


def verify_by_env(record: Record, text: str) -> Verdict:  # noqa: ARG001 - the text says nothing
    """No answer: whoever asks here has a text and no game. Environments give their own verdicts."""
    return Verdict.no_answer(
        f"{record.source} is judged by the environment that plays it, and none gave a verdict"
    )
