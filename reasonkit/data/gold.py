"""The reply that a perfect model would give to a record: what `data head`, audits and dry runs judge."""

from __future__ import annotations

from typing import Any

from reasonkit.records import Record, dumps

TEXT_KEYS = ("solution", "solution_text_format")
"""Where an answer of several fields keeps the one that a reply states."""

BOXED = frozenset({"math", "table"})
r"""Verifiers that look for the answer in `\boxed{…}`."""


def gold_answer(record: Record) -> str | None:
    """The gold answer as a reply states it, or None where the source has none (only conditions to meet)."""
    answer: Any = record.answer
    if isinstance(answer, dict):
        for key in TEXT_KEYS:
            if key in answer:
                return str(answer[key])
    if answer is None or isinstance(answer, str):
        return answer
    return dumps(answer)


def gold_reply(record: Record) -> str | None:
    """The same in the form that the prompt asks for. Of a program to write, the source's own solution."""
    if record.metadata.get("ability") == "codegen":
        solution = record.metadata.get("reference")
        return None if solution is None else f"```python\n{solution}\n```"
    answer = gold_answer(record)
    if answer is None:
        return None
    return rf"\boxed{{{answer}}}" if record.verifier in BOXED else f"<answer>{answer}</answer>"
