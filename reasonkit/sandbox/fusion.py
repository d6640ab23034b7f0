"""A client for SandboxFusion servers, and a sandbox made of one.

Wire-compatible with `/run_code` and `/submit`. Such a server measures wall time only, so a limit of
`wall_seconds` is all that it is given; what walls it has is its own affair. Calls go through a small program that
answers in the same frames as a local worker, so verdicts are reached by the same code. `custom_extract_logic` is
refused: servers execute it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Any

import httpx
import tenacity

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.sandbox import callrun
from reasonkit.sandbox.interface import Sandbox
from reasonkit.sandbox.jobs import (
    CallJob,
    CallResult,
    Limits,
    ProgramJob,
    ProgramResult,
    RunStatus,
    ScriptJob,
    ScriptResult,
)
from reasonkit.sandbox.process import Order, Outcome
from reasonkit.sandbox.wire import BrokenFrame, FrameReader

_ATTEMPTS = 5
_COMPILE_SECONDS = 60.0
_ANSWER_SECONDS = 30.0  # on top of what compiling and running may take
_CONCURRENT = 64
_DEFAULT_LIMITS = Limits()
_OVERLOADED = (429, 500, 502, 503, 504)


class _TryAgain(Exception):
    """The server says that it, not the program, failed."""


@dataclass(frozen=True)
class Run:
    """One command that a server ran: compiling or running."""

    status: str  # Finished, Error, TimeLimitExceeded
    return_code: int | None
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class RunCodeReply:
    status: str  # Success, Failed
    message: str
    compiled: Run | None
    ran: Run | None
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class SubmitReply:
    accepted: bool
    extracted_code: str
    tests: tuple[Mapping[str, Any], ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


class FusionClient:
    """Blocking and thread-safe; retries what the server calls its own failure, then raises ReasonkitError."""

    def __init__(self, url: str, *, first_pause: float = 1.0) -> None:
        self.url = url.rstrip("/")
        self._first_pause = first_pause
        limits = httpx.Limits(max_connections=_CONCURRENT, max_keepalive_connections=_CONCURRENT)
        self._http = httpx.Client(limits=limits)

    def close(self) -> None:
        self._http.close()

    def ping(self) -> None:
        try:
            answer = self._http.get(f"{self.url}/v1/ping", timeout=5.0)
        except httpx.HTTPError as error:
            raise self._failure(f"no answer: {error}") from error
        if answer.status_code != 200 or "pong" not in answer.text:
            raise self._failure(f"it answered {answer.status_code} {answer.text[:100]!r} to a ping")

    def run_code(
        self,
        code: str,
        language: str,
        *,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        fetch_files: tuple[str, ...] = (),
        limits: Limits = _DEFAULT_LIMITS,
    ) -> RunCodeReply:
        body = {
            "code": code,
            "language": language,
            "stdin": stdin,
            "compile_timeout": _COMPILE_SECONDS,
            "run_timeout": limits.wall_seconds,
            "memory_limit_MB": limits.memory_mb,
            "files": {name: base64.b64encode(content).decode() for name, content in (files or {}).items()},
            "fetch_files": list(fetch_files),
        }
        reply = self._post("/run_code", body, _COMPILE_SECONDS + limits.wall_seconds)
        fetched = {name: base64.b64decode(content) for name, content in (reply.get("files") or {}).items()}
        return RunCodeReply(
            str(reply["status"]),
            str(reply.get("message", "")),
            _run(reply.get("compile_result")),
            _run(reply.get("run_result")),
            fetched,
        )

    def submit(
        self, dataset: str, row_id: str | int, completion: str, config: Mapping[str, Any]
    ) -> SubmitReply:
        """Has the server extract and judge a completion by one of its datasets, as `config` says."""
        if config.get("custom_extract_logic"):
            raise UsageError(
                "custom_extract_logic is code that the server would execute", "extract the code first"
            )
        body = {"dataset": dataset, "id": row_id, "completion": completion, "config": dict(config)}
        seconds = float(config.get("run_timeout") or _COMPILE_SECONDS) + float(
            config.get("compile_timeout") or 0
        )
        tests = len((config.get("provided_data") or {}).get("test", ())) or 1
        reply = self._post("/submit", body, seconds * tests)
        return SubmitReply(
            bool(reply["accepted"]),
            str(reply.get("extracted_code") or ""),
            tuple(reply.get("tests") or ()),
            reply.get("extra") or {},
        )

    def _post(self, path: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_TryAgain, httpx.TransportError)),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_exponential(self._first_pause, max=30.0)
            + tenacity.wait_random(0, self._first_pause),
            reraise=True,
        )
        try:
            return attempts(self._post_once, path, body, seconds)
        except (_TryAgain, httpx.TransportError) as error:
            last = f"{type(error).__name__} {error}"
            raise self._failure(f"{path} failed {_ATTEMPTS} times, last: {last}") from error

    def _post_once(self, path: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        answer = self._http.post(f"{self.url}{path}", json=body, timeout=seconds + _ANSWER_SECONDS)
        if answer.status_code in _OVERLOADED:
            raise _TryAgain(f"HTTP {answer.status_code}")
        try:
            reply = answer.json()
        except ValueError:
            reply = None
        if answer.status_code != 200 or not isinstance(reply, dict):
            raise self._failure(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        if reply.get("status") == "SandboxError":
            raise _TryAgain(f"SandboxError: {reply.get('message', '')}")
        return reply

    def _failure(self, what: str) -> ReasonkitError:
        return ReasonkitError(
            f"the SandboxFusion server {self.url} does not work: {what}", f"curl {self.url}/v1/ping"
        )


def _run(reply: Any) -> Run | None:
    if not isinstance(reply, dict):
        return None
    return Run(
        str(reply.get("status")),
        reply.get("return_code"),
        str(reply.get("stdout") or ""),
        str(reply.get("stderr") or ""),
        float(reply.get("execution_time") or 0.0),
    )


class RemoteSandbox(Sandbox):
    tier = "remote"

    def __init__(self, url: str, *, first_pause: float = 1.0) -> None:
        self.client = FusionClient(url, first_pause=first_pause)
        self.client.ping()
        self._threads = ThreadPoolExecutor(_CONCURRENT, thread_name_prefix="sandbox-remote")

    async def call(self, job: CallJob) -> list[CallResult]:
        callrun.check(job)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, callrun.run, job, self._perform, "/tmp")

    async def run(self, job: ProgramJob) -> ProgramResult:
        if job.args or any(set(pattern) & set("*?[") for pattern in job.collect):
            raise UsageError(
                f"a SandboxFusion server takes no arguments and fetches files by name: {job.args} {job.collect}",
                "read standard input instead, and name the files to collect",
            )
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)

    async def test(self, job: ScriptJob) -> ScriptResult:
        raise ReasonkitError(
            f"a SandboxFusion server runs a solution and its tests in one process, where the solution of"
            f" {len(job.code)} characters could read and change its {len(job.script)} characters of tests",
            "judge these records where a local tier holds: reasonkit doctor",
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self.client.close()

    def _perform(self, order: Order) -> Outcome:
        marker = secrets.token_hex(8)
        reply = self.client.run_code(calling_program(order, marker), "python", limits=order.limits)
        return outcome_of(reply, order, marker)

    def _run(self, job: ProgramJob) -> ProgramResult:
        reply = self.client.run_code(
            job.code,
            job.language,
            stdin=job.stdin,
            files=job.files,
            fetch_files=job.collect,
            limits=job.limits,
        )
        return program_result(reply, job.limits)


def calling_program(order: Order, marker: str) -> str:
    """A self-contained Python program that does what a local worker's process does with the same job."""
    root = package_files("reasonkit.sandbox")
    sources = {
        "reasonkit.sandbox.plain": (root / "plain.py").read_text(),
        "reasonkit.sandbox.wire": (root / "wire.py").read_text(),
        "reasonkit.sandbox.worker.calls": (root / "worker" / "calls.py").read_text(),
    }
    package = base64.b64encode(json.dumps([sources, dict(order.header)]).encode()).decode()
    return f"""
import base64, json, os, sys, types
sources, job = json.loads(base64.b64decode({package!r}))
for name in ("reasonkit", "reasonkit.sandbox", "reasonkit.sandbox.worker", *sources):
    sys.modules[name] = types.ModuleType(name)
    exec(compile(sources.get(name, ""), name, "exec"), sys.modules[name].__dict__)
calls = sys.modules["reasonkit.sandbox.worker.calls"]
answers = os.dup(1)
def send(data):
    calls.write_all(answers, b"\\n{marker}" + base64.b64encode(data) + b"\\n")
streams = calls.Streams(job["output_bytes"]) if job["entry"] is None else None
calls.run(job, streams, calls.Channel(send, job["output_bytes"]))
sys.stdout = sys.__stdout__
os._exit(0)
"""


