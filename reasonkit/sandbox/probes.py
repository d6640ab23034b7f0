"""Runs the attacks against a sandbox, with real prey beside it, and judges from outside who won.

The prey: a process, a file with a secret, a TCP and an abstract socket that listen, a secret in this process's
environment and behind an inheritable descriptor. An attack is stopped when the prey is untouched, nothing secret
came back, nothing is left running, and it ended within its limits; what the attacker claims only counts against
the sandbox.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonkit.sandbox.attacks import ATTACKS, Attack
from reasonkit.sandbox.jobs import CallJob, CallResult, ProgramJob, ProgramResult, RunStatus
from reasonkit.sandbox.local import LocalSandbox

_LEAST_SECONDS = 10.0  # what an attack may take on top of its wall limit on a very busy machine
_SECRET_VARIABLE = "REASONKIT_PROBE_SECRET"


@dataclass(frozen=True)
class ProbeOutcome:
    attack: str
    stopped: bool
    detail: str


@dataclass
class Report:
    """What each tier did about each attack; `tier` is the first that stopped all, or None."""

    tier: str | None = None
    outcomes: dict[str, list[ProbeOutcome]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def escaped(self, tier: str) -> list[ProbeOutcome]:
        return [outcome for outcome in self.outcomes[tier] if not outcome.stopped]


class Scene:
    """The prey. Set up before the sandbox's workers are started, so that they could inherit what should not be."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self._folder = tempfile.TemporaryDirectory(prefix="reasonkit-probe-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o777)
        self.secret_file = self.folder / "secret.txt"
        self.secret_file.write_text(self.secret)
        self.secret_file.chmod(0o666)
        self._inheritable = os.open(self.secret_file, os.O_RDONLY)
        os.set_inheritable(self._inheritable, True)
        os.environ[_SECRET_VARIABLE] = self.secret
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(self._tcp.getsockname())
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(f"\0reasonkit-{self.secret}")
        self._unix.listen()
        self.victim = self._new_victim()
        for listener in (self._tcp, self._udp, self._unix):
            listener.setblocking(False)

    def _new_victim(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "600"], env={_SECRET_VARIABLE: self.secret})

    def mend(self) -> None:
        """For the next attack, what the last one damaged."""
        for stray in self.folder.iterdir():
            if stray != self.secret_file:
                stray.unlink()
        self.secret_file.write_text(self.secret)
        if self.victim.poll() is not None:
            self.victim = self._new_victim()
        for listener in (self._tcp, self._unix):
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
        with contextlib.suppress(BlockingIOError):
            while True:
                self._udp.recv(100)

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for listener in (self._tcp, self._udp, self._unix):
            listener.close()
        os.environ.pop(_SECRET_VARIABLE, None)
        os.close(self._inheritable)
        self._folder.cleanup()

    def directions(self) -> dict[str, Any]:
        return {
            "victim": self.victim.pid,
            "driver": os.getpid(),
            "folder": str(self.folder),
            "secret_file": str(self.secret_file),
            "port": self._tcp.getsockname()[1],
            "abstract": f"reasonkit-{self.secret}",
        }

    def damage(self) -> str:
        """What can be seen from outside to have happened to the prey."""
        if self.victim.poll() is not None:
            return f"the process beside it ended with {self.victim.returncode}"
        if Path(f"/proc/{self.victim.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
            return "the process beside it was stopped"
        if self.secret_file.read_text() != self.secret or len(list(self.folder.iterdir())) != 1:
            return "it wrote into a folder outside"
        for listener in (self._tcp, self._unix):
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                return f"it connected to {listener.getsockname()!r}"
        with contextlib.suppress(BlockingIOError):
            self._udp.recv(100)
            return "it sent a datagram"
        return ""


@contextlib.contextmanager
def open_scene() -> Iterator[Scene]:
    scene = Scene()
    try:
        yield scene
    finally:
        scene.close()


def assail(sandbox: LocalSandbox, scene: Scene, attack: Attack) -> ProbeOutcome:
    """One attack, from the shot to the verdict."""
    family = descendants()
    began = time.monotonic()
    result = _shoot(sandbox, scene, attack)
    took = time.monotonic() - began
    complaint = scene.damage() or _loot(scene, result) or _claim(attack, result)
    if scene.damage():
        scene.mend()
    if not complaint and descendants() - family:
        complaint = "it left a process behind"
    if not complaint and took > attack.limits.wall_seconds + _LEAST_SECONDS:
        complaint = f"it took {took:.1f} s"
    return ProbeOutcome(attack.name, not complaint, complaint or str(result.status))


def assail_all(sandbox: LocalSandbox, scene: Scene, *, everything: bool = True) -> list[ProbeOutcome]:
    """All attacks, or those that take no time to speak of."""
    return [assail(sandbox, scene, attack) for attack in ATTACKS if everything or not attack.slow]


def _shoot(sandbox: LocalSandbox, scene: Scene, attack: Attack) -> CallResult | ProgramResult:
    if attack.program:
        job = ProgramJob(
            "python",
            attack.code,
            stdin=str(scene.secret_file),
            limits=attack.limits,
            collect=("*.txt", "*/*"),
        )
        return sandbox.run_blocking(job)
    call = CallJob(attack.code, "attack", ([scene.directions()],), attack.limits)
    result = sandbox.call_blocking(call)[0]
    if attack.twice:
        result = sandbox.call_blocking(call)[0]
    return result


def _loot(scene: Scene, result: CallResult | ProgramResult) -> str:
    return "it brought back the secret" if scene.secret in repr(result) else ""


def _claim(attack: Attack, result: CallResult | ProgramResult) -> str:
    """What the attacker says that it achieved, where that cannot be seen from outside."""
    if result.status == RunStatus.SANDBOX_ERROR:
        return f"the sandbox failed: {result}"
    if isinstance(result, ProgramResult):
        return _program_claim(attack, result)
    if result.status != RunStatus.OK:
        return ""
    value = result.value
    too_much = {
        "fork bomb": 200,
        "thread bomb": 5000,
        "memory 1.5 GB": 1536,
        "disk 300 MB": 300,
        "io_uring": 0,
    }
    if attack.name in too_much:
        return f"it reached {value}" if not isinstance(value, int) or value >= too_much[attack.name] else ""
    if attack.name == "/etc/passwd":
        return "it read /etc/passwd" if value == Path("/etc/passwd").read_text() else ""
    if attack.name in ("loop immune to signals", "stop itself"):
        return "it was not ended"
    if attack.name == "abstract socket":
        return "it connected" if value == "connected" else ""
    if attack.name == "kill":
        # Signals to PID 1 of its own namespace are accepted and dropped; anyone else's victim is not.
        return ""
    if attack.name in (
        "own environment",
        "environment of others",
        "inherited descriptors",
        "daemon survives",
    ):
        return ""  # judged by the secret and by what is left running
    return f"it achieved {value!r}" if value else ""


def _program_claim(attack: Attack, result: ProgramResult) -> str:
    if attack.name == "output flood":
        return "" if result.status == RunStatus.OUTPUT_LIMIT else f"its flood ended as {result.status}"
    honest = {"honest.txt": b"honest"}
    if attack.name == "symlink as result" and dict(result.files) != honest:
        return f"it handed out {sorted(result.files)}"
    return ""  # what else it may hand out is judged by the secret


def descendants() -> set[int]:
    """Processes below this one, by PID, except those that ended."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    newest = {os.getpid()}
    while newest:
        newest = {pid for pid, parent in parents.items() if parent in newest} - found
        found |= newest
    return found
