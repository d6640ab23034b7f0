"""A small server of chat APIs for tests: OpenAI's chat completions, Anthropic's messages, vLLM's token ids.

What it answers is the test's own function of the request. Before that, each request takes the next fault, if any
is left: a status, a hang, half a JSON, garbage, a slow reply, a dropped connection.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Any]
"""Of a request's body: the reply's text, or a whole reply body."""


@dataclass(frozen=True)
class Refuse:
    """Another status than 200."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "not now"}}'


@dataclass(frozen=True)
class Hang:
    """Nothing, until the server stops."""


@dataclass(frozen=True)
class Half:
    """The first half of the right reply, announced as a whole one."""


@dataclass(frozen=True)
class Garbage:
    body: bytes = b"<html>it works!</html>"


@dataclass(frozen=True)
class Slow:
    seconds: float


@dataclass(frozen=True)
class Drop:
    """The connection is closed before a byte of the reply; `mid` closes it inside the reply."""

    mid: bool = False


Fault = Refuse | Hang | Half | Garbage | Slow | Drop


@dataclass(frozen=True)
class Seen:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, answer: Answer, faults: Iterable[Fault | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.faults: Iterator[Fault | None] = iter(faults)
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""

    def begin(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.seen.append(seen)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return next(self.faults, None)

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.begin(Seen(self.path, dict(self.headers), body))
        try:
            self._reply(body, fault)
        finally:
            self.server.end()

    def _reply(self, body: dict[str, Any], fault: Fault | None) -> None:
        match fault:
            case Refuse(status, headers, text):
                self._send(status, text.encode(), headers)
            case Hang():
                self.server.stopping.wait()
                self.close_connection = True
            case Garbage(content):
                self._send(200, content)
            case Half():
                content = self._content(body)
                self._send(200, content[: len(content) // 2])
            case Drop(mid=False):
                self._hang_up()
            case Drop(mid=True):
                content = self._content(body)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self._hang_up()
            case _:
                if isinstance(fault, Slow):
                    time.sleep(fault.seconds)
                self._send(200, self._content(body))

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _content(self, body: dict[str, Any]) -> bytes:
        said = self.server.answer(body)
        shape = anthropic_reply if self.path.endswith("/messages") else openai_reply
        return json.dumps(shape(said, body) if isinstance(said, str) else said).encode()

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def openai_reply(text: str, body: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """A word is a token here."""
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    return {
        "object": "chat.completion",
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": len(text.split())},
    }


def anthropic_reply(text: str, body: dict[str, Any]) -> dict[str, Any]:
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": prompt, "output_tokens": len(text.split())},
    }


@contextmanager
def serve_chat(answer: Answer, faults: Iterable[Fault | None] = ()) -> Iterator[ChatServer]:
    server = ChatServer(answer, faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
