"""SandboxFusion's `/run_code` and `/submit`, on our own sandbox and in its languages.

`/submit` serves problems of standard input and output (CommonOJDataset) whose tests come with the request. Its
rules: the first fence of the language; output compared by lines, stripped and lower-cased, numbers to a relative
1e-5; the tests end at the first that fails unless `extra.run_all_cases` is set. Expected output stays outside the
sandbox. `custom_extract_logic`, which SandboxFusion executes in its own process, is refused.

A time limit is of CPU time here, so that a busy machine fails nobody; wall time is limited to about twice as much.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Record, Verdict
from reasonkit.sandbox import Limits, ProgramJob, ProgramResult, RunStatus, Sandbox
from reasonkit.verifiers.code import SUITE_CPU, TAGS, failed_infrastructure, printed
from reasonkit.verifiers.extract import fences
from reasonkit.verifiers.grader import Grader

Language = Literal["python", "pytest", "cpp", "java", "nodejs", "go", "rust", "bash"]
DATASET = "CommonOJDataset"
EXACT = ConfigDict(strict=True)
"""`false` is no number and `5` no text."""
LONGEST_SECONDS = 300.0
MOST_MEMORY_MB = 8192
CONCURRENT = 5
"""Tests of one submission at a time, as RL Verifier has it."""
_TIMEOUTS = (RunStatus.CPU_TIMEOUT, RunStatus.WALL_TIMEOUT)
_FINISHED = (RunStatus.OK, RunStatus.RUNTIME_ERROR, RunStatus.MEMORY, RunStatus.OUTPUT_LIMIT)


class RunCodeIn(BaseModel):
    model_config = EXACT

    code: str = Field(examples=['print("hello")'])
    language: Language
    stdin: str | None = None
    compile_timeout: float = Field(
        10, gt=0, le=LONGEST_SECONDS, description="Taken, but compiling has its own limit."
    )
    run_timeout: float = Field(10, gt=0, le=LONGEST_SECONDS)
    memory_limit_MB: int = Field(-1, ge=-1, le=MOST_MEMORY_MB, description="-1: 1024.")  # noqa: N815 (the wire's name)
    files: dict[str, str | None] = Field({}, description="Path to base64 content.")
    fetch_files: list[str] = []
    args: list[str] = []


class Command(BaseModel):
    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeOut(BaseModel):
    status: Literal["Success", "Failed", "SandboxError"]
    message: str = ""
    compile_result: Command | None = None
    run_result: Command | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = {}


class SubmitConfig(BaseModel):
    model_config = EXACT

    dataset_type: str | None = Field(None, examples=[DATASET])
    language: Language | None = None
    locale: str | None = None
    is_fewshot: bool | None = None
    compile_timeout: float | None = Field(None, gt=0, le=LONGEST_SECONDS)
    run_timeout: float | None = Field(None, gt=0, le=LONGEST_SECONDS)
    custom_extract_logic: str | None = Field(None, description="Refused.")
    provided_data: dict[str, Any] | list[dict[str, Any]] | None = None
    extra: dict[str, Any] = {}


class SubmitIn(BaseModel):
    model_config = EXACT

    dataset: str
    id: int | str
    completion: str
    config: SubmitConfig


class TestOut(BaseModel):
    passed: bool
    exec_info: RunCodeOut
    test_info: dict[str, Any] | None = None


class SubmitOut(BaseModel):
    id: int | str
    accepted: bool
    extracted_code: str
    full_code: str | None = None
    test_code: str | None = None
    tests: list[TestOut]
    extracted_type: Literal["fenced", "empty"] | None = None
    extra: dict[str, Any] | None = None


async def run_code(request: RunCodeIn, sandbox: Sandbox) -> RunCodeOut:
    """UsageError for what cannot be run at all; what fails here is a SandboxError, which clients ask again."""
    memory = 1024 if request.memory_limit_MB <= 0 else request.memory_limit_MB
    job = ProgramJob(
        request.language,
        request.code,
        request.stdin or "",
        _decoded(request.files),
        tuple(request.args),
        _limits(request.run_timeout, memory),
        tuple(request.fetch_files),
    )
    return await _run(job, sandbox)


async def _run(job: ProgramJob, sandbox: Sandbox) -> RunCodeOut:
    try:
        return answer_of(await sandbox.run(job))
    except UsageError:
        raise
    except ReasonkitError as error:
        return RunCodeOut(status="SandboxError", message=f"{error.message} ({error.hint})")


def answer_of(ran: ProgramResult) -> RunCodeOut:
    if ran.status is RunStatus.SANDBOX_ERROR:
        return RunCodeOut(status="SandboxError", message=ran.stderr)
    if ran.status is RunStatus.COMPILE_ERROR:
        compiled = Command(
            status="Finished", return_code=ran.return_code or 1, stdout="", stderr=ran.compile_output
        )
        return RunCodeOut(status="Failed", compile_result=compiled)
    compiled_well = Command(status="Finished", return_code=0, stdout=ran.compile_output, stderr="")
    return RunCodeOut(
        status="Success" if ran.status is RunStatus.OK else "Failed",
        message="" if ran.status in (RunStatus.OK, RunStatus.RUNTIME_ERROR) else ran.status.value,
        compile_result=compiled_well if ran.compile_output else None,
        run_result=Command(
            status="TimeLimitExceeded" if ran.status in _TIMEOUTS else "Finished",
            execution_time=ran.wall_seconds,
            return_code=ran.return_code,
            stdout=ran.stdout,
            stderr=ran.stderr,
        ),
        files={name: base64.b64encode(content).decode() for name, content in ran.files.items()},
    )


async def submit(request: SubmitIn, sandbox: Sandbox) -> SubmitOut:
    config = request.config
    cases = _cases(request)
    language = config.language
    assert language is not None
    code = await asyncio.to_thread(first_fence, request.completion, language)
    limits = _limits(config.run_timeout or 20.0, 1024)
    room = asyncio.Semaphore(CONCURRENT)

    async def test(case: dict[str, Any]) -> TestOut:
        async with room:
            ran = await _run(ProgramJob(language, code or "", case["input"]["stdin"], limits=limits), sandbox)
        passed = ran.status == "Success" and same_lines(_stdout(ran), case["output"]["stdout"])
        return TestOut(passed=passed, exec_info=ran, test_info=case)

    tests = await _until_first_failure(cases, test, everything=bool(config.extra.get("run_all_cases")))
    return SubmitOut(
        id=request.id,
        accepted=all(outcome.passed for outcome in tests),
        extracted_code=code or "",
        tests=tests,
        extracted_type="empty" if code is None else "fenced",
    )


async def _until_first_failure(cases: list[dict[str, Any]], test: Any, *, everything: bool) -> list[TestOut]:
    """The outcomes in order, up to the first that failed; jobs beyond it are given up."""
    tasks = [asyncio.create_task(test(case)) for case in cases]
    outcomes: list[TestOut] = []
    try:
        for task in tasks:
            outcomes.append(await task)
            if not outcomes[-1].passed and not everything:
                break
    finally:
        for task in tasks:
            task.cancel()
    return outcomes


def _cases(request: SubmitIn) -> list[dict[str, Any]]:
    """The tests that came along; UsageError says what is missing or refused."""
    config = request.config
    if config.custom_extract_logic:
        raise UsageError("custom_extract_logic is code for the server's own process: refused")
    if config.dataset_type not in (None, DATASET):
        raise UsageError(f"dataset_type {config.dataset_type[:80]} is not served; served: {DATASET}")
    if config.language is None:
        raise UsageError("config.language field must exist for CommonOJDataset, got None")
    rows = config.provided_data if isinstance(config.provided_data, list) else [config.provided_data]
    row = next((row for row in rows if (row and len(rows) == 1) or (row or {}).get("id") == request.id), None)
    if row is None or not isinstance(row.get("test"), list) or not row["test"]:
        raise UsageError(
            "config.provided_data must bring the tests: {id, test: [{input: {stdin}, output: {stdout}}]}"
        )
    for case in row["test"]:
        texts = [case.get(side, {}).get(stream) for side, stream in _STREAMS] if _is_case(case) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("a test is not of the form {input: {stdin: TEXT}, output: {stdout: TEXT}}")
    return list(row["test"])


_STREAMS = (("input", "stdin"), ("output", "stdout"))


def _is_case(case: Any) -> bool:
    return isinstance(case, dict) and all(isinstance(case.get(side), dict) for side, _ in _STREAMS)


def _stdout(ran: RunCodeOut) -> str:
    return (ran.run_result.stdout if ran.run_result else "") or ""


def _limits(seconds: float, memory_mb: int) -> Limits:
    return Limits(seconds, 2 * seconds + 1, memory_mb)


def _decoded(files: dict[str, str | None]) -> dict[str, bytes]:
    try:
        return {
            name: base64.b64decode(content, validate=True)
            for name, content in files.items()
            if content is not None
        }
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"the content of a file is not base64: {error}") from None


def first_fence(text: str, language: str) -> str | None:
    """The first closed fence of the language, or else the first of any."""
    blocks = list(fences(text))
    tags = TAGS.get(language, TAGS["python"])
    return next((body for tag, body in blocks if tag in tags), blocks[0][1] if blocks else None)


def same_lines(printed_: str, expected: str) -> bool:
    got, wanted = printed_.strip().split("\n"), expected.strip().split("\n")
    return len(got) == len(wanted) and all(map(_same_line, got, wanted))


def _same_line(got: str, wanted: str) -> bool:
    got, wanted = got.lower().strip(), wanted.lower().strip()
    if got == wanted:
        return True
    try:
        left, right = float(got), float(wanted)
    except ValueError:
        return False
    return math.isfinite(left) and abs(left - right) / max(abs(right), 1e-10) < 1e-5


def _fenced(text: str, language: str) -> str | None:
    """RL Verifier wants a fence that is named exactly so, and then leaves the choice to SandboxFusion."""
    named = any(tag == language for tag, _ in fences(text))
    return first_fence(text, language) if named else None


async def code_by_fusion_rules(record: Record, text: str, grader: Grader) -> Verdict:
    """The share of `test_cases` that pass, as RL Verifier has SandboxFusion judge them."""
    language = str(record.answer["language"])
    cases = [(str(case["input"]), str(case["output"])) for case in record.answer["test_cases"]]
    if not cases:
        raise ValueError("the record has no test cases")
    code = await asyncio.to_thread(_fenced, text, language)  # a long reply must not hold up the event loop
    if code is None:
        return Verdict.no_answer(f"the reply has no closed {language} fence")
    sandbox = await grader.sandbox()
    limits = Limits(SUITE_CPU, SUITE_CPU + 10)
    results = await printed(language, code, [stdin for stdin, _ in cases], limits, sandbox)
    failure = failed_infrastructure(results)
    if failure is not None:
        return Verdict.error(f"the sandbox failed: {failure}", tier=sandbox.tier)
    passed = sum(
        result.status is RunStatus.OK and same_lines(result.stdout, expected)
        for result, (_, expected) in zip(results, cases, strict=True)
    )
    details = {"tier": sandbox.tier, "tests": len(cases), "passed": passed}
    if passed == len(cases):
        return Verdict.correct(code, f"passed all {passed} tests", **details)
    return Verdict.wrong(code, f"passed {passed} of {len(cases)} tests", score=passed / len(cases), **details)
