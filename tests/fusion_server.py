"""A small SandboxFusion: the wire format of `/run_code`, `/submit` and `/v1/ping`, running Python for real."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FusionServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[Any] = []
        """What to answer first instead: an HTTP status, or a reply."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FusionServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v1/ping" else 404, "pong")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        if self.server.failures:
            failure = self.server.failures.pop(0)
            self._answer(failure if isinstance(failure, int) else 200, failure)
        elif self.path == "/run_code":
            self._answer(200, run_code(body))
        else:
            self._answer(200, submit(body))

    def _answer(self, status: int, reply: Any) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def run_code(body: dict[str, Any]) -> dict[str, Any]:
    if body["language"] == "cpp":
        failed = {
            "status": "Error",
            "execution_time": 0.1,
            "return_code": 1,
            "stdout": "",
            "stderr": "error: no",
        }
        return {"status": "Failed", "message": "", "compile_result": failed, "run_result": None, "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in body["files"].items():
            Path(folder, name).write_bytes(base64.b64decode(content))
        Path(folder, "main.py").write_text(body["code"])
        try:
            done = subprocess.run(
                [sys.executable, "main.py"],
                input=body["stdin"], capture_output=True, text=True, cwd=folder,
                timeout=body["run_timeout"], check=False,
            )  # fmt: skip
            result = {
                "status": "Finished", "execution_time": 0.1, "return_code": done.returncode,
                "stdout": done.stdout, "stderr": done.stderr,
            }  # fmt: skip
        except subprocess.TimeoutExpired as late:
            stdout = (late.stdout or b"").decode()
            result = {
                "status": "TimeLimitExceeded",
                "execution_time": 1.0,
                "return_code": None,
                "stdout": stdout,
                "stderr": "",
            }
        fetched = {
            name: base64.b64encode(Path(folder, name).read_bytes()).decode() for name in body["fetch_files"]
        }
    status = "Success" if result["return_code"] == 0 else "Failed"
    return {"status": status, "message": "", "compile_result": None, "run_result": result, "files": fetched}


def submit(body: dict[str, Any]) -> dict[str, Any]:
    tests = body["config"]["provided_data"]["test"]
    code = body["completion"].split("```python\n")[1].split("```")[0]
    graded = []
    for test in tests:
        given = {"code": code, "stdin": test["input"]["stdin"], "run_timeout": 10}
        reply = run_code({**given, "language": "python", "files": {}, "fetch_files": []})
        passed = reply["run_result"]["stdout"].strip() == test["output"]["stdout"].strip()
        graded.append({"passed": passed, "exec_info": reply, "test_info": test})
    accepted = all(test["passed"] for test in graded)
    return {"id": body["id"], "accepted": accepted, "extracted_code": code, "tests": graded, "extra": {}}


@contextmanager
def serve() -> Iterator[FusionServer]:
    server = FusionServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
