"""A ProgramJob on a worker: compile once for each source text, then run."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from reasonkit.errors import UsageError
from reasonkit.sandbox import toolchains
from reasonkit.sandbox.callrun import end_status
from reasonkit.sandbox.jobs import Limits, ProgramJob, ProgramResult, RunStatus
from reasonkit.sandbox.process import BOX_MB, JobCancelled, Order, Outcome, WorkerFailed
from reasonkit.sandbox.toolchains import COMPILE_LIMITS, Language

Perform = Callable[[Order], Outcome]
_COMPILE_BOX_MB = 512
_CACHE_BYTES = 256 << 20
_MEMORY_WORDS = (
    "std::bad_alloc",
    "MemoryError",
    "java.lang.OutOfMemoryError",
    "heap out of memory",
    "out of memory",
)


def check(job: ProgramJob, *, as_other_user: bool) -> None:
    """Refuses what cannot be run here, before anything is queued."""
    for name in job.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise UsageError(f"a job's file cannot be called {name!r}", "use a relative name without '..'")
    chosen = toolchains.language(job.language)
    toolchains.toolchain(chosen.name, as_other_user=as_other_user)


def run(job: ProgramJob, perform: Perform, box: str, compiler: Compiler) -> ProgramResult:
    chosen = toolchains.language(job.language)
    if chosen.name in ("python", "pytest"):
        return _run_python(job, chosen.name, perform, box)
    path = toolchains.toolchain(chosen.name)
    built = Built({chosen.source: job.code.encode()}, chosen.source)
    if chosen.compile is not None:
        built = compiler.build(job, chosen, chosen.compile(path), perform, box)
        if built.failure is not None:
            return built.failure
    limits = replace(job.limits, processes=job.limits.processes or chosen.processes)
    argv = [*chosen.run(path, built.main, limits.memory_mb), *job.args]
    files = {**job.files, **built.files}
    order = exec_order(argv, files, job.stdin, limits, box, path)
    order = replace(order, address_space=chosen.address_space and not limits.processes, collect=job.collect)
    order = replace(order, box_mb=_box_mb(job))
    return replace(result(perform(order), limits), compile_output=built.output)


def _run_python(job: ProgramJob, kind: str, perform: Perform, box: str) -> ProgramResult:
    name = "solution.py" if kind == "python" else "test_solution.py"
    files = {**job.files, name: job.code.encode("utf-8", "replace")}
    if kind == "pytest" and not job.code:
        del files[name]  # the tests are among the files
    header, content = payload(files, job.stdin, box)
    header |= {"args": list(job.args), "output_bytes": job.limits.output_bytes}
    order = Order(kind, header, job.limits, content, streams=True, collect=job.collect)
    order = replace(order, address_space=not job.limits.processes, box_mb=_box_mb(job))
    outcome = perform(order)
    done = replace(result(outcome, job.limits), tests=_outcomes(outcome) if kind == "pytest" else {})
    if kind == "pytest" and done.return_code == 0 and not _all_passed(outcome):
        return replace(done, status=RunStatus.RUNTIME_ERROR, return_code=None)
    return done


def _all_passed(outcome: Outcome) -> bool:
    """pytest's own report came, once, and counts at least one test and no failure: an early exit sends none."""
    if len(outcome.frames) != 1 or not isinstance(outcome.frames[0], dict):
        return False
    counts = outcome.frames[0].get("pytest")
    return isinstance(counts, dict) and counts.get("failed") == 0 and counts.get("passed", 0) != 0


def _outcomes(outcome: Outcome) -> dict[str, str]:
    """What pytest reported of each test, if a report came, and came once."""
    report = outcome.frames[0] if len(outcome.frames) == 1 else None
    tests = report.get("outcomes") if isinstance(report, dict) else None
    return {str(name): str(became) for name, became in tests.items()} if isinstance(tests, dict) else {}


def _box_mb(job: ProgramJob) -> int:
    """Room for the job's files twice over, and what it may write besides."""
    return BOX_MB + (2 * sum(map(len, job.files.values())) >> 20)


def payload(files: Mapping[str, bytes], stdin: str, box: str, path: str = "") -> tuple[dict[str, Any], bytes]:
    text = stdin.encode("utf-8", "replace")
    listing = [(name, len(content), 0o700) for name, content in files.items()]
    programs = f"{Path(path).parent}:" if path else ""
    env = {
        "PATH": f"{programs}/usr/local/bin:/usr/bin:/bin",
        "HOME": box,
        "TMPDIR": f"{box}/tmp",
        "LANG": "C.UTF-8",
    }
    return {"files": listing, "stdin_bytes": len(text), "env": env}, text + b"".join(files.values())


