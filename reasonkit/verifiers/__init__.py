"""Verifiers: `(Record, text) -> Verdict`, the one scoring path of training, evaluation, filtering and the judge.

A verifier never raises on what a model wrote: hostile, empty or absurd text gets a Verdict. It
raises only where the Record itself is unusable. `text` is the model's reply alone, without the
prompt. Each family is one file; `routing` names them and says which one a data source uses, `Grader`
runs them where they belong: in this thread, in the killable pool, in the sandbox, at a judge.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from functools import cache

from reasonkit.records import Record, Verdict
from reasonkit.registry import load
from reasonkit.verifiers.grader import AsyncVerifier, Grader, Verifier, refuse
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.routing import INLINE, ROUTES, VERIFIERS, Mode, target, verifier_name
from reasonkit.verifiers.worker import verdict_of

__all__ = ["ROUTES", "VERIFIERS", "AsyncVerifier", "Grader", "Mode", "Verifier", "verify"]


def verify(record: Record, text: str, *, mode: Mode = "strict") -> Verdict:
    """The verdict on `text` as a reply to `record`, from any thread. A coroutine holds a Grader instead."""
    name = verifier_name(record)
    where = target(name, mode)
    verifier = load(where)
    refused = refuse(text)
    if refused is not None:
        return refused
    if inspect.iscoroutinefunction(verifier):
        grader, loop = _shared_grader(mode)
        return asyncio.run_coroutine_threadsafe(grader.verify(record, text), loop).result()
    if name in INLINE:
        return verdict_of(verifier, record, text)
    return _shared_pool().submit(where, record, text).result()


@cache
def _shared_grader(mode: Mode) -> tuple[Grader, asyncio.AbstractEventLoop]:
    """One Grader for callers without an event loop, on a loop and thread of its own. It lasts as long as the
    process; what it holds, sandbox workers above all, ends by itself when the process does."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="verify", daemon=True).start()
    return Grader(mode=mode), loop


@cache
def _shared_pool() -> VerifierPool:
    pool = VerifierPool()
    atexit.register(pool.close)
    return pool
