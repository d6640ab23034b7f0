"""Graph lookahead: one name, compared without regard to case."""

from __future__ import annotations

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged
from reasonkit.verifiers.literals import published_answer


def verify_graph(record: Record, text: str) -> Verdict:
    """`record.answer` is a node's name."""
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    return _verdict(answer.strip().strip(".'\"`*").strip(), str(record.answer))


def verify_graph_reasoning360(record: Record, text: str) -> Verdict:
    answer = published_answer(text, one_line=True)
    if answer is None or not (answer.isascii() and answer.isalpha()):
        return Verdict.no_answer("the reply has no <answer> of letters alone on one line")
    return _verdict(answer, str(record.answer))


def _verdict(answer: str, gold: str) -> Verdict:
    if not answer:
        return Verdict.no_answer("the answer is empty")
    if answer.casefold() == gold.casefold():
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"'{answer[:200]}' is not '{gold}'")
