"""Short answers to questions of knowledge, as Search-R1 scores them: equal once articles and punctuation are gone.

`answer` is a text, a list of texts any of which is right, or `{"target": [...]}` as the published files have it.
"""

from __future__ import annotations

import string
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged

_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def bare(answer: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: SQuAD's form."""
    words = answer.lower().translate(_PUNCTUATION).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def verify_search(record: Record, text: str) -> Verdict:
    """The last `<answer>` is one of the gold answers, articles and punctuation aside."""
    gold: Any = record.answer["target"] if isinstance(record.answer, dict) else record.answer
    wanted = [str(each) for each in (gold if isinstance(gold, list) else [gold])]
    answer = last_tagged(after_thinking(text))
    if answer is None or not bare(answer):
        return Verdict.no_answer("the reply has no filled <answer> after its thinking")
    if bare(answer) in {bare(each) for each in wanted} - {""}:
        return Verdict.correct(answer.strip())
    return Verdict.wrong(answer.strip(), f"'{answer.strip()[:200]}' is not '{wanted[0][:200]}'")