def outcome_of(reply: RunCodeReply, order: Order, marker: str) -> Outcome:
    ran = reply.ran
    if ran is None:
        raise ReasonkitError(
            f"the SandboxFusion server ran nothing: {reply.message}", "look at the server's log"
        )
    outcome = Outcome(ready=True, code=ran.return_code or 0, cpu=0.0, wall=ran.seconds)
    if ran.status == "TimeLimitExceeded":
        outcome.stopped = "wall"
    frames = FrameReader(7 * order.limits.output_bytes + (1 << 16))
    try:
        for line in ran.stdout.splitlines():
            if line.startswith(marker):
                data = base64.b64decode(line.removeprefix(marker), validate=True)
                outcome.frames += [message for message, _ in frames.feed(data)]
    except (BrokenFrame, ValueError) as error:
        outcome.broken = str(error)
    return outcome


def program_result(reply: RunCodeReply, limits: Limits) -> ProgramResult:
    compile_output = "" if reply.compiled is None else reply.compiled.stdout + reply.compiled.stderr
    if reply.compiled is not None and (
        reply.compiled.status != "Finished" or reply.compiled.return_code != 0
    ):
        code = reply.compiled.return_code
        return ProgramResult(RunStatus.COMPILE_ERROR, return_code=code, compile_output=compile_output)
    ran = reply.ran
    if ran is None:
        return ProgramResult(RunStatus.SANDBOX_ERROR, stderr=reply.message, compile_output=compile_output)
    status = RunStatus.OK if ran.return_code == 0 else RunStatus.RUNTIME_ERROR
    if ran.status == "TimeLimitExceeded":
        status = RunStatus.WALL_TIMEOUT
    elif len(ran.stdout.encode("utf-8", "replace")) > limits.output_bytes:
        status = RunStatus.OUTPUT_LIMIT
    return ProgramResult(
        status,
        ran.stdout[: limits.output_bytes],
        ran.stderr[: limits.output_bytes],
        ran.return_code,
        wall_seconds=ran.seconds,
        compile_output=compile_output,
        files=reply.files,
    )
