"""One worker process, seen from outside: start it, hand it orders, read what comes back without trusting it.

A thread of `LocalSandbox` owns each worker, so everything here blocks. The driver's memory is never forked into a
worker: it is a fresh interpreter with an empty environment and no descriptor but its control socket.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonkit.sandbox import bubblewrap, toolchains
from reasonkit.sandbox.jobs import Limits
from reasonkit.sandbox.wire import BrokenFrame, FrameReader, frame
from reasonkit.sandbox.worker.box import empty

_START_SECONDS = 30.0
_END_SECONDS = 5.0
BOX_MB = 64
_PACKAGE = Path(__file__).parent.parent
_BOX_PARENT_INSIDE = "/box"

# Loads the worker's few modules as parts of a hollow package, so that none of the rest is imported.
_BOOT = """
import sys, types
for name, path in (("reasonkit", sys.argv[1]), ("reasonkit.sandbox", sys.argv[1] + "/sandbox")):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
from reasonkit.sandbox.worker.main import main
main(int(sys.argv[2]))
"""
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


class WorkerFailed(Exception):
    """The worker could not wall itself in, or died. Says why; becomes a tier that is not offered, or a retry."""


Frame = tuple[Any, bytes]


class JobCancelled(Exception):
    """Nobody waits for the job any more, so it was killed. Has no result."""


class _WorkerGone(Exception):
    pass


@dataclass(frozen=True)
class Order:
    """What the worker is told (`kind`, limits) and what only the job's own process reads (`header`, `content`)."""

    kind: str  # call, python, pytest, exec
    header: Mapping[str, Any]
    limits: Limits
    content: bytes = b""
    streams: bool = False
    address_space: bool = True
    box_mb: int = BOX_MB
    collect: tuple[str, ...] = ()
    most_frames: int = 1


@dataclass
class Outcome:
    """How a job ended. Everything but `ready`, `code`, `stopped`, `cpu` and `wall` was written by the job."""

    frames: list[Any] = field(default_factory=list)
    broken: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    overflow: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    ready: bool = False
    complaint: str = ""
    code: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    stopped: str | None = None


class WorkerProcess:
    def __init__(self, tier: str) -> None:
        self.tier = tier
        self._orders = 0
        self.box = ""
        # Found here, not in the worker, because it needs the real installation around it.
        interpreter = toolchains.interpreter(as_other_user=tier != "T1" and os.geteuid() == 0)
        config = {
            "tier": tier,
            "visible": toolchains.visible_folders(),
            "site_packages": toolchains.site_packages(interpreter),
            "box_parent": _BOX_PARENT_INSIDE if tier == "bwrap" else tempfile.gettempdir(),
        }
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            boot = [interpreter, "-S", "-s", "-P", "-c", _BOOT, str(_PACKAGE), str(theirs.fileno())]
            command = [*bubblewrap.command(_PACKAGE), *boot] if tier == "bwrap" else boot
            self._process = subprocess.Popen(
                command,
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                **(bubblewrap.as_other_user() if tier == "bwrap" else {}),
            )
        try:
            self.control.send(json.dumps(config).encode())
            self.facts = self._first_report()
        except (OSError, WorkerFailed):
            self.close()
            raise
        self.box = self.facts["box"]

    def _first_report(self) -> dict[str, Any]:
        self.control.settimeout(_START_SECONDS)
        message = self.control.recv(1 << 16)
        self.control.settimeout(None)
        report: dict[str, Any] = json.loads(message) if message else {"failed": self._last_words()}
        if "failed" in report:
            raise WorkerFailed(report["failed"])
        return report

    def _last_words(self) -> str:
        self._process.kill()
        _, errors = self._process.communicate()
        return errors.decode("utf-8", "replace")[-2000:] or f"ended with status {self._process.returncode}"

    def close(self) -> None:
        """Hangs up, which ends the worker and with it everything inside."""
        self.control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        if self.tier in ("T2", "unsafe") and self.box and Path(self.box).is_dir():
            empty(self.box)  # the worker was killed before it could
            Path(self.box).rmdir()

    def perform(self, order: Order, cancelled: threading.Event) -> Outcome:
        """Runs a job to its end."""
        with self.begin(order, cancelled) as exchange:
            return exchange.run()

    @contextmanager
    def begin(self, order: Order, cancelled: threading.Event) -> Iterator[Exchange]:
        """Starts a job that is talked with. What has not ended by itself at the end of the block is ended."""
        self._orders += 1
        channel, theirs = socket.socketpair()
        inside = [theirs.detach()]
        outside = []
        if order.streams:
            for _ in range(2):
                reader, writer = os.pipe()
                outside.append(reader)
                inside.append(writer)
        try:
            socket.send_fds(self.control, [json.dumps(self._terms(order)).encode()], inside)
        except OSError as error:
            raise WorkerFailed(f"the worker does not listen: {error}") from error
        finally:
            for descriptor in inside:
                os.close(descriptor)
        exchange = Exchange(self.control, channel, outside, order, cancelled)
        try:
            try:
                yield exchange
            finally:
                exchange.stop()
        except _WorkerGone as gone:
            raise WorkerFailed(f"{gone}: {self._last_words()}") from gone
        finally:
            channel.close()
            for descriptor in outside:
                os.close(descriptor)

    def _terms(self, order: Order) -> dict[str, Any]:
        return {
            "id": self._orders,
            "kind": order.kind,
            "cpu_seconds": order.limits.cpu_seconds,
            "wall_seconds": order.limits.wall_seconds,
            "memory_mb": order.limits.memory_mb,
            "processes": order.limits.processes,
            "address_space": order.address_space,
            "box_mb": order.box_mb,
            "collect": order.collect,
            "collect_bytes": order.box_mb << 20,
        }


