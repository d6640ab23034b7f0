r"""Multiple choice: the one letter that the reply settles on.

`answer` is a letter. A reply may also give the option's text, if the record lists its options under `choices`
in the metadata. Naming several letters is naming none. `Answer: X` lines count, the last of them; the first
capital letter of any prose does not.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.exact import normalise
from reasonkit.verifiers.extract import after_thinking, last_box, last_line, last_tagged

_WRAPPING = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_LABELLED = re.compile(r"^\(?([A-Z])\)?(?:[.):]\s*(.*))?$", re.DOTALL)
_ANOTHER_LABEL = re.compile(r"(?:^|[\s,(])[A-Z](?:[.):]|$)")
_ANCHOR = re.compile(r"answer(?: is)?\s*:?\s*", re.IGNORECASE)
_PUBLISHED_LINE = re.compile(r"Answer\s?: ?([A-J])")
ANSWER_CHARACTERS = 1000


def verify_choice(record: Record, text: str) -> Verdict:
    """The letter (or the text) of the option that the reply settles on is the gold one."""
    gold = str(record.answer).strip().strip("().").upper()
    if len(gold) != 1 or gold not in string.ascii_uppercase:
        raise ValueError(f"the gold answer '{record.answer}' is not a letter")
    answer = _settled(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no box, answer tag or 'Answer: X' line")
    letter = _letter(answer, record.metadata.get("choices", ()))
    if letter is None:
        return Verdict.wrong(answer, f"'{answer[:200]}' is not one option")
    return Verdict.correct(letter) if letter == gold else Verdict.wrong(letter, f"{letter} is not {gold}")


def verify_choice_reasoning360(record: Record, text: str) -> Verdict:
    """The first letter A to J that the box contains, as Reasoning360 reads it; no box is no answer."""
    reply = after_thinking(text)
    line = _PUBLISHED_LINE.search(reply) if record.metadata.get("no_box") else None
    answer = line[1] if line else last_box(reply)
    letter = next((character for character in answer or "" if character in "ABCDEFGHIJ"), None)
    if letter is None:
        return Verdict.no_answer("no letter from A to J is given")
    gold = str(record.answer).strip()
    return Verdict.correct(letter) if letter == gold else Verdict.wrong(letter, f"{letter} is not {gold}")


def _settled(reply: str) -> str | None:
    for found in (last_box(reply), last_tagged(reply)):
        if found is not None:
            return found.strip()[:ANSWER_CHARACTERS]
    anchors = list(_ANCHOR.finditer(reply))
    if anchors:
        return reply[anchors[-1].end() :].partition("\n")[0].strip()[:ANSWER_CHARACTERS]
    line = (last_line(reply) or "").strip("().* ")
    return line if len(line) == 1 and line.isalpha() else None


def _letter(answer: str, choices: Sequence[str]) -> str | None:
    shown = _WRAPPING.sub(r"\1", answer).replace("$", "").replace("*", "").strip().rstrip(".").strip()
    for index, choice in enumerate(choices):
        if normalise(str(choice)) == normalise(shown):
            return string.ascii_uppercase[index]
    match = _LABELLED.match(shown if len(shown) > 3 else shown.upper())
    if match is None or (match[2] and _ANOTHER_LABEL.search(match[2])):
        return None
    return match[1]
