"""Inside the job: run the code, call it for each input, send each outcome away as plain data.

Everything here runs next to the untrusted code, which may take all of it apart. That gains it nothing:
it holds inputs only, and whatever it writes to the channel is taken for its own answers. What honest
programs need is that calls do not disturb each other: streams and what programs commonly change are put back.
"""

from __future__ import annotations

import atexit
import builtins
import io
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from reasonkit.sandbox.plain import NotPlain, plain
from reasonkit.sandbox.wire import frame, write_all

_ERROR_CHARACTERS = 2000
FIRST_RESERVED = 200
_FILE = "solution.py"


class _OutputLimit(BaseException):
    """Not an Exception: a program's own `except Exception` should not swallow it."""


@dataclass
class Outcome:
    status: str = "ok"
    value: Any = None
    stdout: str = ""
    error: str = ""
    cpu: float = 0.0


class Channel:
    """Where outcomes go. `write` takes bytes; `limit` bounds the value and the text of one outcome."""

    def __init__(self, write: Callable[[bytes], None], limit: int) -> None:
        self._write = write
        self.limit = limit

    def send(self, index: int, outcome: Outcome) -> None:
        message = {"index": index, **vars(outcome)}
        encoded = frame(message)
        if len(encoded) > self.limit and len(json.dumps(outcome.value)) > self.limit:
            encoded = frame(
                {**message, "status": "output_limit", "value": None, "stdout": outcome.stdout[:200]}
            )
        self._write(encoded)

    def loaded(self) -> None:
        """From here on a process that ends has been ended by one input."""
        self._write(frame({"loaded": True}))

    def send_all(self, status: str, error: str) -> None:
        """One outcome for this and every later input."""
        self._write(frame({"all": True, "status": status, "error": error}))


def serve(job: dict[str, Any], streams: Streams | None, channel: int) -> NoReturn:
    """Runs a whole job and ends the process."""
    run(job, streams, Channel(lambda data: write_all(channel, data), job["output_bytes"]))
    os._exit(0)


