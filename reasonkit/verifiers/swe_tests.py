"""Software patches, by the project's own tests: the reply's diff is applied to the repository, the tests are run.

    {"files": {path: text}, "tests": {path: text}, "fail_to_pass": [...], "pass_to_pass": [...]}

`repository` (a folder, or an archive, on this machine) may stand for `files`, `test_patch` (a diff) for `tests`,
and SWE-bench's capitals for the names. With `command`, that is run by bash and must exit with 0; without, pytest
runs the named tests. There is no network.

Tests, and what decides how they are run (`conftest.py`, pytest's settings, start-up hooks of Python), are put back
from the record after the patch was applied, whatever the patch did to them. Still the patched code runs in the
process of the tests, and tests of a project cannot be run any other way: every verdict says `tamperable`.
"""

from __future__ import annotations

import asyncio
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Verdict
from reasonkit.sandbox import Limits, ProgramJob, ProgramResult, RunStatus
from reasonkit.verifiers.code import last_words, refused
from reasonkit.verifiers.extract import after_thinking, fences
from reasonkit.verifiers.patches import BadPatch, apply_patch, read_patch

if TYPE_CHECKING:
    from reasonkit.verifiers.grader import Grader

LIMITS = Limits(cpu_seconds=300.0, wall_seconds=600.0, memory_mb=4096, output_bytes=4_000_000, processes=True)
MAX_FILES = 6000
MAX_BYTES = 64 << 20
TAGS = ("diff", "patch")
DECIDING = frozenset(
    {"conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "pytest.toml"}
    | {"sitecustomize.py", "usercustomize.py", "pytest.py", "unittest.py", "_pytest"}
)
"""Names that decide how tests are run, wherever they stand."""
_REPORTED = re.compile(
    r"^(?:(?P<before>PASSED|FAILED|ERROR|SKIPPED)\s+(?P<one>\S+)"
    r"|(?P<two>\S.*?)\s+(?:\.\.\.\s+)?(?P<after>PASSED|FAILED|ERROR|SKIPPED|ok|FAIL)\b)"
)
"""A line of `pytest -rA`, `pytest -v` or `python -m unittest -v`."""


@dataclass(frozen=True, slots=True)
class Task:
    files: Mapping[str, bytes]
    tests: Mapping[str, bytes]
    """Files that are put back."""
    command: str | None
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


async def verify_swe_tests(record: Record, text: str, grader: Grader) -> Verdict:
    """Whether the repository passes its tests with the reply's patch."""
    task = await asyncio.to_thread(task_of, record)
    patch = patch_in(text)
    if patch is None:
        return Verdict.no_answer(
            "the reply has no unified diff: no closed ```diff fence, and none without one"
        )
    try:
        files = await asyncio.to_thread(patched, task, patch)
    except BadPatch as error:
        return Verdict.wrong(patch, f"the patch does not apply: {error}")
    wanted = (*task.fail_to_pass, *task.pass_to_pass)
    job = (
        ProgramJob("bash", task.command, files=files, limits=LIMITS)
        if task.command
        else _pytest(files, wanted, task)
    )
    try:
        sandbox = await grader.sandbox()
        ran = await sandbox.run(job)
    except ReasonkitError as error:
        return refused(error)
    details = {"tier": sandbox.tier, "tamperable": True}
    if ran.status is RunStatus.SANDBOX_ERROR:
        return Verdict.error(f"the sandbox failed: {ran.stderr}", **details)
    if ran.status in (RunStatus.CPU_TIMEOUT, RunStatus.WALL_TIMEOUT):
        return Verdict.timeout(f"the tests took too long: {last_words(ran.stderr)}", **details)
    return _verdict(task, patch, ran, details)


def _verdict(task: Task, patch: str, ran: ProgramResult, details: dict[str, Any]) -> Verdict:
    outcomes = dict(ran.tests) if task.command is None else dict(reported(ran.stdout))
    fixed = [name for name in task.fail_to_pass if outcomes.get(name) == "passed"]
    kept = [name for name in task.pass_to_pass if outcomes.get(name) == "passed"]
    details |= {"fail_to_pass": f"{len(fixed)}/{len(task.fail_to_pass)}"}
    details |= {"pass_to_pass": f"{len(kept)}/{len(task.pass_to_pass)}"}
    missing = [name for name in (*task.fail_to_pass, *task.pass_to_pass) if outcomes.get(name) != "passed"]
    if missing:
        became = outcomes.get(missing[0], "not run")
        return Verdict.wrong(patch, f"{len(missing)} tests do not pass; {missing[0]}: {became}", **details)
    named = bool(task.fail_to_pass or task.pass_to_pass)
    if ran.status is not RunStatus.OK and not (
        named and task.command
    ):  # other tests than those named may fail
        said = last_words(ran.stdout) or last_words(ran.stderr)
        return Verdict.wrong(patch, f"the tests ended with {ran.status.value}: {said}", **details)
    return Verdict.correct(patch, "the tests pass", **details)


def patch_in(text: str) -> str | None:
    """The last diff fence after the thinking, or else the last fence or the reply's end if that is a diff."""
    reply = after_thinking(text)
    found = [(tag, body) for tag, body in fences(reply) if body.strip()]
    tagged = [body for tag, body in found if tag.split()[:1] and tag.split()[0] in TAGS]
    if tagged:
        return tagged[-1]
    bodies = [body for _, body in found] or [
        reply[reply.find("diff --git ") :] if "diff --git " in reply else ""
    ]
    for body in reversed(bodies):
        if "\n@@ -" in body and "+++ " in body:
            return body
    return None


def patched(task: Task, patch: str) -> dict[str, bytes]:
    """The repository with the patch, and with the record's own tests."""
    files = apply_patch(patch, task.files)
    for name in [name for name in files if _decides(name)]:
        del files[name]
    files |= {name: content for name, content in task.files.items() if _decides(name)}
    return {**files, **task.tests}


def _decides(name: str) -> bool:
    return bool(DECIDING.intersection(PurePosixPath(name).parts)) or name.endswith(".pth")


def _pytest(files: Mapping[str, bytes], wanted: Sequence[str], task: Task) -> ProgramJob:
    arguments = tuple(wanted or [name for name in task.tests if name.endswith(".py")])
    return ProgramJob("pytest", "", files=files, args=arguments, limits=LIMITS)


def reported(output: str) -> Iterator[tuple[str, str]]:
    """What became of each test, by a runner's printed report."""
    words = {"PASSED": "passed", "ok": "passed", "SKIPPED": "skipped"}
    for line in output.splitlines():
        found = _REPORTED.match(line[:2000])
        if found is not None:
            said = found["before"] or found["after"]
            yield found["one"] or found["two"], words.get(said, "failed")


# The record


def task_of(record: Record) -> Task:
    answer = json.loads(record.answer) if isinstance(record.answer, str) else record.answer
    given = {str(name).lower(): value for name, value in {**record.metadata, **answer}.items()}
    files = _files(given)
    tests = {str(name): str(content).encode() for name, content in (given.get("tests") or {}).items()}
    if given.get("test_patch"):
        changed = [patch.new for patch in read_patch(str(given["test_patch"])) if patch.new]
        after = apply_patch(str(given["test_patch"]), files)
        tests |= {name: after[name] for name in changed}
    names = {key: _names(given.get(key)) for key in ("fail_to_pass", "pass_to_pass")}
    if not (tests or given.get("command") or any(names.values())):
        raise ValueError("the record has no tests: give tests, test_patch, fail_to_pass or command")
    # Test files that are the repository's own are put back as well.
    own = {name.partition("::")[0] for each in names.values() for name in each}
    tests = {**{name: files[name] for name in own if name in files}, **tests}
    command = given.get("command")
    return Task(
        files, tests, None if command is None else str(command), names["fail_to_pass"], names["pass_to_pass"]
    )


def _names(value: Any) -> tuple[str, ...]:
    listed = json.loads(value) if isinstance(value, str) else value or []
    return tuple(str(name) for name in listed)


def _files(given: Mapping[str, Any]) -> Mapping[str, bytes]:
    if given.get("files") is not None:
        return {str(name): str(content).encode() for name, content in given["files"].items()}
    if given.get("repository") is None:
        raise ValueError("the record has no repository: give files, or the path of a folder or an archive")
    return repository(str(given["repository"]))


@lru_cache(maxsize=8)
def repository(path: str) -> Mapping[str, bytes]:
    """The regular files of a folder, a tar or a zip archive, without version control and links."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = _of_folder(place)
    elif place.is_file() and zipfile.is_zipfile(place):
        found = _of_zip(place)
    elif place.is_file() and tarfile.is_tarfile(place):
        found = _of_tar(place)
    else:
        raise ValueError(f"the repository {path} is no folder, tar or zip archive on this machine")
    files: dict[str, bytes] = {}
    size = 0
    for name, content in found:
        size += len(content)
        files[name] = content
        if len(files) > MAX_FILES or size > MAX_BYTES:
            raise ValueError(f"the repository {path} has over {MAX_FILES} files or {MAX_BYTES >> 20} MB")
    return files


def _of_folder(place: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        if ".git" not in name.parts and path.is_file() and not path.is_symlink():
            yield name.as_posix(), path.read_bytes()


def _of_zip(place: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield _inside(member.filename), archive.read(member)


def _of_tar(place: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(place) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield _inside(member.name), content.read()


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the archive holds {name!r}, which lies outside of it")
    return path.as_posix()