def exec_order(
    argv: list[str], files: Mapping[str, bytes], stdin: str, limits: Limits, box: str, path: str
) -> Order:
    header, content = payload(files, stdin, box, path)
    own = {
        "OPENSSL_CONF": "/dev/null",
        "GOCACHE": f"{box}/tmp/go",
        "GOPATH": f"{box}/tmp/gopath",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=mod",
    }
    header |= {"argv": argv, "env": header["env"] | own}
    return Order("exec", header, limits, content, streams=True)


def result(outcome: Outcome, limits: Limits) -> ProgramResult:
    stdout, stderr = outcome.stdout.decode("utf-8", "replace"), outcome.stderr.decode("utf-8", "replace")
    status, code = RunStatus.OK, outcome.code
    if outcome.overflow:
        status = RunStatus.OUTPUT_LIMIT
    elif outcome.stopped == "killed":
        raise JobCancelled
    elif not outcome.ready:
        status, stderr = RunStatus.SANDBOX_ERROR, outcome.complaint
    elif outcome.complaint:
        status, stderr = RunStatus.RUNTIME_ERROR, outcome.complaint
    elif outcome.stopped is not None or outcome.code != 0 or outcome.cpu > limits.cpu_seconds:
        status, words = end_status(outcome.stopped, outcome.code, outcome.cpu, limits.cpu_seconds)
        if status == RunStatus.RUNTIME_ERROR and any(word in stderr[-4000:] for word in _MEMORY_WORDS):
            status = RunStatus.MEMORY
        stderr = stderr if status == RunStatus.RUNTIME_ERROR else stderr or words
    return ProgramResult(
        status,
        stdout,
        stderr,
        code if outcome.stopped is None and not outcome.overflow else None,
        outcome.cpu,
        outcome.wall,
        files=outcome.files,
    )


@dataclass(frozen=True)
class Built:
    """What is left of compiling: files to place before a run, or the result that says why there are none."""

    files: Mapping[str, bytes]
    main: str
    output: str = ""
    failure: ProgramResult | None = None

    @property
    def size(self) -> int:
        return sum(len(content) for content in self.files.values())


class Compiler:
    """Compiles each source once, also when many of its tests arrive together; forgets the least used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Future[Built]] = OrderedDict()

    def build(self, job: ProgramJob, chosen: Language, argv: list[str], perform: Perform, box: str) -> Built:
        key = _key(job, chosen)
        with self._lock:
            waiting = self._known.get(key)
            if waiting is not None:
                self._known.move_to_end(key)
            else:
                mine: Future[Built] = Future()
                self._known[key] = mine
        if waiting is not None:
            return waiting.result()
        try:
            built = _compile(job, chosen, argv, perform, box)
        except BaseException as error:
            with self._lock:
                del self._known[key]
            mine.set_exception(error)
            raise
        mine.set_result(built)
        self._forget_old()
        return built

    def _forget_old(self) -> None:
        with self._lock:
            done = [
                (key, future.result().size + 4096) for key, future in self._known.items() if future.done()
            ]
            excess = sum(size for _, size in done) - _CACHE_BYTES
            for key, size in done:
                if excess <= 0:
                    return
                del self._known[key]
                excess -= size


def _key(job: ProgramJob, chosen: Language) -> str:
    digest = hashlib.sha256(f"{chosen.name}\0{job.code}".encode("utf-8", "replace"))
    for name, content in sorted(job.files.items()):
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _compile(job: ProgramJob, chosen: Language, argv: list[str], perform: Perform, box: str) -> Built:
    source, main = chosen.source, "main"
    if chosen.name == "java":
        source, main = toolchains.java_names(job.code)
        argv = [*argv, source]
    files = {**job.files, source: job.code.encode("utf-8", "replace")}
    order = exec_order(argv, files, "", COMPILE_LIMITS, box, argv[0])
    order = replace(order, address_space=False, box_mb=_COMPILE_BOX_MB, collect=chosen.artifacts)
    done = result(perform(order), COMPILE_LIMITS)
    output = done.stdout + done.stderr
    if done.status == RunStatus.SANDBOX_ERROR:
        raise WorkerFailed(output)
    if done.status != RunStatus.OK or not done.files:
        failed = ProgramResult(RunStatus.COMPILE_ERROR, return_code=done.return_code, compile_output=output)
        return Built({}, main, output, failed)
    return Built(done.files, main, output)
