"""Programs, by the tests that come with the problem, run in the sandbox and compared outside of it.

The solution is the last fence of the language after the thinking. Inputs go into the sandbox and plain outputs
come out; expected values never go in, so there is nothing in there to read, replace or outwit. A script of
assertions that cannot be taken apart runs in a process of its own, which asks the solution's for every call. Where
such a script compares two of the solution's own objects, the solution's word decides, and the verdict says so
(`tamperable`). A script that needs the solution in its own process makes the record unusable: an error.

CPU time decides, of each test and of the whole: a busy machine changes no verdict. A missing toolchain, like a
sandbox that cannot be opened, is an error that says what to install. `reasonkit.sandbox` says what stands
between the code and this machine; its tier is among the details of every verdict that ran code.

Mode `reasoning360` joins all fences, runs the assertions behind them and takes an exit status of 0 for success,
as the published grader does; so it can be cheated as that one can. Only a reply without code earns nothing
there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Verdict
from reasonkit.sandbox import (
    CallJob,
    CallResult,
    Limits,
    ProgramJob,
    ProgramResult,
    RunStatus,
    Sandbox,
    ScriptJob,
    ScriptResult,
)
from reasonkit.verifiers.code_asserts import ENTRY, Cases
from reasonkit.verifiers.code_compare import same_output, same_output_reasoning360
from reasonkit.verifiers.code_tests import Calls, Programs, Script, Suite, answer_of, programs, suite_of
from reasonkit.verifiers.extract import after_thinking, fences

if TYPE_CHECKING:
    from reasonkit.verifiers.grader import Grader

TEST_CPU = 6.0
"""CPU seconds of one test, as LiveCodeBench gives."""
SUITE_CPU = 30.0
LEAST_OUTPUT = 1_000_000
TIMEOUTS = (RunStatus.CPU_TIMEOUT, RunStatus.WALL_TIMEOUT)

TAGS: dict[str, tuple[str, ...]] = {
    "python": ("python", "py", "python3"),
    "cpp": ("cpp", "c++", "cxx", "cc"),
    "java": ("java",),
    "nodejs": ("nodejs", "javascript", "js", "node"),
    "go": ("go", "golang"),
    "rust": ("rust", "rs"),
    "bash": ("bash", "sh", "shell"),
}
"""What fences call each language."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one test. `reason` says what went wrong."""

    passed: bool
    status: RunStatus = RunStatus.OK
    reason: str = ""


async def verify_code(record: Record, text: str, grader: Grader) -> Verdict:
    """Whether the program in the reply passes the problem's tests."""
    suite = suite_of(record)
    code = solution_in(text, suite.language)
    if code is None:
        return Verdict.no_answer(f"the reply has no closed {suite.language} fence after its thinking")
    tamperable = False
    try:
        sandbox = await grader.sandbox()
        if isinstance(suite.tests, Script):
            outcome, tested = await _script(suite.tests, suite.prefix, code, sandbox)
            if tested.inseparable:
                return unusable(tested.inseparable)
            outcomes, tamperable = [outcome], tested.tamperable
        else:
            outcomes = await _outcomes(suite, code, sandbox)
    except ReasonkitError as error:
        return refused(error)
    return _verdict(suite, code, outcomes, {"tier": sandbox.tier, "tamperable": tamperable})


def solution_in(text: str, language: str) -> str | None:
    """The last fence of the language after the thinking; where none names a language, the last of all."""
    language = next((name for name, tags in TAGS.items() if language in tags), language)
    found = [(tag.split()[:1], body) for tag, body in fences(after_thinking(text)) if body.strip()]
    named = [body for tag, body in found if tag and tag[0] in TAGS.get(language, (language,))]
    unnamed = [body for tag, body in found if not tag]
    chosen = named or unnamed
    return chosen[-1] if chosen else None


def refused(error: ReasonkitError) -> Verdict:
    """The code could not be run at all: no sandbox, or no toolchain."""
    return Verdict.error(f"{error.message} ({error.hint})" if error.hint else error.message)


def unusable(why: str) -> Verdict:
    """The record's tests cannot be run apart from what they test, whatever the reply."""
    return Verdict.error(
        f"the tests cannot be kept apart from the solution: {why}; leave this record out", unusable=True
    )


