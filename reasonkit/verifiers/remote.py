"""Verdicts from a server elsewhere: `reasonkit serve-judge`, or an original RL Verifier.

`RemoteGrader` has the face of `Grader`, so a run may hold either. Questions that wait at the same moment travel
together where the server takes batches, and each verdict counts as soon as its line has come: when a connection
breaks, only what had no verdict yet is asked again, elsewhere if there is an elsewhere.

A host that fails is left alone, longer each time, and must answer a ping before it is trusted again. While no host
is up, questions wait; once none has been for `patience` seconds they become errors, which a trainer records as
failed rollouts and never takes for a 0. So a restart of the server costs a run nothing but the time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Record, Status, Verdict, dumps
from reasonkit.verifiers.remote_log import RewardLog
from reasonkit.verifiers.routing import VERIFIERS, verifier_name

PING_SECONDS = 5.0
MOST_ITEMS = 64
MOST_BYTES = 4 << 20
"""Of one request: a batch is no reason to wait for its slowest verdict, since they come one by one."""
ATTEMPTS = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may be over in a moment."""

LEGACY_TYPES = {"math": "math_verifiable", "gsm8k": "math_verifiable", "judge": "llm_judge"}
"""Of RL Verifier, for records whose answer is one text."""


@dataclass(slots=True, eq=False)
class _Question:
    record: Record
    text: str
    answer: asyncio.Future[Verdict]
    attempts: int = 0
    avoid: _Host | None = None
    """The host that failed it last."""
    _body: bytes = b""

    def body(self) -> bytes:
        """As an item of a batch. ValueError or TypeError where the record is nothing that JSON can say."""
        if not self._body:
            item = {"record": _wire(self.record), "response": self.text}
            self._body = json.dumps(item, allow_nan=False).encode()
        return self._body


@dataclass(slots=True, eq=False)
class _Host:
    url: str
    batch: str = ""
    """The path that takes many questions; empty for an RL Verifier."""
    in_flight: int = 0
    failures: int = 0
    down_since: float | None = None
    retry_at: float = 0.0
    pinging: bool = False
    last: str = ""

    def fail(self, why: str) -> None:
        now = time.monotonic()
        self.down_since = now if self.down_since is None else self.down_since
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self.failures)
        self.failures += 1
        self.retry_at = now + pause * random.uniform(0.5, 1.0)
        self.last = why

    def recover(self, batch: str) -> None:
        self.batch, self.down_since, self.failures = batch, None, 0


class _Failed(Exception):
    """The host and not the question is at fault, as far as one can tell."""


