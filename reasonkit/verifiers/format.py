"""The form of a reply, apart from what it says: tags once each and in order, a box, a fence.

`verify_format` judges what `answer` asks for: any of `think`, `answer`, `box`, `fence` and `fence:LANGUAGE`.
`reward_server_format` is the rule that RL Verifier adds to its scores with a weight of 0.1. Both look at the
whole reply, thinking included. What a reward for form may weigh is the recipe's business.
"""

from __future__ import annotations

import re

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, fences, last_box, last_tagged

END_OF_SENTENCE = "<｜end▁of▁sentence｜>"
ASKS = ("think", "answer", "box", "fence")
_CJK = re.compile("[\u4e00-\u9fff\u3400-\u4dbf\u3040-\u30ff\uac00-\ud7af]")


def verify_format(record: Record, text: str) -> Verdict:
    """Every part that the record asks for is there once, well formed and in order."""
    asked = [record.answer] if isinstance(record.answer, str) else list(record.answer)
    for part in asked:
        if part.partition(":")[0] not in ASKS:
            raise ValueError(f"unknown part '{part}' of a format; known: {', '.join(ASKS)}")
        missing = _missing(part, text)
        if missing:
            return Verdict.wrong(part, missing)
    return Verdict.correct(",".join(asked))


def _missing(part: str, text: str) -> str:
    name, _, language = part.partition(":")
    if name == "think":
        opening = text.find("<think>")
        if text.count("<think>") != 1 or text.count("</think>") != 1 or opening > text.find("</think>"):
            return "there is not exactly one <think>…</think>"
        return "text stands before <think>" if text[:opening].strip() else ""
    reply = after_thinking(text)
    if name == "answer":
        if (
            text.count("<answer>") != 1
            or text.count("</answer>") != 1
            or not (last_tagged(reply) or "").strip()
        ):
            return "there is not exactly one filled <answer>…</answer> after the thinking"
        return "text follows </answer>" if reply.rpartition("</answer>")[2].strip() else ""
    if name == "box":
        return "" if (last_box(reply) or "").strip() else "there is no filled box after the thinking"
    found = any(body.strip() and (not language or tag == language) for tag, body in fences(reply))
    return "" if found else f"there is no closed {language or 'code'} fence after the thinking"


def reward_server_format(text: str, kind: str, language: str = "") -> float:
    """RL Verifier's format score: no CJK letters, a thinking part, DeepSeek's end mark, and the answer's shell."""
    if _CJK.search(text) or END_OF_SENTENCE not in text:
        return 0.0
    opening = text.find("<think>")
    if opening < 0 or text.find("</think>", opening) < 0:
        return 0.0
    if kind == "math_verifiable":
        return float(last_box(text) is not None)
    if kind == "code_verifiable":
        return float(any(not language or tag == language for tag, _ in fences(text)))
    return 1.0
