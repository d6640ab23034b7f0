"""RL Verifier's `POST /reward`, so that its clients (II-VERL) work unchanged; and the batch shape of its ancestor.

What differs from RL Verifier, always towards the safer side: the prompt is cut off at any chat template's assistant
marker, not only DeepSeek's; a box inside the thinking is no answer; what Math-Verify takes for right and is not
(docs/concepts/verification.md) scores 0; the judge sees the answer and not the reply, and its Yes is confirmed.
Programs are judged by SandboxFusion's rules (fusion.py), as RL Verifier has them judged.

The wire has no way to say that the infrastructure failed. Such a request is answered with 500 and counted; II-VERL
takes that for 0.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from reasonkit.errors import ReasonkitError
from reasonkit.judge.fusion import code_by_fusion_rules
from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, answer_line, fences, last_box, last_tagged, reply_of
from reasonkit.verifiers.format import END_OF_SENTENCE, reward_server_format
from reasonkit.verifiers.grader import Grader
from reasonkit.verifiers.swe import verify_swe

ANSWER_SHARE, FORMAT_SHARE = 0.9, 0.1
END_MARKS = (END_OF_SENTENCE, "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "</s>")
"""What closes a decoded reply; the last fence or box is found before it."""
JUDGED_CHARACTERS = 512
SHORT = 10_000
"""Characters that cost the event loop less than a millisecond or so."""
FORM = f"{__name__}:verify_form"
NO_QUESTION = "(not given)"


class RewardIn(BaseModel):
    model_config = ConfigDict(strict=True)

    llm_output: str = Field(description="The reply; text up to the last assistant marker is dropped.")
    verification_info: str = Field(
        description="JSON text: {type, answer}.",
        examples=['{"type": "math_verifiable", "answer": {"value": "152"}}'],
    )


class RewardOut(BaseModel):
    score: float = Field(ge=0, le=1)


class RewardBatchIn(BaseModel):
    """The oldest shape: mathematical answers, many at a time."""

    model_config = ConfigDict(strict=True)

    solutions: list[str]
    ground_truths: list[str]


class RewardBatchOut(BaseModel):
    scores: list[float]


class Unusable(Exception):
    """422: the verification_info says nothing that can be verified."""


class NotServed(Exception):
    """400: what this type needs is not there."""


def parse_info(text: str) -> Mapping[str, Any]:
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        raise Unusable("The verification info must be in parsable JSON format") from None
    if not isinstance(info, dict) or "answer" not in info or "type" not in info:
        raise Unusable("The verification info must contain 'answer' and 'type' fields")
    if info["type"] not in TYPES if isinstance(info["type"], str) else True:
        raise Unusable(f"The verification type {str(info['type'])[:80]} is not supported.")
    return info


def record_of(info: Mapping[str, Any]) -> Record:
    """A problem as RL Verifier states it. KeyError or TypeError where its answer lacks what its type needs."""
    kind, answer = info["type"], info["answer"]
    if kind == "math_verifiable":
        return math_record(str(answer["value"]))
    if kind == "code_verifiable":
        tests = {"test_cases": list(answer["test_cases"]), "language": answer.get("language", "python")}
        return Record("", kind, (), tests, f"{__name__}:verify_code_verifiable")
    if kind == "swe_verifiable":
        files = {name: str(answer[name]).strip() for name in ("input", "ground_truth")}
        return Record("", kind, (), files, f"{__name__}:verify_swe_verifiable")
    if kind == "llm_judge":
        return Record("", kind, (), str(answer["value"]), f"{__name__}:verify_llm_judge")
    instructions = {name: answer[name] for name in ("instruction_id_list", "kwargs")}
    return Record("", kind, (), instructions, "ifeval", {"partial": True})


def math_record(gold: str) -> Record:
    return Record("", "math_verifiable", (), gold, "math")


TYPES = ("math_verifiable", "code_verifiable", "swe_verifiable", "llm_judge", "if_verifier")


def parts_of(llm_output: str) -> tuple[str, str]:
    """(the reply as it came, the reply without the marks that end it)."""
    reply = reply_of(llm_output).strip()
    text, previous = reply, None
    while text != previous:
        previous = text
        for mark in END_MARKS:
            text = text.removesuffix(mark).rstrip()
    return reply, text


async def form_of(info: Mapping[str, Any], reply: str, grader: Grader) -> float:
    """RL Verifier's score for form. Long replies are looked at by a killable worker, not in the event loop."""
    if END_OF_SENTENCE not in reply:
        return 0.0
    asked = {"type": info["type"], "language": str(info.get("language", "python"))}
    record = Record("", "", (), asked, FORM)
    if len(reply) <= SHORT:
        return verify_form(record, reply).score
    return (await grader.verify(record, reply)).score


def verify_form(record: Record, text: str) -> Verdict:
    score = reward_server_format(text, record.answer["type"], record.answer["language"])
    return Verdict.correct(None) if score else Verdict.wrong(None, "not in RL Verifier's form")


def verify_swe_verifiable(record: Record, text: str) -> Verdict:
    """As the `swe` verifier, with the file in the last named fence stripped, as RL Verifier compares it."""
    if record.answer["input"] == record.answer["ground_truth"]:
        return Verdict.wrong(None, "the gold patch changes nothing")
    named = [(language, body) for language, body in fences(after_thinking(text)) if language]
    return verify_swe(record, f"```{named[-1][0]}\n{named[-1][1].strip()}\n```" if named else text)


async def verify_code_verifiable(record: Record, text: str, grader: Grader) -> Verdict:
    """The share of the tests that the first fence of the language passes; no such fence scores 0."""
    return await code_by_fusion_rules(record, text, grader)


async def verify_llm_judge(record: Record, text: str, grader: Grader) -> Verdict:
    """Whether the judge finds the reply's answer equal to the reference. No question comes with it."""
    answer = await asyncio.to_thread(_said, text)  # a long reply must not hold up the event loop
    if not any(map(str.isalnum, answer)):
        return Verdict.no_answer("the reply says nothing after its thinking")
    judge = await grader.judge()
    if await judge.decide(NO_QUESTION, str(record.answer), answer):
        return Verdict.correct(answer, f"the judge {judge.model} says so")
    return Verdict.wrong(answer, f"the judge {judge.model} says no")


def _said(text: str) -> str:
    """The answer that the reply marks, or else what it ends with."""
    reply = after_thinking(text).strip()
    marked = (last_box(reply), last_tagged(reply), answer_line(reply))
    return next((part for part in marked if part), reply[-JUDGED_CHARACTERS:])


async def require(kind: str, grader: Grader) -> None:
    """NotServed where the type needs what this server does not have, as RL Verifier says at the first request."""
    try:
        if kind == "code_verifiable":
            await grader.sandbox()
        elif kind == "llm_judge":
            await grader.judge()
    except ReasonkitError as error:
        raise NotServed(f"Failed to initialize {kind} verifier: {error.message.splitlines()[0]}") from None
