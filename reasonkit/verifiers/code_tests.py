"""Reads the tests of a programming problem, in whichever shape its source wrote them.

    {"inputs", "outputs"}              standard input and what must be printed
    {"inputs", "outputs", "fn_name"}   arguments and results of a function (or of a method of `Solution`)
    {"test_cases": [{"input", "output"}]}   standard input and output; each test earns its share
    {"functional"} or {"pytest"}       a script of assertions

and in all of them `language`, which is Python unless it says otherwise. The answer may be JSON text of one of
these.

A script of assertions is taken apart where it can be (`code_asserts`): the calls go into the sandbox, the expected
values stay outside. Where it cannot, it runs in a process of its own (`sandbox.ScriptJob`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonkit.records import Record
from reasonkit.sandbox import NotPlain, plain
from reasonkit.verifiers.code_asserts import Cases, Check, take_apart


@dataclass(frozen=True, slots=True)
class Calls:
    """A function, the arguments of each call, and what it must return."""

    entry: str
    inputs: tuple[Any, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Programs:
    """Texts for standard input, and what must be printed."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """Assertions that could not be taken apart: they run whole, in a process beside the solution's."""

    text: str
    pytest: bool


@dataclass(frozen=True, slots=True)
class Suite:
    tests: Calls | Programs | Cases | Script
    language: str
    prefix: str
    """Code that the source puts before every solution: imports, classes of nodes."""
    partial: bool
    """Every test earns its share of the score; otherwise all must pass."""


def suite_of(record: Record) -> Suite:
    """The tests of `record`; ValueError says why it has none that can be judged."""
    given = answer_of(record)
    language = str(given.get("language") or record.metadata.get("language") or "python").lower()
    prefix = str(record.metadata.get("prefix") or "")
    partial = "test_cases" in given or bool(record.metadata.get("partial"))
    tests = _tests(given, prefix)
    if not isinstance(tests, Programs) and language not in ("python", "py", "python3"):
        raise ValueError(f"calls and assertions are judged in Python; in {language}, give inputs and outputs")
    return Suite(tests, language, prefix, partial)


def answer_of(record: Record) -> Mapping[str, Any]:
    """The record's answer as an object; published files hold it as JSON text."""
    given = json.loads(record.answer) if isinstance(record.answer, str) else record.answer
    if not isinstance(given, Mapping):
        raise ValueError(f"the tests are a {type(given).__name__}, not an object")
    return given


def _tests(given: Mapping[str, Any], prefix: str) -> Calls | Programs | Cases | Script:
    if "functional" in given:
        script = str(given["functional"])
        return take_apart(script, prefix) or Script(script, pytest=False)
    if "pytest" in given:
        script = str(given["pytest"])
        return take_apart(script, prefix) or Script(script, pytest=True)
    if "test_cases" in given:
        cases = given["test_cases"]
        return programs([case["input"] for case in cases], [case["output"] for case in cases])
    if "inputs" not in given or "outputs" not in given:
        raise ValueError(f"no tests among {', '.join(sorted(given)) or 'nothing'}")
    if given.get("fn_name"):
        return calls(str(given["fn_name"]), given["inputs"], given["outputs"])
    return programs(given["inputs"], given["outputs"])


def programs(inputs: Sequence[Any], outputs: Sequence[Any]) -> Programs:
    _same_number(inputs, outputs)
    return Programs(tuple(map(_text, inputs)), tuple(map(_text, outputs)))


def calls(entry: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Calls:
    """Arguments as lists, or as LiveCodeBench's lines of JSON. Where every result stands in a list of its own, as
    in TACO and APPS, the bare result is right too."""
    _same_number(inputs, outputs)
    as_lines = all(isinstance(each, str) for each in inputs)
    arguments = [[json.loads(line) for line in each.split("\n")] if as_lines else each for each in inputs]
    results = [json.loads(each) if as_lines and isinstance(each, str) else each for each in outputs]
    wrapped = all(isinstance(each, list) and len(each) == 1 for each in results)
    checks = (Check(expected(each), "either" if wrapped else "equal") for each in results)
    return Calls(entry, tuple(arguments), tuple(checks))


def expected(value: Any) -> Any:
    try:
        return plain(value)
    except NotPlain as error:
        raise ValueError(f"an expected value cannot be compared: {error}") from error


def _same_number(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs make no tests")


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