class RemoteGrader:
    """`async with RemoteGrader(url=…) as grader: verdict = await grader.verify(record, text)`.

    `url` is one address or several, of which every request takes one. `max_workers` requests run at a time, each
    with `timeout` seconds until the next piece of its answer. With `verification_info_column`, that field of a
    record's metadata goes to the server as RL Verifier's `verification_info`. With `save_dir`, what was asked and
    answered is kept in `{train,val}/{step}.parquet`, every `save_freq` steps (see `at`). `api_key_env` names the
    variable that holds the server's token.
    """

    def __init__(
        self,
        *,
        url: str | Sequence[str],
        verification_info_column: str = "",
        max_workers: int = 32,
        timeout: float = 300.0,
        patience: float = 120.0,
        save_dir: str = "",
        save_freq: int = 1,
        api_key_env: str = "",
    ) -> None:
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise UsageError("no address of a reward server", "verifier: {remote: {url: http://HOST:8000}}")
        self._hosts = [_Host(each.rstrip("/")) for each in urls]
        self._column = verification_info_column
        self._most = max_workers
        self._timeout = timeout
        self._patience = patience
        self._log = RewardLog(Path(save_dir), save_freq) if save_dir else None
        self._headers = _authorization(api_key_env)
        self._waiting: deque[_Question] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._asked: set[_Question] = set()
        """All that have no verdict yet, waiting or under way."""
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        limits = httpx.Limits(max_connections=self._most + 1, max_keepalive_connections=self._most)
        timeout = httpx.Timeout(self._timeout, connect=PING_SECONDS)
        self._client = httpx.AsyncClient(limits=limits, timeout=timeout, headers=self._headers)
        try:
            for host in self._hosts:
                host.recover(await self._ping(host))
        except _Failed as failure:
            await self.close()
            raise ReasonkitError(
                f"the reward server at {_shown(host.url)} does not answer: {failure}",
                f"start it (reasonkit serve-judge), then try: curl {_shown(host.url)}/ping",
            ) from None
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        for sender in tuple(self._senders):
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        for question in tuple(self._asked):
            _answer(question, Verdict.error("the grader was closed before this verdict"))
        if self._log is not None:
            await self._log.close()
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def check(self, records: Iterable[Record]) -> None:
        """Raise UsageError if the server could not be asked about one of `records`."""
        legacy = bool(self._column) or not all(host.batch for host in self._hosts)
        for record in records:
            if legacy:
                self._info(record)
            elif verifier_name(record) not in VERIFIERS:
                raise UsageError(
                    f"a reward server does not run the verifier '{verifier_name(record)}', which is your own",
                    "leave `verifier: {remote: …}` out of the recipe: your verifier runs here",
                )

    async def verify(self, record: Record, text: str) -> Verdict:
        """The server's verdict on `text` as a reply to `record`; an `error` where none could be had."""
        assert self._client is not None, "open the grader first: async with RemoteGrader(…)"
        question = _Question(record, text, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        self._asked.add(question)
        question.answer.add_done_callback(lambda _: self._asked.discard(question))
        if len(self._senders) < self._most:
            sender = asyncio.create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        if self._log is None:
            return await question.answer
        with self._log.entry() as note:
            verdict = await question.answer
            note(self._row(record, text, verdict))
        return verdict

    def at(self, split: str, step: int) -> AbstractContextManager[None]:
        """What is asked within belongs to this step of `train` or `val`, and is written down when it has ended."""
        return nullcontext() if self._log is None else self._log.at(split, step)

    async def _send(self) -> None:
        """Carry questions to hosts until none waits."""
        await asyncio.sleep(0)  # those that are asked at the same moment go together
        while self._waiting:
            host = await self._usable(self._waiting[0].avoid)
            if host is None:
                self._give_up()
                continue
            batch = self._take(host)
            if not batch:
                continue
            host.in_flight += 1
            try:
                await self._deliver(host, batch)
            except _Failed as failure:
                host.fail(str(failure))
                self._ask_again(batch, host, str(failure))
            except Exception as bug:  # belongs to whoever asked, who would wait for ever
                for question in _open(batch):
                    question.answer.set_exception(bug)
            finally:
                host.in_flight -= 1

    def _take(self, host: _Host) -> list[_Question]:
        alone = not host.batch or self._column
        batch: list[_Question] = []
        size = 0
        while self._waiting and len(batch) < (1 if alone else MOST_ITEMS) and size < MOST_BYTES:
            question = self._waiting.popleft()
            if question.answer.done():  # whoever asked has gone
                continue
            try:
                size += 0 if alone else len(question.body())
            except (ValueError, TypeError) as error:
                _answer(question, Verdict.error(f"the record cannot be sent: {error}"))
            else:
                batch.append(question)
        return batch

    def _ask_again(self, batch: Sequence[_Question], host: _Host, why: str) -> None:
        for question in _open(batch):
            question.attempts += 1
            question.avoid = host
            if question.attempts >= ATTEMPTS:
                _answer(question, Verdict.error(f"the reward server failed {ATTEMPTS} times, last: {why}"))
            else:
                self._waiting.append(question)

    async def _usable(self, avoid: _Host | None) -> _Host | None:
        """The least busy host that is up, rather not `avoid`; None when none has been up for too long."""
        while True:
            up = [host for host in self._hosts if host.down_since is None]
            if up:
                return min(
                    up, key=lambda host: (host is avoid and len(up) > 1, host.in_flight, random.random())
                )
            now = time.monotonic()
            due = [host for host in self._hosts if host.retry_at <= now and not host.pinging]
            for host in due:
                await self._try(host)
            if due:
                continue
            if all(now - (host.down_since or now) > self._patience for host in self._hosts):
                return None
            await asyncio.sleep(0.05)

    async def _try(self, host: _Host) -> None:
        host.pinging = True
        try:
            host.recover(await self._ping(host))
        except _Failed as failure:
            host.fail(str(failure))
        finally:
            host.pinging = False

    def _give_up(self) -> None:
        reasons = "; ".join(f"{_shown(host.url)}: {host.last}" for host in self._hosts)
        for question in self._waiting:
            _answer(question, Verdict.error(f"no reward server for over {self._patience:g} s ({reasons})"))
        self._waiting.clear()

    async def _ping(self, host: _Host) -> str:
        """The host's batch route, or ''."""
        assert self._client is not None
        try:
            response = await self._client.get(f"{host.url}/ping", timeout=PING_SECONDS)
            found = response.json() if response.status_code == 200 else None
        except httpx.HTTPError as error:
            raise _Failed(_words(error)) from None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise _Failed(f"it answered {response.status_code} to a ping")
        return str(found.get("batch") or "")

    async def _deliver(self, host: _Host, batch: Sequence[_Question]) -> None:
        try:
            if host.batch and not self._column:
                await self._ask_batch(host, batch)
            else:
                await self._ask_legacy(host, batch[0])
        except httpx.HTTPError as error:
            raise _Failed(_words(error)) from None

    async def _ask_batch(self, host: _Host, batch: Sequence[_Question]) -> None:
        assert self._client is not None
        body = b'{"items":[' + b",".join(question.body() for question in batch) + b"]}"
        headers = {"Content-Type": "application/json"}
        request = self._client.stream("POST", host.url + host.batch, content=body, headers=headers)
        async with request as response:
            if response.status_code != 200:
                await response.aread()
                self._refused(response, batch)
                return
            async for line in _lines(response):
                try:
                    found = json.loads(line)
                    question, verdict = batch[found["index"]], verdict_of(found)
                except (ValueError, KeyError, IndexError, TypeError) as error:
                    raise _Failed(f"a line of its answer cannot be read: {error!r}") from None
                _answer(question, verdict)
        if _open(batch):
            raise _Failed(f"its answer ended with {len(_open(batch))} of {len(batch)} verdicts missing")

    async def _ask_legacy(self, host: _Host, question: _Question) -> None:
        assert self._client is not None
        try:
            info = self._info(question.record)
        except UsageError as error:
            _answer(question, Verdict.error(error.message))
            return
        body = {"llm_output": question.text, "verification_info": info}
        response = await self._client.post(f"{host.url}/reward", json=body)
        if response.status_code != 200:
            self._refused(response, [question])
            return
        try:
            score = float(response.json()["score"])
        except (ValueError, KeyError, TypeError) as error:
            raise _Failed(f"its answer is no score: {error!r}") from None
        _answer(question, _verdict_of_score(score))

    def _refused(self, response: httpx.Response, batch: Sequence[_Question]) -> None:
        """An answer other than 200: the host's trouble, or the questions'."""
        said = f"status {response.status_code}: {response.text[:200]}"
        if response.status_code in PASSING:
            raise _Failed(said)
        for question in batch:
            _answer(question, Verdict.error(f"the reward server refused it with {said}"))

    def _info(self, record: Record) -> str:
        """The record as RL Verifier's `verification_info`."""
        if not self._column:
            return verification_info(record)
        given = record.metadata.get(self._column)
        if not given:
            raise UsageError(
                f"record '{record.uid}' of {record.source} has no '{self._column}' in its metadata",
                "name another verification_info_column, or none",
            )
        return given if isinstance(given, str) else dumps(given)

    def _row(self, record: Record, text: str, verdict: Verdict) -> dict[str, Any]:
        try:
            info = self._info(record)
        except UsageError:
            info = dumps({"type": verifier_name(record), "answer": record.answer})
        return {
            "llm_output": text,
            "verification_info": info,
            "score": None if verdict.status.is_failure else verdict.score,
            "id": record.uid,
            "data_source": record.source,
        }


def verification_info(record: Record) -> str:
    """A record in RL Verifier's terms; UsageError where it has none for it."""
    name, answer = verifier_name(record), record.answer
    if name in LEGACY_TYPES:
        return dumps({"type": LEGACY_TYPES[name], "answer": {"value": str(answer)}})
    if name == "code" and isinstance(answer, Mapping) and "test_cases" in answer:
        return dumps({"type": "code_verifiable", "answer": dict(answer)})
    if name == "swe":
        return dumps({"type": "swe_verifiable", "answer": answer})
    if name == "ifeval" and isinstance(answer, Mapping):
        prompt = record.prompt[-1]["content"] if record.prompt else ""
        return dumps({"type": "if_verifier", "answer": {"prompt": prompt, **answer}})
    raise UsageError(
        f"an RL Verifier knows no '{name}' records (source '{record.source}')",
        "ask a reasonkit server: reasonkit serve-judge",
    )


def verdict_of(found: Mapping[str, Any]) -> Verdict:
    """A verdict from a line of a batch's answer."""
    status, score = Status(found["status"]), found["score"]
    if status.is_failure:
        return Verdict(status, 0.0, None, str(found["reason"]), found["details"])
    if not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
        raise ValueError(f"status {status} with score {score}")
    return Verdict(status, float(score), found["answer"], str(found["reason"]), found["details"])


def _verdict_of_score(score: float) -> Verdict:
    if not 0.0 <= score <= 1.0:
        return Verdict.error(f"the reward server gave the score {score}, which is not in [0, 1]")
    if score == 1.0:
        return Verdict.correct(None, "the reward server says so")
    return Verdict.wrong(None, f"the reward server gives {score:g}", score)


def _answer(question: _Question, verdict: Verdict) -> None:
    if not question.answer.done():
        question.answer.set_result(verdict)


def _open(batch: Sequence[_Question]) -> list[_Question]:
    return [question for question in batch if not question.answer.done()]


def _wire(record: Record) -> dict[str, Any]:
    return {
        "source": record.source,
        "answer": record.answer,
        "verifier": record.verifier,
        "prompt": record.prompt,
        "uid": record.uid,
        "metadata": dict(record.metadata),
    }


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines that end with \\n and nothing else; httpx's own would also end at a separator inside a text."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _authorization(variable: str) -> dict[str, str]:
    if not variable:
        return {}
    token = os.environ.get(variable, "").strip()
    if not token:
        raise UsageError(f"api_key_env names {variable}, which is not set", f"export {variable}=…")
    return {"Authorization": f"Bearer {token}"}


def _shown(url: str) -> str:
    """The address without what may be a token in its path or its user part."""
    parts = httpx.URL(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.host}{port}"


def _words(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__} {error}".strip()