def run(job: dict[str, Any], streams: Streams | None, channel: Channel) -> None:
    """`streams` is for programs (no `entry`), whose inputs are texts."""
    try:
        code = compile(job["code"], _FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        channel.send_all("compile_error", describe(error))
        return
    inputs = enumerate(job["inputs"], start=job["first"])
    if streams is not None:
        channel.loaded()
        for index, text in inputs:
            _arm(job["per_input_cpu"])
            _run_program(code, index, text, streams, channel)
        return
    _arm(job["per_input_cpu"])
    find = _load_entry(code, job["entry"], channel)
    if find is None:
        return
    channel.loaded()
    for index, given in inputs:
        _arm(job["per_input_cpu"])
        _call_once(find, index, given, channel)


def _arm(seconds: float | None) -> None:
    """The kernel ends the process when one input has used up its CPU time; the rest then runs in a new one."""
    if seconds is not None:
        signal.setitimer(signal.ITIMER_PROF, seconds)


# Functions


def _load_entry(code: types.CodeType, entry: str, channel: Channel) -> Callable[[], Any] | None:
    """A function that gives the callable for one call: methods get a new object each time."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    sys.stdin = io.StringIO("")
    sys.stdout = io.TextIOWrapper(
        Capture(channel.limit), encoding="utf-8", errors="replace", write_through=True
    )
    try:
        exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for
    except BaseException as error:  # whatever a program does is a result
        channel.send_all(status_of(error), describe(error))
        return None
    names = entry.split(".")
    if len(names) == 1 and names[0] not in module.__dict__ and "Solution" in module.__dict__:
        names = ["Solution", *names]

    def find() -> Any:
        found = module.__dict__[names[0]]
        for name in names[1:]:
            found = getattr(found() if isinstance(found, type) else found, name)
        return found

    try:
        find()
    except BaseException as error:
        channel.send_all("runtime_error", f"no callable '{entry}': {describe(error)}")
        return None
    return find


def _call_once(find: Callable[[], Any], index: int, given: Any, channel: Channel) -> None:
    args, kwargs = (given, {}) if isinstance(given, list) else (given["args"], given.get("kwargs", {}))
    capture = Capture(channel.limit)
    sys.stdout = io.TextIOWrapper(capture, encoding="utf-8", errors="replace", write_through=True)
    random.seed(0)
    began = _cpu()
    outcome = Outcome()
    try:
        outcome.value = plain(find()(*args, **kwargs))
    except NotPlain as error:
        outcome.status, outcome.error = "runtime_error", f"the result cannot be compared: {error}"
    except BaseException as error:
        outcome.status, outcome.error = status_of(error), describe(error)
    outcome.cpu = _cpu() - began
    outcome.stdout = capture.text()
    channel.send(index, outcome)


# Programs


class Streams:
    """Descriptors 0 and 1 as files in memory: `open(0)`, `os.write(1, ...)` and `print` meet the same bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._input, self._output = (
            FIRST_RESERVED,
            FIRST_RESERVED + 1,
        )  # programs close and reuse the low numbers
        for reserved in (self._input, self._output):
            memory = os.memfd_create("stream")
            os.dup2(memory, reserved, inheritable=False)
            os.close(memory)

    def feed(self, text: str) -> None:
        for memory, standard in ((self._input, 0), (self._output, 1)):
            os.ftruncate(memory, 0)
            os.lseek(memory, 0, os.SEEK_SET)
            os.dup2(memory, standard)
        write_all(self._input, text.encode("utf-8", "replace"))
        os.lseek(self._input, 0, os.SEEK_SET)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115

    def output(self) -> tuple[str, bool]:
        """What was written, and whether it was more than allowed."""
        size = os.fstat(self._output).st_size
        data = os.pread(self._output, min(size, self.limit), 0)
        return data.decode("utf-8", "replace"), size > self.limit


def _run_program(code: types.CodeType, index: int, text: str, streams: Streams, channel: Channel) -> None:
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = _FILE
    sys.modules["__main__"] = module
    sys.argv = [_FILE]
    streams.feed(text)
    random.seed(0)
    names, recursion = dict(builtins.__dict__), sys.getrecursionlimit()
    began = _cpu()
    outcome = Outcome()
    try:
        try:
            exec(code, module.__dict__)  # noqa: S102
        finally:
            finish_like_the_interpreter()
    except SystemExit as error:
        if error.code not in (None, 0):
            outcome.status, outcome.error = "runtime_error", f"exit {describe(error)}"
    except BaseException as error:
        outcome.status, outcome.error = status_of(error), describe(error)
    module.__dict__.clear()  # files that the program left open are flushed, as at the end of a process
    outcome.cpu = _cpu() - began
    outcome.stdout, too_much = streams.output()
    if too_much:
        outcome.status = "output_limit"
    for added in builtins.__dict__.keys() - names.keys():
        del builtins.__dict__[added]
    builtins.__dict__.update(names)
    sys.setrecursionlimit(recursion)
    channel.send(index, outcome)


def finish_like_the_interpreter() -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None and not stream.closed:
            stream.flush()


# Both


def _cpu() -> float:
    """Under a CPU limit the process clock advances by scheduler ticks only; the thread's is exact."""
    return max(time.process_time(), time.thread_time())


class Capture(io.BytesIO):
    """Printed text, up to a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        if self.tell() > self._limit:
            raise _OutputLimit
        return super().write(data)

    def text(self) -> str:
        try:
            return self.getvalue()[: self._limit].decode("utf-8", "replace")
        except ValueError:  # the program closed its standard output
            return ""


def status_of(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    return "output_limit" if isinstance(error, _OutputLimit) else "runtime_error"


def describe(error: BaseException) -> str:
    """The last lines of the traceback; an exception's own `__str__` may do anything."""
    try:
        return "".join(traceback.format_exception(error, limit=-3))[-_ERROR_CHARACTERS:]
    except BaseException:
        return type(error).__name__
