"""Inside the job: become one program. Another language by exec; Python in the process that was forked."""

from __future__ import annotations

import os
import sys
import traceback
import types
from typing import Any, NoReturn

from reasonkit.sandbox.wire import frame, write_all
from reasonkit.sandbox.worker import calls

_FILE = "solution.py"


def place_files(listing: list[tuple[str, int, int]], content: bytes) -> None:
    """Writes files (name, size, mode) into the current folder; names were checked to stay below it."""
    position = 0
    for name, size, mode in listing:
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        write_all(descriptor, content[position : position + size])
        os.close(descriptor)
        position += size


def standard_input(text: bytes) -> None:
    memory = os.memfd_create("stdin")
    write_all(memory, text)
    os.lseek(memory, 0, os.SEEK_SET)
    os.dup2(memory, 0)
    os.close(memory)


def run_python(args: list[str]) -> NoReturn:
    """`solution.py` as `__main__`, with the streams, arguments and exit status of an interpreter."""
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = [_FILE, *args]
    sys.path.insert(0, os.getcwd())
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = _FILE
    sys.modules["__main__"] = module
    status = 0
    try:
        with open(_FILE, encoding="utf-8") as file:
            code = compile(file.read(), _FILE, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for
    except SystemExit as error:
        status = _exit_status(error)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        calls.finish_like_the_interpreter()
    except BaseException:
        traceback.print_exc()
        status = status or 120
    os._exit(status)


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return int(error.code) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def run_pytest(args: list[str], channel: int) -> NoReturn:
    """pytest in this process. The counts go out apart from the exit status: a test that ends the process early
    produces none. Code under test shares this process and could still send counts of its own."""
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)  # noqa: SIM115
    ran = pytest_here(args)
    sys.stdout.flush()
    write_all(channel, frame({"pytest": ran.counts, "status": ran.status, "outcomes": ran.outcomes}))
    os._exit(ran.status)


class Ran:
    """What pytest reports while it runs, as one of its plugins."""

    def __init__(self) -> None:
        self.status = 0
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.outcomes: dict[str, str] = {}
        """Of each test by its name; a set-up or tear-down that failed makes the test one that failed."""
        self.first_failure = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if self.outcomes.get(report.nodeid) != "failed":
                self.outcomes[report.nodeid] = report.outcome
            if report.outcome == "failed" and not self.first_failure:
                self.first_failure = str(report.longreprtext)[-500:]

    @property
    def all_passed(self) -> bool:
        return self.status == 0 and self.counts["failed"] == 0 and self.counts["passed"] > 0


def pytest_here(args: list[str]) -> Ran:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins of this machine have no part in a verdict
    import pytest  # before the job's own folder is searched, where a file may have its name

    for folder in ("src", ""):
        sys.path.insert(0, os.path.join(os.getcwd(), folder).rstrip("/"))
    ran = Ran()
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", ".", "-c", "/dev/null", *args]
    ran.status = int(pytest.main(options, plugins=[ran]))
    return ran
