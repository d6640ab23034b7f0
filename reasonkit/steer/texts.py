"""What the steerer, the TaskLLM, the checker and the extractor are told, and how the steerer's guidance is read.

Guidance stands between <<< and >>>, the last of them counts; a tuned steerer may leave the marks out. `Code` and
`Text` stand for prompts given here, `Return Answer` ends the attempt, and all else goes to the TaskLLM as it is.
"""

from __future__ import annotations

from enum import StrEnum

from reasonkit.records import Message, Record
from reasonkit.verifiers.extract import after_thinking

OPENING = """\
You guide another model, the TaskLLM, to the right answer of the question below. You do not answer it yourself: \
turn by turn you tell the TaskLLM how to go about it, by writing a Python program that is run for it, or by \
reasoning in text. Programs are better at search, counting, long or exact calculation and checking many cases; \
text is better at meaning, plausibility and what cannot be written down as steps. Look at what could go wrong.

Your reply ends with one guidance between <<< and >>>:
<<<Code>>> asks the TaskLLM for a program,
<<<Text>>> asks it to reason in text,
<<<anything else>>> is handed to it in your own words,
<<<Return Answer>>> accepts its last answer and ends the work.

Choose now how the TaskLLM should begin.

Question:
{question}"""

CODE = (
    "Solve this with a Python program. Write it whole, in one ```python block: it is run once, without input, and "
    "must print the final answer in the form that the question asks for. Let the program do the work: no result "
    "that you worked out yourself may stand in it."
)
TEXT = (
    "Solve this by reasoning step by step in text, without a program. End with the final answer in the form that "
    "the question asks for."
)

CHECK = """\
Question:
{question}

Proposed answer:
{answer}

Write a Python program, whole and in one ```python block, that tests whether the proposed answer meets every \
condition of the question, wherever that can be tested without solving the question anew. It prints Correct if all \
are met, and otherwise the condition that is not. It is run without input."""
CHECK_AGAIN = "That program failed:\n{printed}\nWrite it again, whole and in one ```python block."

EXTRACT = """\
Question:
{question}

What was answered:
{answer}

State the final answer that was given, in the form that the question asks for, and nothing else. Do not correct it \
and do not answer the question yourself. If no answer was given, say: none"""

NEXT = (
    "Reply with your next guidance: <<<Code>>>, <<<Text>>>, <<<your own words>>>, or <<<Return Answer>>> if the "
    "answer is right."
)
MOST_SHOWN = 8000
"""Characters of a reply or of printed output that anyone is shown."""


class Guidance(StrEnum):
    CODE = "code"
    TEXT = "text"
    OWN = "own words"
    RETURN = "return answer"


_NAMED = {
    "code": Guidance.CODE,
    "text": Guidance.TEXT,
    "return answer": Guidance.RETURN,
    "terminate": Guidance.RETURN,
}
_ORNAMENT = " \t\n.!*_\"'`<>"


def read_guidance(text: str) -> tuple[Guidance, str]:
    """(what kind, what to tell the TaskLLM). A steerer that says nothing leaves it at text."""
    reply = after_thinking(text)
    end = reply.rfind(">>>")
    start = reply.rfind("<<<", 0, max(end, 0))
    said = (reply[start + 3 : end] if start >= 0 else reply).strip()
    for part in (said, said.rpartition("\n")[2] if start < 0 else said):
        kind = _NAMED.get(part.strip(_ORNAMENT).lower())
        if kind is not None:
            return kind, {Guidance.CODE: CODE, Guidance.TEXT: TEXT}.get(kind, "")
    return (Guidance.OWN, said) if said else (Guidance.TEXT, TEXT)


def question_of(record: Record) -> str:
    return "\n\n".join(message["content"] for message in record.prompt)


def first_ask(record: Record, guidance: str) -> list[Message]:
    """The record's own prompt, with the guidance before its last turn."""
    turns = list(record.prompt)
    turns[-1] = Message(role=turns[-1]["role"], content=f"{guidance}\n\n{turns[-1]['content']}")
    return turns


def shortened(text: str, room: int = MOST_SHOWN) -> str:
    """Beginning and end; what is cut between them is said."""
    cut = len(text) - room
    if cut <= 0:
        return text
    return f"{text[: room // 2]}\n[... {cut} characters cut ...]\n{text[len(text) - room // 2 :]}"


def feedback(response: str, printed: str | None, complexity: str, checked: str) -> str:
    """What the steerer is shown of a TaskLLM's turn."""
    parts = [f"The TaskLLM answered:\n{shortened(response) or '(nothing)'}"]
    if printed is not None:
        parts.append(f"Its program was run:\n{printed}")
        parts.append(f"The program: {complexity}")
    if checked:
        parts.append(f"A program written to check the answer says:\n{checked}")
    return "\n\n".join([*parts, NEXT])
