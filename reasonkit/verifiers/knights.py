"""Knights and Knaves: every person's role, all of them right. Read as Logic-RL reads it.

The answer names each person once as `Zoey is a knight`, in any order, and mentions a role exactly as
often as there are people; anything else is no answer rather than a wrong one, because Logic-RL's reward
tells the two apart. There is no credit for a part: roles depend on each other.
"""

from __future__ import annotations

import re

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged

STATEMENT = re.compile(r"\b([^\W\d_]+) is a (knight|knave)\b", re.IGNORECASE)
ROLE = re.compile(r"knight|knave", re.IGNORECASE)


def verify_knights(record: Record, text: str) -> Verdict:
    """`record.answer` holds `solution_text_format`: a line a person, `(1) Zoey is a knight`."""
    expected = dict(_roles(record.answer["solution_text_format"]))
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    mentions = sum(1 for _ in ROLE.finditer(answer))
    if mentions != len(expected):
        return Verdict.no_answer(f"the answer mentions {mentions} roles for {len(expected)} people")
    stated = _roles(answer)
    if sorted(name for name, _ in stated) != sorted(expected):
        missing = sorted(expected.keys() - {name for name, _ in stated})
        return Verdict.no_answer(f"the answer does not say once for each person what they are: {missing}")
    wrong = [name for name, role in stated if role != expected[name]]
    shown = "; ".join(f"{name}: {role}" for name, role in stated)
    if wrong:
        return Verdict.wrong(shown, f"{len(wrong)} of {len(expected)} roles are wrong: {', '.join(wrong)}")
    return Verdict.correct(shown)


def _roles(text: str) -> list[tuple[str, str]]:
    return [(name.casefold(), role.lower()) for name, role in STATEMENT.findall(text)]
