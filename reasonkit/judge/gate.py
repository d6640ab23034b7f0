"""What stands before every request: who asks, how much, and for how long; and the line that is logged about it.

In order: a request id; the token (header or first part of the path); the length, which must be announced; room for
that many bytes (admission.py); the body, within a time limit. Only then does the application see the request. The
log and the metrics know paths as routes and sizes, never bodies, tokens or queries.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from reasonkit.judge.admission import Admission
from reasonkit.judge.board import CODES, HELD, IN_PROGRESS, QUEUED, ROUTES, WAITED, Board, requests
from reasonkit.judge.settings import Settings

LOGGER = logging.getLogger(__name__)
ACCESS = logging.getLogger("reasonkit.judge.access")
BODY_SECONDS = 60.0
"""To send a whole body once there is room for it."""
OPEN_PATHS = frozenset({"/ping", "/v1/ping"})
"""Answered without a token: load balancers ask, and the answer tells nothing."""
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """The request goes no further. Its body, if any, is left unread, so the connection ends with the answer."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(slots=True)
class Exchange:
    """One request, for the log."""

    id: str
    scope: Scope
    send_: Send
    began: float = field(default_factory=time.perf_counter)
    code: int = 0
    received: int = 0
    sent: int = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        else:
            self.sent += len(message.get("body", b""))
        await self.send_(message)

    async def answer(self, code: int, detail: str) -> None:
        body = json.dumps({"detail": detail}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        if code == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self.send({"type": "http.response.start", "status": code, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class Gate:
    def __init__(self, app: App, settings: Settings, board: Board) -> None:
        self._app = app
        self._settings = settings
        self._board = board
        self.admission = Admission(settings.queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(_request_id(scope), scope, send)
        try:
            await self._pass(exchange, receive)
        except Refused as refused:
            await exchange.answer(refused.code, refused.detail)
        except ClientGone:
            exchange.code = 499
        except Exception:
            log_bug(exchange.id)
            if not exchange.code:
                await exchange.answer(500, "internal error; the log has its trace under this request's id")
        finally:
            self._record(exchange)

    async def _pass(self, exchange: Exchange, receive: Receive) -> None:
        scope = exchange.scope
        self._admit(scope)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, exchange.send)
            return
        size = self._announced(scope)
        if self.admission.waiting or self.admission.used + size > self.admission.limit:
            self._board.add(WAITED)
        async with self.admission.room(size):
            self._show_queue()
            body = await _read(receive, size)
            exchange.received = len(body)
            await self._app(scope, _replay(body, receive), exchange.send)
        self._show_queue()

    def _admit(self, scope: Scope) -> None:
        """Check the token, and take it out of the path."""
        token = self._settings.token
        if not token:
            if not self._settings.open_to_all and not _from_here(scope):
                raise Refused(403, "this server has no token, so it serves its own machine only")
            return
        _, _, rest = scope["path"].partition("/")
        first, slash, rest = rest.partition("/")
        if _same(first, token):
            scope["path"] = slash + rest or "/"
            scope["raw_path"] = scope["path"].encode()
            return
        if scope["path"] not in OPEN_PATHS and not _bears(scope, token):
            raise Refused(
                401, "show the token as 'Authorization: Bearer TOKEN', or as the first part of the path"
            )

    def _announced(self, scope: Scope) -> int:
        """The length that the request announces."""
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if not lengths:
            raise Refused(411, "a request must announce its length (Content-Length)")
        if len(lengths) > 1 or not lengths[0].isdigit():
            raise Refused(400, "the announced length is not one number")
        size = int(lengths[0][:20])
        if size > self._settings.max_body:
            raise Refused(413, f"the request has {size} bytes; at most {self._settings.max_body} are taken")
        return size

    def _show_queue(self) -> None:
        self._board.set(IN_PROGRESS, self.admission.admitted)
        self._board.set(HELD, self.admission.waiting)
        self._board.set(QUEUED, self.admission.used)

    def _record(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        path = exchange.scope["path"]
        route = path if path in ROUTES else "other"
        code = exchange.code or 499
        self._board.add(requests(route, code if code in CODES else 500))
        self._board.observe(route, seconds)
        if ACCESS.isEnabledFor(logging.INFO):
            client = exchange.scope.get("client")
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "id": exchange.id,
                "client": client[0] if client else None,
                "method": exchange.scope["method"][:16],
                "route": route,
                "status": code,
                "ms": round(1e3 * seconds, 2),
                "in": exchange.received,
                "out": exchange.sent,
            }
            ACCESS.info("%s", json.dumps(line))


async def _read(receive: Receive, size: int) -> bytes:
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(
            408, f"{size} bytes were announced and did not come within {BODY_SECONDS:g} s"
        ) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """The application reads what has been read already; after that it can only learn that the client went."""
    first = True

    async def replay() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _request_id(scope: Scope) -> str:
    """The client's own, where it is harmless in a log."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _bears(scope: Scope, token: str) -> bool:
    shown = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(shown) != 1:
        return False
    scheme, _, value = shown[0].partition(b" ")
    return scheme.lower() == b"bearer" and _same(value.strip().decode("latin-1"), token)


def _same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8", "replace"), token.encode())


def _from_here(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None:  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def log_bug(what: str) -> None:
    """Where it happened and what kind of error, without its message: that may quote the request."""
    kind, error, trace = sys.exc_info()
    assert kind is not None
    LOGGER.error("%s: %s at\n%s", what, kind.__name__, "".join(traceback.format_tb(trace)))
    del error
