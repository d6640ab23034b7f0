"""The worker: walls itself in, then forks once for each job that is ordered. It never looks into a job.

Orders and reports are single messages on a control socket that no job inherits. With an order come the
descriptors that become the job's channel and streams. That the walls stood before untrusted code ran is told
through a pipe that is closed by then, so a job cannot pass its own failure off as one of the sandbox.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any, NoReturn

from reasonkit.sandbox import wire
from reasonkit.sandbox.worker import (
    asked,
    asking,
    box,
    calls,
    confine,
    jail,
    kernel,
    landlock,
    programs,
    watch,
)

_MESSAGE = 1 << 16
_SETUP_FAILED = 97
_STANDS = b"R"  # the walls stand; then the CPU seconds that it took
_PRELOADED = (
    "abc", "array", "ast", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "numbers", "operator",
    "random",
    "re", "statistics", "string", "struct", "textwrap", "threading", "time", "typing",
)  # fmt: skip


def main(control_descriptor: int) -> NoReturn:
    control = socket.socket(fileno=control_descriptor)
    config = json.loads(control.recv(_MESSAGE))
    try:
        worker = Worker(control, config)
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        os._exit(1)
    control.send(json.dumps({"ready": True, **worker.facts()}).encode())
    with contextlib.suppress(watch.HungUp):
        while worker.serve_one():
            pass
    worker.box.remove()
    os._exit(0)


class Worker:
    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        tier = config["tier"]
        visible = tuple(config["visible"])
        _import_for_solutions(config["site_packages"])
        if tier == "T1":
            jail.enter(visible)
        else:
            jail.settle()
        own_root, filtered = tier in ("T1", "bwrap"), tier != "unsafe"
        self.control = control
        self.private_pids = os.getpid() == 1
        self.box = box.Box(jail.BOX, mounted=True) if tier == "T1" else box.make(config["box_parent"])
        self.confinement = confine.Confinement(
            confine.Walls(
                own_root=own_root,
                private_pids=self.private_pids,
                filtered=filtered,
                landlock_abi=landlock.abi() if filtered else 0,
                max_tasks=confine.max_tasks(private_user=own_root or os.getuid() >= 61184),
                visible=visible,
                box=self.box.path,
                box_is_mounted=self.box.mounted,
            )
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.collect()
        gc.freeze()
        gc.disable()

    def facts(self) -> dict[str, Any]:
        walls = self.confinement.walls
        return {
            "landlock_abi": walls.landlock_abi,
            "private_pids": walls.private_pids,
            "uid": os.getuid(),
            "box": walls.box,
        }

    def serve_one(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self.control, _MESSAGE, 3)
        if not message:
            return False
        job = json.loads(message)
        if job.get("kill"):
            return True  # it crossed with the report of the job that it meant
        self.box.open(job["box_mb"])
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            self._become(job, descriptors, told)
        os.close(told)
        for descriptor in descriptors:
            os.close(descriptor)
        told_so_far = watch.await_preparation(pid, ready)
        stands = told_so_far.startswith(_STANDS)
        own_cpu = float(told_so_far.removeprefix(_STANDS).partition(b"\n")[0]) if stands else 0.0
        ending = watch.supervise(pid, job, self.control, self.box, own_cpu, private_pids=self.private_pids)
        complaint = told_so_far.partition(b"\n")[2] if stands else told_so_far
        complaint += os.read(ready, 4096)
        os.close(ready)
        collected = self.box.collect(job["collect"], job["collect_bytes"])
        report = {
            "id": job["id"],
            **dataclasses.asdict(ending),
            "ready": stands,
            "complaint": complaint.decode("utf-8", "replace"),
            "collected": [name for name, _ in collected],
        }
        socket.send_fds(
            self.control, [json.dumps(report).encode()], [descriptor for _, descriptor in collected]
        )
        for _, descriptor in collected:
            os.close(descriptor)
        self.box.close()
        return True

    def _become(self, job: dict[str, Any], descriptors: list[int], told: int) -> NoReturn:
        """The forked process: prepares, walls itself in, says so, and turns into the job. Never returns."""
        try:
            self._prepare_and_run(job, descriptors, told)
        except BaseException:  # in the child nothing may escape into the worker's own loop
            os.write(told, traceback.format_exc().encode()[-4000:])
        os._exit(_SETUP_FAILED)

    def _prepare_and_run(self, job: dict[str, Any], descriptors: list[int], told: int) -> None:
        os.setsid()
        self.control.close()
        gc.enable()
        os.chdir(self.box.path)
        header, content = wire.read_frame(descriptors[0])
        stdin, files = content[: header["stdin_bytes"]], content[header["stdin_bytes"] :]
        programs.place_files(header["files"], files)
        as_program = job["kind"] == "call" and header["entry"] is None
        streams = calls.Streams(header["output_bytes"]) if as_program else None
        channel, told = _settle_descriptors(descriptors, told)
        if stdin:
            programs.standard_input(stdin)
        # So that the worker can watch it, and it can open its own /proc/self. It holds nothing of others.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        self.confinement.apply(job)
        os.closerange(told + 1, calls.FIRST_RESERVED)
        os.closerange(calls.FIRST_RESERVED + 2, 256)
        if job["kind"] == "exec":
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(ignored, signal.SIG_DFL)
            os.write(told, b"%s%f\n" % (_STANDS, time.process_time()))
            os.execve(header["argv"][0], header["argv"], header["env"])
        os.write(told, b"%s%f\n" % (_STANDS, time.process_time()))
        os.close(told)
        os.environ.update(header["env"])
        if job["kind"] == "call":
            calls.serve(header, streams, channel)
        elif job["kind"] == "asked":
            asked.serve(header, channel)
        elif job["kind"] == "asking":
            asking.serve(header, channel)
        elif job["kind"] == "pytest":
            programs.run_pytest(header["args"], channel)
        else:
            os.close(channel)
            programs.run_python(header["args"])


def _settle_descriptors(given: list[int], told: int) -> tuple[int, int]:
    """Nothing on 0, the job's streams or nothing on 1 and 2, then the channel on 3 and `told` on 4."""
    null = os.open("/dev/null", os.O_RDWR)
    output, errors = given[1:] if len(given) == 3 else (null, null)
    # First out of each other's way: a source may sit on a number that another one is to get.
    wanted = [
        fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 50) for source in (null, output, errors, given[0], told)
    ]
    for target, source in enumerate(wanted):
        os.dup2(source, target, inheritable=target < 3)
    return 3, 4


def _import_for_solutions(site_packages: list[str]) -> None:
    """What solutions import again and again is loaded before the fork, and costs a job nothing."""
    for name in _PRELOADED:
        importlib.import_module(name)
    sys.path[:] = [*(path for path in sys.path if path.startswith("/")), *site_packages]
