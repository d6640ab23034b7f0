"""The real `reasonkit serve-judge` as a subprocess, on a free port, for tests that talk to it over the network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 90.0


@dataclass
class JudgeServer:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self, signum: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        self.process.send_signal(signum)
        return self.process.wait(seconds)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def launch(
    folder: Path, *flags: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> JudgeServer:
    """Started, and answering pings."""
    port = port or free_port()
    log = folder / f"judge-{port}-{time.monotonic_ns()}.log"
    inherited = {
        name: value for name, value in os.environ.items() if "JUDGE" not in name and "FUSION" not in name
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "reasonkit", "serve-judge", "--port", str(port), "--workers", "1", *flags],
            cwd=folder,
            env={**inherited, "REASONKIT_DATA": str(folder / "data"), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = JudgeServer(process, f"http://127.0.0.1:{port}", log)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, server.text()
        try:
            if httpx.get(f"{server.url}/ping").status_code == 200:
                return server
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"no ping within {START_SECONDS} s\n{server.text()}")


@contextmanager
def judging(
    folder: Path, *flags: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[JudgeServer]:
    server = launch(folder, *flags, port=port, environment=environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
