"""HttpEngine against a server that speaks vLLM's dialect of token ids, with a real model behind it.

The model is reasonkit's own engine, so that what comes over HTTP can be held against it token by token. Real
vLLM is asked in tests/vllm.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonkit.engines import Sampling
from reasonkit.engines.http_client import HttpSettings, RequestFailed
from reasonkit.engines.http_engine import HttpEngine
from reasonkit.engines.http_ledger import Ledger
from reasonkit.engines.names import parse_model
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Completion
from tests.chat_server import Drop, Half, Refuse, serve_chat
from tests.tiny_models import save_tiny_model

PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 30, 31, 32, 33]]
QUICK = HttpSettings(attempts=4, first_pause=0.002, longest_pause=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@contextmanager
def vllm_dialect(folder: Path, *, raw: bool = False) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """What vLLM 0.32 answers to /v1/completions; with `raw`, as it does when started without --logprobs-mode."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = TransformersEngine.from_path(folder)

    def complete(body: dict[str, Any], **changed: float) -> Completion:
        sampling = Sampling(
            body["max_tokens"], body["temperature"], body["top_p"], body["top_k"], body["min_p"],
            tuple(body["stop"]), body["seed"],
        )  # fmt: skip
        call = engine.generate(body["prompt"], replace(sampling, **changed))
        return asyncio.run_coroutine_threadsafe(call, loop).result(60)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert body["return_token_ids"]
        done = complete(body)
        best = complete(body, temperature=0.0 if raw or body["temperature"] == 1.0 else body["temperature"])
        logprobs = {
            "token_logprobs": list(done.logprobs),
            "top_logprobs": [{"a": logprob} for logprob in best.logprobs],
        }
        choice = {
            "text": done.text,
            "finish_reason": done.finish_reason,
            "token_ids": list(done.token_ids),
            "prompt_token_ids": body["prompt"],
            "logprobs": logprobs,
        }
        return {"choices": [choice]}

    try:
        yield answer
    finally:
        asyncio.run_coroutine_threadsafe(engine.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def over_http(url: str, *samplings: Sampling, ledger: Ledger | None = None) -> list[Completion]:
    async def run() -> list[Completion]:
        engine = HttpEngine(parse_model(f"local:m@{url}"), ledger=ledger, settings=QUICK)
        try:
            return await asyncio.gather(
                *(engine.generate(prompt, each) for prompt in PROMPTS for each in samplings)
            )
        finally:
            await engine.close()

    return asyncio.run(run())


def here(folder: Path, *samplings: Sampling) -> list[Completion]:
    async def run() -> list[Completion]:
        engine = TransformersEngine.from_path(folder)
        try:
            return [await engine.generate(prompt, each) for prompt in PROMPTS for each in samplings]
        finally:
            await engine.close()

    return asyncio.run(run())


def test_tokens_and_log_probabilities_come_over_unchanged(folder: Path) -> None:
    samplings = [
        Sampling(max_tokens=12, temperature=0.0),
        Sampling(max_tokens=12, seed=7),
        Sampling(max_tokens=12, temperature=0.7, top_p=0.9, top_k=20, min_p=0.01, seed=3),
    ]
    ledger = Ledger()
    with vllm_dialect(folder) as answer, serve_chat(answer, [Half(), Refuse(503), Drop()]) as server:
        remote = over_http(server.url, *samplings, ledger=ledger)
    local = here(folder, *samplings)
    for there, mine in zip(remote, local, strict=True):
        assert there.token_ids == mine.token_ids
        assert there.logprobs == pytest.approx(mine.logprobs, abs=1e-4)  # other batches, other low bits
        assert (there.text, there.finish_reason) == (mine.text, mine.finish_reason)
        assert there.versions == mine.versions
    assert ledger.retried.total() == 3
    assert ledger.completion_tokens >= sum(len(each.token_ids) for each in local)


def test_log_probabilities_from_before_the_temperature_are_refused_where_they_differ(folder: Path) -> None:
    with vllm_dialect(folder, raw=True) as answer, serve_chat(answer) as server:
        over_http(server.url, Sampling(max_tokens=3))
        with pytest.raises(ReasonkitError, match="before temperature") as caught:
            over_http(server.url, Sampling(max_tokens=3, temperature=0.5))
    assert "--logprobs-mode processed_logprobs" in caught.value.hint


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"choices": [{"text": "hi", "finish_reason": "stop"}]}, "returns no token ids"),
        (
            {"choices": [{"text": "", "token_ids": [], "prompt_token_ids": [9], "logprobs": None}]},
            "changed the prompt: 4 tokens were sent, 1 were read",
        ),
    ],
)
def test_a_server_that_does_not_speak_ids_is_refused_at_once(answer: dict[str, Any], said: str) -> None:
    with serve_chat(lambda body: answer) as server:
        with pytest.raises(RequestFailed, match=said) as caught:
            ask_once(server.url)
        assert len(server.seen) == 1
    assert "vllm serve" in caught.value.hint


def test_a_server_that_refuses_ids_is_named_with_what_to_do() -> None:
    fault = Refuse(400, body="unknown parameter: return_token_ids")
    with (
        serve_chat(lambda body: "", [fault]) as server,
        pytest.raises(RequestFailed, match="unknown parameter: return_token_ids") as caught,
    ):
        ask_once(server.url)
    assert "vllm serve" in caught.value.hint


def test_ids_without_their_log_probabilities_are_no_reply() -> None:
    short = {"text": "x", "finish_reason": "stop", "token_ids": [4, 5], "prompt_token_ids": PROMPTS[0]}
    body = {"choices": [{**short, "logprobs": {"token_logprobs": [-0.1]}}]}
    with (
        serve_chat(lambda _: body) as server,
        pytest.raises(RequestFailed, match="2 ids and 1 log-probabilities"),
    ):
        ask_once(server.url)


def test_weights_cannot_be_loaded_over_http() -> None:
    engine = HttpEngine(parse_model("local:m"))
    with pytest.raises(ReasonkitError, match="cannot be loaded into a server"):
        asyncio.run(engine.load_weights(iter(()), 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["anthropic:m", "vllm:m", "runs/tiny"])
def test_what_is_no_server_of_ids_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match="no server of token ids"):
        HttpEngine(parse_model(name))


def ask_once(url: str) -> Completion:
    async def run() -> Completion:
        engine = HttpEngine(parse_model(f"local:m@{url}"), settings=QUICK)
        try:
            return await engine.generate(PROMPTS[0], Sampling(max_tokens=3))
        finally:
            await engine.close()

    return asyncio.run(run())
