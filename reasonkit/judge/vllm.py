"""`--judge-serve`: vLLM with the judging model: started, awaited, restarted when it dies, ended with the server.

It listens on this machine only, wants a key that nobody else knows, and writes to a log of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from reasonkit.errors import MissingExtra, ReasonkitError
from reasonkit.judge.settings import JudgeModel
from reasonkit.verifiers.judge import DEFAULT_MODEL

LOGGER = logging.getLogger(__name__)
DEFAULT = "default"
READY_SECONDS = 1800.0
"""A model may have to be downloaded first."""
ASK_SECONDS = 1.0
END_SECONDS = 20.0
LAST_LINES = 8


@contextlib.contextmanager
def served(model: str, name: str = "") -> Iterator[JudgeModel]:
    """The judge `model` (a path or Hub id; `default` is general-verifier), ready, until the end of the block."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtra("vllm", f"--judge-serve {model}")
    path = DEFAULT_MODEL if model == DEFAULT else model
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    judge = JudgeModel(f"http://127.0.0.1:{port}", name or path, secrets.token_hex(24))
    with tempfile.NamedTemporaryFile("w+b", prefix="reasonkit-vllm-", suffix=".log") as output:
        keeper = _Keeper(path, judge, port, output)
        try:
            keeper.start()
            yield judge
        finally:
            keeper.close()


class _Keeper:
    """The vLLM process and the thread that replaces it when it dies."""

    def __init__(self, path: str, judge: JudgeModel, port: int, output: IO[bytes]) -> None:
        self._command = [
            # The module and not the `vllm` script, which the build for CPUs does not have under that name.
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path),
            *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", judge.model),
            "--no-enable-log-requests",
        ]
        self._judge = judge
        self._output = output
        self._closing = threading.Event()
        self._process = self._launch()
        self._thread = threading.Thread(target=self._keep, name="judge-vllm", daemon=True)

    def start(self) -> None:
        LOGGER.info("starting vLLM with the judge %s; its log is %s", self._judge.model, self._output.name)
        began = time.monotonic()
        self._await_ready()
        LOGGER.info("vLLM is ready after %.0f s", time.monotonic() - began)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._end()
        if self._thread.ident is not None:
            self._thread.join()

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "VLLM_API_KEY": self._judge.api_key,
        }  # all can read a command line
        return subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _await_ready(self) -> None:
        import httpx

        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ReasonkitError(
                    f"vLLM ended with status {self._process.returncode} instead of serving {self._judge.model}:\n"
                    f"{self._last_words()}",
                    "reasonkit doctor says what this machine can do; --judge-url names a judge that runs elsewhere",
                )
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self._judge.url}/health", timeout=ASK_SECONDS).status_code == 200:
                    return
            time.sleep(ASK_SECONDS)
        raise ReasonkitError(f"vLLM was not ready within {READY_SECONDS:g} s:\n{self._last_words()}")

    def _last_words(self) -> str:
        lines = Path(self._output.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(f"  {line[:300]}" for line in lines[-LAST_LINES:])

    def _keep(self) -> None:
        pause = 1.0
        while not self._closing.is_set():
            self._process.wait()
            if self._closing.wait(pause):
                return
            LOGGER.error("vLLM ended with status %s; starting it again", self._process.returncode)
            pause = min(60.0, 2 * pause)
            self._process = self._launch()
            if self._closing.is_set():
                self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
