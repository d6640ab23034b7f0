"""One server, many requests: posts JSON, repeats what may pass, gives up with the cause, never hangs.

Repeated, with growing jittered pauses: 408, 429 and 5xx, connections that fail or break, attempts that take too
long, replies that are no JSON or not in the form expected. Given up at once: every other status, since asking again
would be refused again. A Retry-After holds all requests back, because limits belong to an account, not to a
request. Each attempt has a deadline and there are finitely many, so each call ends. No key and no header ever
gets into a message.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from reasonkit.engines.http_ledger import Booking, CostExceeded, Ledger
from reasonkit.engines.http_limit import AdaptiveLimit
from reasonkit.errors import ReasonkitError

if TYPE_CHECKING:
    import httpx
    import tenacity

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST_BYTES = 64 << 20
"""Of a reply. More is garbage, and would fill the memory."""
_PASSING = frozenset({408, 409, 425, 429})
_KEY_REFUSED = frozenset({401, 403})
_QUOTED = 300


@dataclass(frozen=True, slots=True)
class HttpSettings:
    concurrency: int = 64
    """The most requests in flight; how many really are adapts to the server."""
    request_seconds: float = 600.0
    """For one attempt, from sending to the last byte."""
    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 120.0
    """Between attempts; a server that asks for more is not waited for."""


class RequestFailed(ReasonkitError):
    """A request that was given up. `kind` is its cause in a word, for counting."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class _Passing(Exception):
    """An attempt that may succeed when repeated. `congested`: the server has too much to do."""

    def __init__(self, kind: str, cause: str, *, wait: float = 0.0, congested: bool = False) -> None:
        super().__init__(cause)
        self.kind = kind
        self.wait = wait
        self.congested = congested


class HttpClient:
    """Posts to one server. `title` names the model in messages, `secret` is kept out of them."""

    def __init__(
        self,
        title: str,
        url: str,
        headers: Mapping[str, str],
        secret: str,
        ledger: Ledger,
        settings: HttpSettings,
    ) -> None:
        self.url = url
        self.limit = AdaptiveLimit(settings.concurrency)
        self._title = title
        self._headers = dict(headers)
        self._secret = secret
        self._ledger = ledger
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._welcome_at = 0.0

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any, Booking], T],
        most: float | None,
    ) -> T:
        """What `read` makes of the reply. It raises KeyError, TypeError, ValueError or IndexError on a form that is
        not the expected one. `most` is what the request may cost."""
        import tenacity

        payload = json.dumps(body).encode()
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            wait=self._pause,
            stop=tenacity.stop_after_attempt(self._settings.attempts),
            before_sleep=self._note_retry,
            reraise=True,
        )
        kind = "cancelled"
        try:
            answer: T = await attempts(self._attempt, path, payload, read, most)
            kind = ""
        except _Passing as error:
            kind = error.kind
            raise RequestFailed(
                kind, f"{self._title} gave no reply in {self._settings.attempts} attempts; the last: {error}"
            ) from error
        except RequestFailed as error:
            kind = error.kind
            raise
        except CostExceeded:
            kind = "max-cost"
            raise
        finally:
            if kind:
                self._ledger.failed[kind] += 1
        return answer

    async def _attempt(
        self, path: str, payload: bytes, read: Callable[[Any, Booking], T], most: float | None
    ) -> T:
        async with self.limit.slot() as mark:
            await asyncio.sleep(max(0.0, self._welcome_at - time.monotonic()))
            async with self._ledger.booking(most) as booking:
                try:
                    answer = self._understood(await self._exchange(path, payload, booking), read, booking)
                except _Passing as error:
                    if error.congested:
                        self.limit.congested(mark)
                    raise
                self.limit.succeeded()
                return answer

    async def _exchange(self, path: str, payload: bytes, booking: Booking) -> bytes:
        """One request and the body of its reply, whatever happens within the attempt's time."""
        import httpx

        seconds = self._settings.request_seconds
        try:
            async with asyncio.timeout(seconds):
                async with self._open().stream("POST", self.url + path, content=payload) as response:
                    content = await self._read(response)
        except TimeoutError:
            raise _Passing("timeout", f"nothing complete within {seconds:g} s", congested=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            booking.cost = 0.0
            raise _Passing("connection", f"no connection: {error!r}") from error
        except httpx.RequestError as error:
            raise _Passing("connection", f"the connection broke: {error!r}") from error
        except httpx.InvalidURL as error:
            raise RequestFailed("address", f"{self._title}: no address: {error}") from error
        if response.status_code != 200:
            booking.cost = 0.0
            self._refused(response.status_code, response.headers.get("retry-after", ""), content)
        return content

    def _open(self) -> httpx.AsyncClient:
        """Opened by the first request, in whose event loop it lives."""
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                headers={"content-type": "application/json", **self._headers},
                timeout=httpx.Timeout(None, connect=30.0),  # the attempt's own deadline covers the rest
                limits=httpx.Limits(max_keepalive_connections=self._settings.concurrency),
            )
        return self._client

    async def _read(self, response: httpx.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > MOST_BYTES:
                raise _Passing("unreadable", f"the reply is longer than {MOST_BYTES >> 20} MiB")
            parts.append(part)
        return b"".join(parts)

    def _refused(self, status: int, retry_after: str, content: bytes) -> None:
        """Raises what a status other than 200 means."""
        kind = f"HTTP {status}"
        if status in _KEY_REFUSED:  # what a server says of a key may quote it
            raise RequestFailed(
                kind,
                f"{self._title}: the server refused the key ({kind})"
                if self._secret
                else f"{self._title}: the server wants a key ({kind}) and none is set",
                "check the key's variable: docs/guides/http-models.md names it",
            )
        said = self._quoted(content)
        if (status in _PASSING or status >= 500) and "insufficient_quota" not in said:
            wait = seconds_of(retry_after)
            if wait > self._settings.longest_pause:
                raise RequestFailed(kind, f"{self._title}: {kind}, and not before {wait:.0f} s: {said}")
            self._welcome_at = max(self._welcome_at, time.monotonic() + wait)
            raise _Passing(kind, f"{kind}: {said}", wait=wait, congested=True)
        raise RequestFailed(kind, f"{self._title}: the server refused the request ({kind}): {said}")

    def _understood(self, content: bytes, read: Callable[[Any, Booking], T], booking: Booking) -> T:
        try:
            return read(json.loads(content), booking)
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            cause = f"{type(error).__name__}: {error}"
            raise _Passing(
                "unreadable", f"the reply is not in the form of this API ({cause}): {self._quoted(content)}"
            ) from None

    def _quoted(self, content: bytes) -> str:
        text = " ".join(content.decode("utf-8", "replace").split())
        if self._secret:
            text = text.replace(self._secret, "***")
        return text[:_QUOTED]

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Half of a doubling pause is fixed and half drawn, so that requests do not come back together."""
        import tenacity

        settings = self._settings
        drawn = tenacity.wait_exponential(
            multiplier=settings.first_pause / 2, max=settings.longest_pause / 2
        )(state)
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.wait if isinstance(failure, _Passing) else 0.0
        return asked + drawn + tenacity.wait_random(0, drawn)(state)

    def _note_retry(self, state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, _Passing):
            self._ledger.retried[failure.kind] += 1
            log.debug("%s: attempt %d: %s", self._title, state.attempt_number, failure)


def seconds_of(retry_after: str) -> float:
    """What a Retry-After header asks for: seconds, or a date. Nothing readable asks for nothing."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0
