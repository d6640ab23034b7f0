"""Predicted outputs and inputs of programs: CodeI/O's questions, and ReasonIO's deductive, abductive, inductive
ones.

The prediction is JSON in the last fence, in the answer tag or the box, or the last object of the reply; with or
without the key that was asked for (`{"output": 3}`, `"output": 3`, `3`). It is compared with exact types (`1`
is not `true`, `"3"` is not `3`), floats within a relative difference of 1e-6. ReasonIO writes some values as
text of a literal, on both sides; there a text stands for the literal in it.

Many inputs may lead to the same output. A predicted input that is not the gold one is right where the reference
program gives the expected output for it; the program comes with the data, runs in the sandbox all the same, and
needs `reference`, `entry_point` and `output` in the metadata. Without them equality decides.

Mode `reasoning360` reads the first fence, thinking included, and compares as Python does (`1 == True`). It does
not re-run anything, and no prediction is not `null`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Verdict
from reasonkit.sandbox import CallJob, Limits, NotPlain, RunStatus, plain
from reasonkit.verifiers.code import TIMEOUTS, failed_infrastructure, last_words, refused, shown
from reasonkit.verifiers.code_compare import same_value
from reasonkit.verifiers.extract import after_thinking, fences, last_box, last_tagged
from reasonkit.verifiers.literals import MAX_CHARACTERS, MAX_DEPTH, parse_literal

if TYPE_CHECKING:
    from reasonkit.verifiers.grader import Grader

ASKED = ("output", "input")
LIMITS = Limits(cpu_seconds=5.0, wall_seconds=15.0)


@dataclass(frozen=True, slots=True)
class Question:
    asked: str
    gold: Any
    literals_as_text: bool
    """ReasonIO's: a text may stand for the literal that it holds."""


async def verify_codeio(record: Record, text: str, grader: Grader) -> Verdict:
    """Whether the reply predicts the program's output, or an input that leads to the given output."""
    question = question_of(record)
    found = prediction(text, question.asked)
    if found is None:
        return Verdict.no_answer(f"the reply states no {question.asked} as JSON")
    (value,) = found
    answer = shown(value)
    if _same(value, question):
        return Verdict.correct(answer)
    if question.asked == "output" or not {"reference", "entry_point", "output"} <= record.metadata.keys():
        return Verdict.wrong(answer, f"the {question.asked} is {shown(question.gold)}")
    if not isinstance(value, dict):
        return Verdict.wrong(answer, "an input is an object that names the arguments")
    return await _run_again(record, value, grader)


def question_of(record: Record) -> Question:
    """What is asked for and the gold value; ValueError where the record holds neither."""
    given = record.answer
    if isinstance(given, Mapping) and "solution" in given:
        solution = given["solution"]
        given = json.loads(solution) if isinstance(solution, str) else solution
        return Question(*_only_pair(given), literals_as_text=True)
    if isinstance(given, str):
        opened = given.strip()
        given = json.loads(opened if opened.startswith("{") else f"{{{opened}}}")
    return Question(*_only_pair(given), literals_as_text=False)


def _only_pair(given: Any) -> tuple[str, Any]:
    for asked in ASKED:
        if isinstance(given, Mapping) and asked in given:
            return asked, given[asked]
    raise ValueError(f"the answer names neither an output nor an input: {shown(given)}")


def prediction(text: str, asked: str) -> tuple[Any] | None:
    """The value that the reply predicts, by the plainest mark that holds JSON."""
    reply = after_thinking(text)
    blocks = [body for _, body in fences(reply) if body.strip()]
    marked = [blocks[-1] if blocks else None, last_tagged(reply), last_box(reply)]
    for candidate in marked:
        if candidate is not None and (found := _value(_inside_fence(candidate), asked)) is not None:
            return found
    if any(candidate is not None for candidate in marked):
        return None
    last = last_object(reply)
    return None if last is None else _value(last, asked)


def _inside_fence(text: str) -> str:
    """A tag may hold a fence."""
    blocks = [body for _, body in fences(text) if body.strip()]
    return blocks[-1] if blocks else text


def _value(text: str, asked: str) -> tuple[Any] | None:
    text = text.strip()
    for candidate in (text, f"{{{text}}}") if text.startswith(f'"{asked}"') else (text,):
        try:
            value = parse_literal(candidate)
        except ValueError:
            continue
        try:
            value = plain(value)
        except NotPlain:
            return None
        if isinstance(value, dict) and asked in value:
            return (value[asked],)
        other = ASKED[1 - ASKED.index(asked)]
        return None if isinstance(value, dict) and value.keys() == {other} else (value,)
    return None


