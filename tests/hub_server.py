"""A local server that speaks the Hub's HTTP API for datasets, and misbehaves on request.

It serves what real clients ask for: the listing of a revision, and the resolve address of a file, by HEAD and
GET with ranges, redirected to a "CDN" address as the Hub does for large files. Faults are decided request by
request by a function, so that a test can script them or draw them from a seed.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Fault:
    kind: Literal["status", "cut", "slow", "refuse"]
    status: int = 503
    retry_after: str | None = None
    share: float = 0.5
    """Of the body, sent before the connection is cut."""
    pause: float = 0.05
    """Seconds between the pieces of a slow body."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    number: int
    """How many requests for this path came before."""
    ranged: bool


Faults = Callable[[Request], Fault | None]


def no_faults(_: Request) -> Fault | None:
    return None


def random_faults(seed: int, share: float) -> Faults:
    """Each request fails with probability `share`, in one of the ways that pass."""
    rng = random.Random(seed)
    lock = threading.Lock()

    def decide(request: Request) -> Fault | None:
        with lock:
            if rng.random() >= share:
                return None
            choices = [Fault("status", 503), Fault("status", 429, "0.01"), Fault("refuse")]
            if request.ranged:
                choices += [Fault("cut", share=rng.random()), Fault("slow", pause=0.001)]
            return rng.choice(choices)

    return decide


@dataclass
class Dataset:
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False


class HubServer:
    """Serves `datasets` at `endpoint` until closed. `served` counts bytes, `requests` counts paths."""

    def __init__(self, token: str = "hf_right") -> None:
        self.datasets: dict[str, Dataset] = {}
        self.faults: Faults = no_faults
        self.token = token
        self.requests: Counter[str] = Counter()
        self.served = 0
        self.replaced: dict[str, bytes] = {}
        """path -> content that is served instead of the listed one, under the same revision."""
        self.lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_state = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, repo: str, files: Mapping[str, bytes], ref: str = "main", **flags: bool) -> str:
        """A new commit of `repo` with exactly these files; `ref` points to it."""
        dataset = self.datasets.setdefault(repo, Dataset(**flags))
        content = b"".join(path.encode() + data for path, data in sorted(files.items()))
        sha = hashlib.sha1(content + str(len(dataset.revisions)).encode()).hexdigest()
        dataset.revisions[sha] = dict(files)
        dataset.refs[ref] = sha
        return sha


class _Handler(BaseHTTPRequestHandler):
    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        state = self.server_state
        path = unquote(urlsplit(self.path).path)
        with state.lock:
            number = state.requests[path]
            state.requests[path] += 1
        fault = state.faults(Request(self.command, path, number, "Range" in self.headers))
        if fault is not None and fault.kind == "refuse":
            self.close_connection = True
            return
        if fault is not None and fault.kind == "status":
            extra = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send(fault.status, b"busy", extra)
            return
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self._listing(parts[2:])
        elif parts[0] == "datasets":
            self._resolve(parts[1:])
        elif parts[0] == "cdn":
            assert "Authorization" not in self.headers, "a client sent its token to the CDN"
            repo, sha, name = "/".join(parts[1:3]), parts[3], "/".join(parts[4:])
            served = self.server_state.replaced.get(name)
            listed = self.server_state.datasets[repo].revisions[sha][name]
            self._bytes(listed if served is None else served, fault, {})
        else:
            self._send(404, b"", {})

    def _listing(self, parts: list[str]) -> None:
        repo = "/".join(parts[:2])
        revision = "/".join(parts[3:]) or "main"  # after `revision` or `tree`
        found = self._revision(repo, revision)
        if found is None:
            return
        sha, files = found
        if parts[2:3] == ["tree"]:
            self._send(200, json.dumps([_entry(*file) for file in files.items()]).encode(), {})
            return
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": _blob_id(data)} | _large(name, data)
            for name, data in files.items()
        ]
        body = {"id": repo, "sha": sha, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, parts: list[str]) -> None:
        repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self._revision(repo, revision)
        if found is None:
            return
        sha, files = found
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        # Another origin than the endpoint's, as the Hub's CDN is: no token may be sent there.
        path = f"{self.server_state.cdn}/cdn/{repo}/{sha}/{name}"
        served = self.server_state.replaced.get(name, files[name])
        listed = files[name]
        if not _large(name, listed):
            self._bytes(served, None, {"ETag": f'"{_blob_id(served)}"', "X-Repo-Commit": sha})
            return
        headers = {
            "Location": path,
            "X-Linked-ETag": f'"{hashlib.sha256(served).hexdigest()}"',
            "X-Linked-Size": str(len(served)),
            "X-Repo-Commit": sha,
        }
        self._send(302, b"", headers)

    def _revision(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        dataset = self.server_state.datasets.get(repo)
        known = self.headers.get("Authorization") == f"Bearer {self.server_state.token}"
        if dataset is None or (dataset.private and not known):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        if dataset.gated and not known:
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return None
        sha = dataset.refs.get(revision, revision)
        if sha not in dataset.revisions:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "No such revision"})
            return None
        return sha, dataset.revisions[sha]

    def _bytes(self, data: bytes, fault: Fault | None, headers: dict[str, str]) -> None:
        status, body = 200, data
        asked = self.headers.get("Range")
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status, body = 206, data[start:end]
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        self._send(status, body, headers | {"Accept-Ranges": "bytes"}, fault)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self._write(body, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was killed, which is what some tests do

    def _write(self, body: bytes, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "cut":
            body = body[: int(len(body) * fault.share)]
            self.close_connection = True
        step = max(1, len(body) // 8) if fault is not None and fault.kind == "slow" else max(1, len(body))
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            self.wfile.write(piece)
            with self.server_state.lock:
                self.server_state.served += len(piece)
            if fault is not None and fault.kind == "slow":
                time.sleep(fault.pause)


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    """A file as the tree listing shows it."""
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}
    large = _large(name, data)
    return entry | ({"lfs": {**large["lfs"], "oid": large["lfs"]["sha256"]}} if large else {})


def _large(name: str, data: bytes) -> dict[str, Any]:
    """What the listing says of a file that is kept outside of git."""
    if not name.endswith(".parquet"):
        return {}
    return {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