def failed_infrastructure(results: Sequence[CallResult | ProgramResult]) -> str | None:
    """What the sandbox says of itself, where it and not the program failed."""
    for result in results:
        if result.status is RunStatus.SANDBOX_ERROR:
            return result.error if isinstance(result, CallResult) else result.stderr
    return None


def _verdict(suite: Suite, code: str, outcomes: Sequence[Outcome], about: dict[str, Any]) -> Verdict:
    total = 1 if isinstance(suite.tests, Script) else len(_inputs(suite.tests))
    passed = sum(outcome.passed for outcome in outcomes)
    details: dict[str, Any] = {**about, "tests": total, "passed": passed}
    failed = [(number, outcome) for number, outcome in enumerate(outcomes, 1) if not outcome.passed]
    if not failed:
        return Verdict.correct(code, f"passed all {total} tests", **details)
    for _, outcome in failed:
        if outcome.status is RunStatus.SANDBOX_ERROR:
            return Verdict.error(f"the sandbox failed: {outcome.reason}", **details)
    number, first = failed[0]
    reason = f"test {number} of {total}: {first.reason}"
    if suite.partial and passed:
        return Verdict.wrong(code, reason, score=passed / total, **details)
    if first.status in TIMEOUTS:
        return Verdict.timeout(reason, **details)
    return Verdict.wrong(code, reason, **details)


def _inputs(tests: Calls | Programs | Cases) -> tuple[Any, ...]:
    return tuple([index] for index in range(len(tests.checks))) if isinstance(tests, Cases) else tests.inputs


async def _outcomes(suite: Suite, code: str, sandbox: Sandbox) -> list[Outcome]:
    assert not isinstance(suite.tests, Script)
    whole = f"{suite.prefix}\n{code}" if suite.prefix else code
    count = len(_inputs(suite.tests))
    if suite.partial or count == 1:
        return await _some(suite, whole, range(count), sandbox)
    # One test decides about most wrong programs, and a program that never ends costs its time once, not each time.
    first = await _some(suite, whole, range(1), sandbox)
    return first if not first[0].passed else first + await _some(suite, whole, range(1, count), sandbox)


async def _some(suite: Suite, code: str, which: range, sandbox: Sandbox) -> list[Outcome]:
    tests = suite.tests
    assert not isinstance(tests, Script)
    inputs = _inputs(tests)[which.start : which.stop]
    if isinstance(tests, Programs):
        longest = max(len(tests.outputs[index]) for index in which)
        limits = _limits(max(LEAST_OUTPUT, 2 * longest))
        results = await printed(suite.language, code, inputs, limits, sandbox)
        return [
            _of_program(result, tests.outputs[index]) for result, index in zip(results, which, strict=True)
        ]
    source, entry = (f"{code}\n{tests.code}", ENTRY) if isinstance(tests, Cases) else (code, tests.entry)
    answers = await sandbox.call(CallJob(source, entry, inputs, _limits(), TEST_CPU))
    return [
        Outcome(tests.checks[index].accepts(answer.value), reason=f"returned {shown(answer.value)}")
        if answer.status is RunStatus.OK
        else _stopped(answer)
        for answer, index in zip(answers, which, strict=True)
    ]


def _limits(output_bytes: int = LEAST_OUTPUT) -> Limits:
    return Limits(cpu_seconds=SUITE_CPU, wall_seconds=SUITE_CPU + 10, output_bytes=output_bytes)


async def printed(
    language: str, code: str, inputs: Sequence[str], limits: Limits, sandbox: Sandbox
) -> list[CallResult]:
    """What the program prints for each input. Python runs all of them in one process, started once."""
    if language in TAGS["python"]:
        return await sandbox.call(CallJob(code, None, tuple(inputs), limits, TEST_CPU))
    one = Limits(TEST_CPU, TEST_CPU + 10, limits.memory_mb, limits.output_bytes)
    jobs = [ProgramJob(language, code, stdin, limits=one) for stdin in inputs]
    runs = await asyncio.gather(*map(sandbox.run, jobs))
    return [CallResult(run.status, None, run.stdout, run.compile_output or run.stderr) for run in runs]


def _of_program(result: CallResult, expected: str) -> Outcome:
    if result.status is not RunStatus.OK:
        return _stopped(result)
    return Outcome(same_output(result.stdout, expected), reason=f"printed {shown(result.stdout)}")