def last_object(text: str) -> str | None:
    """The last `{…}` of the text with its braces balanced, wherever in a sentence it stands."""
    end = text.rfind("}")
    depth = 0
    for at in range(end, max(-1, end - MAX_CHARACTERS), -1):
        depth += {"}": 1, "{": -1}.get(text[at], 0)
        if depth > MAX_DEPTH:
            return None
        if depth == 0:
            return text[at : end + 1] if end >= 0 else None
    return None


def _same(value: Any, question: Question) -> bool:
    if same_value(value, plain(question.gold)):
        return True
    return question.literals_as_text and same_value(_meant(value), plain(_meant(question.gold)))


def _meant(value: Any) -> Any:
    """The literal that a text holds. `true` and `True` are both a truth."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return plain(parse_literal(value))
    except (ValueError, NotPlain):
        return value


async def _run_again(record: Record, predicted: dict[str, Any], grader: Grader) -> Verdict:
    metadata, answer = record.metadata, shown(predicted)
    job = CallJob(
        str(metadata["reference"]), str(metadata["entry_point"]), ({"args": [], "kwargs": predicted},), LIMITS
    )
    try:
        sandbox = await grader.sandbox()
        results = await sandbox.call(job)
    except ReasonkitError as error:
        return refused(error)
    failure, (result,) = failed_infrastructure(results), results
    if failure is not None:
        return Verdict.error(f"the sandbox failed: {failure}", tier=sandbox.tier)
    if result.status in TIMEOUTS:
        return Verdict.timeout("the program does not end in time with this input", tier=sandbox.tier)
    if result.status is not RunStatus.OK:
        reason = f"the program fails with this input: {last_words(result.error)}"
        return Verdict.wrong(answer, reason, tier=sandbox.tier)
    if same_value(result.value, plain(metadata["output"])):
        return Verdict.correct(answer, "another input with the same output", tier=sandbox.tier)
    return Verdict.wrong(answer, f"with this input the output is {shown(result.value)}", tier=sandbox.tier)


# The published grader


def verify_codeio_reasoning360(record: Record, text: str) -> Verdict:
    """As Reasoning360 scores it, by equality alone; no prediction earns nothing, whatever the gold value."""
    question = question_of(record)
    if question.literals_as_text:  # ReasonIO's, which that grader does not know
        found = prediction(text, question.asked)
        if found is None:
            return Verdict.no_answer(f"the reply states no {question.asked} as JSON")
        (value,), right = found, _same(found[0], question)
    else:
        value = next(_published_predictions(text), None)
        if value is None:
            return Verdict.no_answer("the reply holds no JSON")
        right = bool(_normal(value) == _normal(question.gold))
    if right:
        return Verdict.correct(shown(value))
    return Verdict.wrong(shown(value), f"the {question.asked} is {shown(question.gold)}")


def _published_predictions(text: str) -> Iterator[Any]:
    """The first fence as JSON, or else its last object."""
    block = _first_fence(text)
    for candidate in (block, _last_complete(block)):
        try:
            value = json.loads(candidate or "")
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            return  # the published grader asks a value that is no object for its keys, and fails
        yield value.get("output", value.get("input", value))


def _first_fence(text: str) -> str:
    opened = text.find("```")
    closed = text.find("```", opened + 3) if opened >= 0 else -1
    return (text[opened + 3 : closed].removeprefix("json") if closed >= 0 else text).strip()


def _last_complete(text: str) -> str | None:
    depth, start, found = 0, 0, None
    for at, character in enumerate(text):
        if character == "{":
            start = start if depth else at
            depth += 1
        elif character == "}" and depth:
            depth -= 1
            found = found if depth else (start, at + 1)
    return None if found is None else text[found[0] : found[1]].replace("\n", "")


def _normal(value: Any) -> Any:
    """Text of JSON containers and truths stand for them, at every depth."""
    if isinstance(value, list):
        return [_normal(each) for each in value]
    if isinstance(value, dict):
        return {key: _normal(each) for key, each in value.items()}
    if not isinstance(value, str):
        return value
    stripped = value.strip()
    if (stripped[:1], stripped[-1:]) in (("{", "}"), ("[", "]")):
        try:
            return _normal(json.loads(stripped))
        except ValueError:
            pass
    return stripped.lower() == "true" if stripped.lower() in ("true", "false") else value
