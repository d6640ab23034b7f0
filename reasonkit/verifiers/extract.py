"""Finds the answer in a reply: boxes, tags, fences, what follows the thinking.

Everything here is one pass with `str.find` and friends. Replies are hostile (twenty thousand boxes, five
thousand unclosed braces, a megabyte of `<answer>`), and a regular expression that backtracks on them costs
minutes. Nothing here decides what is right, only where the answer stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

THINK_END = "</think>"
BOXES = ("\\boxed", "\\fbox")
_BRACES = re.compile(r"\\[\\{}]|[{}]")
"""Braces; an escaped character is taken as a whole, so that its brace is not seen."""

PROMPT_ENDS = (
    "<|start_header_id|>assistant<|end_header_id|>",
    "<|im_start|>assistant",
    "<start_of_turn>model",
    "<｜Assistant｜>",
    "<|Assistant|>",
    "\nAssistant:",
)
"""Where the assistant's turn opens, per chat template."""


def reply_of(transcript: str) -> str:
    """The last assistant turn of a transcript that still holds the prompt; the whole text if no turn is marked."""
    starts = ((transcript.rfind(marker), len(marker)) for marker in PROMPT_ENDS)
    at, length = max(starts)
    return transcript if at < 0 else transcript[at + length :]


def after_thinking(text: str, end: str = THINK_END) -> str:
    """What follows the last end of thinking. A reply that opened its thinking and never closed it has none."""
    _, found, answer = text.rpartition(end)
    if found:
        return answer
    start = end.replace("/", "", 1)
    return "" if start != end and text.lstrip().startswith(start) else text


def last_box(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`, braces balanced. An escaped brace does not count."""
    best: tuple[int, str] | None = None
    for start, end in _boxes(text):
        if best is None or start > best[0]:
            best = (start, text[start:end])
    return None if best is None else best[1]


def last_tagged(text: str, tag: str = "answer") -> str | None:
    """What stands between the last `</tag>` and the `<tag>` before it."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else text[start + len(tag) + 2 : end]


def after_marker(text: str, marker: str = "####") -> str | None:
    """The rest of the line after the last `marker`."""
    at = text.rfind(marker)
    return None if at < 0 else text[at + len(marker) :].partition("\n")[0].strip()


def last_line(text: str) -> str | None:
    """The last line that is not blank."""
    stripped = text.rstrip()
    return stripped[stripped.rfind("\n") + 1 :].strip() or None


def final_answer(text: str, think_end: str = THINK_END) -> str | None:
    """The answer by the plainest mark that the reply bears: a tag, a box, `####`, `#`, or else its last line."""
    reply = after_thinking(text, think_end)
    for found in (last_tagged(reply), last_box(reply), after_marker(reply), after_marker(reply, "#")):
        if found is not None:
            return found.strip()
    return last_line(reply)


def fences(text: str) -> Iterator[tuple[str, str]]:
    """(language, content) of each closed ``` fence. A fence closes on a line of its own; the last may stay open."""
    language: str | None = None
    body: list[str] = []
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if language is None and mark.startswith("```"):
            language, body = mark[3:].strip().lower(), []
        elif language is not None and mark == "```":
            yield language, "".join(body)
            language = None
        elif language is not None:
            body.append(line)


def _boxes(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the content of each complete box, in the order of their closing braces."""
    first = min((at for at in map(text.find, BOXES) if at >= 0), default=len(text))
    opened: list[int] = []
    for brace in _BRACES.finditer(text, first):
        position = brace.start()
        if brace.group() == "{":
            is_box = text[max(0, position - 8) : position].rstrip().endswith(BOXES)
            opened.append(position + 1 if is_box else -1)
        elif brace.group() == "}" and opened:
            start = opened.pop()
            if start >= 0:
                yield start, position


def answer_line(text: str) -> str | None:
    """What the last line says after `Answer:` or `Final answer:`; None where it does not open with that."""
    line = (last_line(text) or "").strip("*_ ")
    label, colon, answer = line.partition(":")
    if not colon or label.strip("*_ ").lower() not in (
        "answer",
        "final answer",
        "the answer is",
        "the final answer is",
    ):
        return None
    return answer.strip("*_ ") or None
