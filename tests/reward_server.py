"""An RL Verifier as its clients see it, and other reward servers with faults on request.

`RLVerifier` answers `/ping` and `/reward` in that server's wire format: mathematics by comparing the last box as
text, 422 for what it cannot read, 500 with a bare text for what it trips over. `faults` holds what to do instead,
first come first served: a status to answer, `hang up`, or `silence`. While `down`, it hangs up on everybody.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reasonkit.verifiers.extract import last_box


class RLVerifier(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.faults: list[int | str] = []
        self.down = False
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: RLVerifier
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.down:
            self.close_connection = True
            return
        found = self.path == "/ping"
        self._answer(200 if found else 404, {"status": "ok", "message": "RL Verifier service is running"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            fault = self.server.faults.pop(0) if self.server.faults else None
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(0.01)
        with self.server.lock:
            self.server.at_once -= 1
        if fault == "hang up" or self.server.down:
            self.close_connection = True
        elif fault == "silence":
            time.sleep(3)
            self.close_connection = True
        elif isinstance(fault, int):
            self._answer(fault, {"detail": "as asked"})
        else:
            self._judge(body)

    def _judge(self, body: dict[str, Any]) -> None:
        try:
            info = json.loads(body["verification_info"])
        except json.JSONDecodeError:
            self._answer(422, {"detail": "The verification info must be in parsable JSON format"})
            return
        if info["type"] != "math_verifiable":
            self._answer(422, {"detail": f"The verification type {info['type']} is not supported."})
        elif "value" not in info["answer"]:
            self._answer(500, "Internal Server Error")
        else:
            self._answer(200, {"score": float(last_box(body["llm_output"]) == info["answer"]["value"])})

    def _answer(self, status: int, reply: Any) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def rl_verifier() -> Iterator[RLVerifier]:
    server = RLVerifier()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