class Exchange:
    """One job's traffic: the payload out; frames, streams and the worker's report back."""

    def __init__(
        self,
        control: socket.socket,
        channel: socket.socket,
        streams: list[int],
        order: Order,
        cancelled: threading.Event,
    ) -> None:
        self.control = control
        self.channel = channel
        self.order = order
        self.cancelled = cancelled
        self.outcome = Outcome()
        limit = order.limits.output_bytes
        self._frames = FrameReader(7 * limit + (1 << 16))
        self._texts = {descriptor: bytearray() for descriptor in streams}
        self._outgoing = memoryview(frame(dict(order.header), order.content))
        self._received: deque[Frame] = deque()
        self._kill_sent = self._finished = False
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(channel, select.POLLIN | select.POLLOUT)
        channel.setblocking(False)
        self._registered = {channel.fileno(), *streams}
        for descriptor in streams:
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> Outcome:
        while not self._finished:
            self._step()
        self.outcome.frames = [message for message, _ in self._received]
        return self.outcome

    def hear(self) -> Frame | None:
        """The next frame of a job that is talked with; None once it has ended."""
        while not self._received and not self._finished:
            self._step()
        return self._received.popleft() if self._received and not self.outcome.broken else None

    def say(self, message: Any, blob: bytes = b"") -> None:
        """Sends a frame to the job."""
        self._outgoing = memoryview(bytes(self._outgoing) + frame(message, blob))
        if self.channel.fileno() in self._registered:
            self._poll.modify(self.channel, select.POLLIN | select.POLLOUT)

    def stop(self) -> Outcome:
        """Ends a job that is not needed any more."""
        if not self._finished:
            self.kill()
        return self.run()

    def _step(self) -> None:
        for descriptor, events in self._poll.poll(500):
            if descriptor == self.control.fileno():
                self._finish()
                self._finished = True
                return
            if descriptor in self._texts:
                self._read_text(descriptor)
                continue
            if events & select.POLLOUT:
                self._write_payload()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read_frames()
        if self.cancelled.is_set():
            self.kill()

    def kill(self) -> None:
        if not self._kill_sent:
            self._kill_sent = True
            try:
                self.control.send(b'{"kill": true}')
            except OSError as error:
                raise _WorkerGone(f"the worker does not listen ({error})") from error

    def _write_payload(self) -> None:
        try:
            sent = self.channel.send(self._outgoing[: 1 << 20])
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            sent = len(self._outgoing)  # the job is gone; the report will say how
        self._outgoing = self._outgoing[sent:]
        if not self._outgoing:
            self._poll.modify(self.channel, select.POLLIN)

    def _read_frames(self) -> bool:
        try:
            data = self.channel.recv(1 << 18)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            self._forget(self.channel.fileno())
            return False
        if self.outcome.broken:
            return True
        try:
            self._received += self._frames.feed(data)
        except BrokenFrame as error:
            self.outcome.broken = str(error)
        if len(self._received) > self.order.most_frames:
            self.outcome.broken = "more answers than questions"
        if self.outcome.broken:
            self.kill()
        return True

    def _read_text(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._forget(descriptor)
            return False
        text = self._texts[descriptor]
        room = self.order.limits.output_bytes - len(text)
        text += data[:room]
        if len(data) > room:
            self.outcome.overflow = True
            self.kill()
        return True

    def _forget(self, descriptor: int) -> None:
        if descriptor in self._registered:
            self._registered.remove(descriptor)
            self._poll.unregister(descriptor)

    def _finish(self) -> None:
        """The job is over and everything of it dead: what is still in the pipes is all there will be."""
        message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 18, 64)
        if not message:
            raise _WorkerGone("the worker died")
        report = json.loads(message)
        outcome = self.outcome
        for name, descriptor in zip(report["collected"], descriptors, strict=True):
            with os.fdopen(descriptor, "rb") as file:
                outcome.files[name] = file.read()
        self._drain()
        outcome.ready, outcome.complaint = report["ready"], report["complaint"]
        outcome.code, outcome.stopped = report["code"], report["stopped"]
        outcome.cpu, outcome.wall = report["cpu"], report["wall"]
        texts = [bytes(text) for text in self._texts.values()]
        if texts:
            outcome.stdout, outcome.stderr = texts

    def _drain(self) -> None:
        while self._read_frames():
            pass
        for descriptor in self._texts:
            while self._read_text(descriptor):
                pass
