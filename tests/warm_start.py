"""A Python that starts at once: a stand-in for `sys.executable` that has torch and transformers imported already.

Importing them costs 5 CPU-seconds, which each `reasonkit train` of a test would pay anew. A server, started by a
pytest process for itself, imports them once and forks itself for each command. Between caller and command stands a
client of 30 ms: a process as `subprocess` knows it, which hands over arguments, folder, environment and open files,
forwards signals, takes its command along when killed, and ends as its command does.

What is settled when an interpreter starts is that of the server: the hash seed, and what libraries read from the
environment on import. Commands that differ in those variables get a server each; a command whose own start is the
subject, or whose surroundings no other shares, takes `sys.executable`. So does the run with which test_resume.py
compares: that it is the same under another hash seed is to show. A command is the server's child, not its client's.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

PRELOADED = ("transformers.models.auto.modeling_auto", "reasonkit.train.launch", "reasonkit.train.dryrun")
READ_ON_IMPORT = ("HF_", "LD_", "MKL_", "OMP_", "PYTHON", "TORCH", "TRANSFORMERS_")
NO_THREAD_OF_ARROW = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def warm_python(environment: Mapping[str, str]) -> list[str]:
    """In place of [sys.executable], for `-m MODULE …`, `-c CODE` or `SCRIPT …` in this environment."""
    fixed = {name: value for name, value in environment.items() if name.startswith(READ_ON_IMPORT)}
    return [sys.executable, "-IS", __file__, "run", _server(frozenset(fixed.items()))]


@functools.cache
def _server(fixed: frozenset[tuple[str, str]]) -> str:
    """Starts one; gives its address, a name of the kernel's choice that is in no folder."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(READ_ON_IMPORT)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", str(listener.fileno())],
            env={**others, **dict(fixed), **NO_THREAD_OF_ARROW},
            stdin=subprocess.PIPE,  # ends with this process, and the server with it
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
        atexit.register(server.communicate)
        return bytes(listener.getsockname()[1:]).decode()


def serve(listener: socket.socket) -> list[str]:
    """Ends with stdin. Returns in a child for each command, with the command line that it is to run."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # or each child would copy every page to look for cycles
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork has none of its parent's threads"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: for the commands, not for their server
    signal.signal(signal.SIGCHLD, _bury)
    while 0 not in select.select([0, listener], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _attend(client)
        client.close()
    os._exit(0)


def _bury(_signum: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _attend(client: socket.socket) -> list[str]:
    """Returns in the child that is the command. Tells the client how it ends, or ends it if the client has gone."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as text:
        asked = json.loads(text.readline())
    if (command := os.fork()) == 0:
        client.close()
        return _become(asked, files)
    with contextlib.suppress(BrokenPipeError):
        client.sendall(b"%d\n" % command)
    if client in select.select([client, os.pidfd_open(command)], [], [])[0]:
        os.kill(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        client.sendall(b"%d\n" % code)
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int]) -> list[str]:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command: list[str] = asked["command"]
    return command


def run(address: str, command: list[str]) -> NoReturn:
    """The client."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"\0{address}")
        socket.send_fds(server, [b"!"], [0, 1, 2])
        asked = {"command": command, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        server.sendall(json.dumps(asked).encode() + b"\n")
        with server.makefile() as answers:
            process = int(answers.readline())
            for each in FORWARDED:
                signal.signal(each, lambda number, _: os.kill(process, number))
            code = int(answers.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], sys.argv[3:])
    sys.argv = serve(socket.socket(fileno=int(sys.argv[2])))
    match sys.argv:
        case ["-m", module, *_]:
            sys.path[0] = str(Path.cwd())
            del sys.argv[0]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *_]:
            sys.path[0] = ""
            del sys.argv[1]
            exec(code, {"__name__": "__main__"})
        case [script, *_]:
            sys.path[0] = str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")
