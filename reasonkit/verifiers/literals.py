"""Reads lists, dictionaries and numbers out of replies as data. Model text is parsed, never evaluated.

Also here: where the published graders of logic puzzles look for an answer, which their `reasoning360`
verifiers share. They take the last `<answer>` pair of the whole text, thinking included, and most of them
only where it stands on one line.
"""

from __future__ import annotations

import ast
import json
from typing import Any

MAX_CHARACTERS = 20_000
MAX_DEPTH = 20


def parse_literal(text: str) -> Any:
    """The value of JSON or of a Python literal. ValueError says why there is none."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, more than any answer needs")
    if _depth(text) > MAX_DEPTH:
        raise ValueError("it is nested deeper than any answer needs")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("it is neither JSON nor a literal") from error


def _depth(text: str) -> int:
    """The deepest nesting of brackets; those inside strings are counted too, which no real answer notices."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def published_answer(text: str, *, one_line: bool) -> str | None:
    """The last of the `<answer>…</answer>` pairs found from left to right, stripped."""
    found = None
    for part in text.split("\n") if one_line else [text]:
        at = 0
        while (start := part.find("<answer>", at)) >= 0 and (end := part.find("</answer>", start + 8)) >= 0:
            found, at = part[start + 8 : end].strip(), end + 9
    return found