def _stopped(result: CallResult) -> Outcome:
    return Outcome(
        False, result.status, f"{result.status.value.replace('_', ' ')}: {last_words(result.error)}"
    )


def last_words(error: str) -> str:
    return error.strip().rpartition("\n")[2][-200:]


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


# Scripts that stay whole


async def _script(script: Script, prefix: str, code: str, sandbox: Sandbox) -> tuple[Outcome, ScriptResult]:
    result = await sandbox.test(ScriptJob(code, script.text, prefix, script.pytest, _limits()))
    if result.status is not RunStatus.OK:
        words = f"{result.status.value.replace('_', ' ')}: {last_words(result.error)}"
        return Outcome(False, result.status, words), result
    return Outcome(result.passed, reason=last_words(result.error)), result


# The published grader

_TAG_LINE = re.compile(r"\w*\n")


async def verify_code_reasoning360(record: Record, text: str, grader: Grader) -> Verdict:
    """As Reasoning360 scores it; no code earns nothing. What that grader does not know is judged strictly."""
    given = answer_of(record)
    if _unknown_to_reasoning360(record, given):
        return await verify_code(record, text, grader)
    code = joined_fences(text)
    if not code:
        return Verdict.no_answer("the reply has no fence with code")
    prefix = str(record.metadata.get("prefix") or "")
    try:
        sandbox = await grader.sandbox()
        if "inputs" in given and not {"functional", "pytest", "solution_file"} & given.keys():
            outcomes = await _printed_reasoning360(given, code, sandbox)
        else:
            outcomes = [await _exit_status(given, prefix, code, sandbox)]
    except ReasonkitError as error:
        return refused(error)
    details: dict[str, Any] = {"tier": sandbox.tier, "tamperable": True}
    for outcome in outcomes:
        if outcome.status is RunStatus.SANDBOX_ERROR:
            return Verdict.error(f"the sandbox failed: {outcome.reason}", **details)
        if not outcome.passed:
            return Verdict.wrong(code, outcome.reason or "the tests failed", **details)
    return Verdict.correct(code, "exit status 0, or the right output", **details)


def _unknown_to_reasoning360(record: Record, given: Mapping[str, Any]) -> bool:
    language = str(given.get("language") or record.metadata.get("language") or "python").lower()
    return language not in TAGS["python"] or bool({"fn_name", "test_cases"} & given.keys())


async def _printed_reasoning360(given: Mapping[str, Any], code: str, sandbox: Sandbox) -> list[Outcome]:
    tests = programs(given["inputs"], given["outputs"])
    results = await printed("python", code, tests.inputs, _limits(), sandbox)
    return [
        Outcome(same_output_reasoning360(result.stdout, expected), reason=f"printed {shown(result.stdout)}")
        if result.status is RunStatus.OK
        else _stopped(result)
        for result, expected in zip(results, tests.outputs, strict=True)
    ]


async def _exit_status(given: Mapping[str, Any], prefix: str, code: str, sandbox: Sandbox) -> Outcome:
    if "functional" in given:
        source = f"{prefix}\n{code}\n{given['functional']}"
        job = ProgramJob("python", source, limits=_limits())
    elif "solution_file" in given:
        job = ProgramJob("pytest", code, files={"solution.py": str(given["solution_file"]).encode()})
    else:
        job = ProgramJob("pytest", str(given["pytest"]), files={"solution.py": code.encode()})
    ran = await sandbox.run(job)
    return Outcome(ran.status is RunStatus.OK, ran.status, last_words(ran.stderr) or last_words(ran.stdout))


def joined_fences(text: str) -> str:
    """All fences after the first end of thinking, one below the other. A fence closes at the start of a line."""
    _, found, answer = text.partition("</think>")
    return "\n".join(_published_fences(answer if found else text)).strip()


def _published_fences(text: str) -> Iterator[str]:
    at = 0
    while (opened := text.find("```", at)) >= 0:
        first_line = _TAG_LINE.match(text, opened + 3)
        if first_line is None:
            at = opened + 1
            continue
        closed = text.find("\n```", first_line.end())
        if closed < 0:
            return
        yield text[first_line.end() : closed]
        at = closed + 4
