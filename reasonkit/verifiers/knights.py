"""Knights and Knaves: every person's role, all of them right. Read as Logic-RL reads it, save for negations.

The answer names each person once with a role after the name on the same line (`Zoey is a knight`, `**Zoey**:
knight`), in any order, and mentions a role exactly as often as there are people. Anything else is no answer
rather than a wrong one, because Logic-RL's reward tells the two apart. There is no credit for a part: roles
depend on each other. Logic-RL reads `Zoey is not a knight` as a knight; here that is unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, last_tagged

GOLD = re.compile(r"([^\W\d_]+) is a (knight|knave)", re.IGNORECASE)
ROLE = re.compile(r"knight|knave", re.IGNORECASE)


def verify_knights(record: Record, text: str) -> Verdict:
    """`record.answer` holds `solution_text_format`: a line a person, `(1) Zoey is a knight`."""
    found = GOLD.findall(record.answer["solution_text_format"])
    expected = {name.casefold(): role.lower() for name, role in found}
    answer = last_tagged(after_thinking(text))
    if answer is None:
        return Verdict.no_answer("the reply has no <answer> after its thinking")
    mentions = sum(1 for _ in ROLE.finditer(answer))
    if mentions != len(expected):
        return Verdict.no_answer(f"the answer mentions {mentions} roles for {len(expected)} people")
    stated = _stated(answer, expected)
    if stated is None:
        return Verdict.no_answer("the answer does not say once, for each person, what they are")
    wrong = [name for name, role in stated.items() if role != expected[name]]
    shown = "; ".join(f"{name}: {role}" for name, role in stated.items())
    if wrong:
        return Verdict.wrong(shown, f"{len(wrong)} of {len(expected)} roles are wrong: {', '.join(wrong)}")
    return Verdict.correct(shown)


def _stated(answer: str, names: Iterable[str]) -> dict[str, str] | None:
    """Name -> role, or None where a role has no name before it, a name two roles, or a role is denied."""
    people = "|".join(map(re.escape, names))
    words = re.compile(
        rf"\b(?P<name>{people})\b|(?P<role>knight|knave)|(?P<denial>\bno[tr]?\b|n['’]t\b)|\n", re.IGNORECASE
    )
    stated: dict[str, str] = {}
    current = ""
    for word in words.finditer(answer):
        match word.lastgroup:
            case "name":
                current = word["name"].casefold()
            case "role" if current and current not in stated:
                stated[current] = word["role"].lower()
                current = ""
            case "role":
                return None
            case _:  # a denial or the end of a line: what follows is not about this person any more
                current = ""
    return stated
