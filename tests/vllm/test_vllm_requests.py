"""What becomes of a request to the vLLM engine: how it ends, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasonkit.engines import Sampling
from reasonkit.engines.vllm import VllmEngine
from reasonkit.errors import Broken, ReasonkitError, UsageError
from reasonkit.records import Completion, VersionSpan
from reasonkit.train.model import load_model, load_tokenizer
from tests.vllm.conftest import CONTEXT, Engines, Folders, Run, assert_plain

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

PROMPT = [10, 20, 30, 40, 50]


def long_reply(engines: Engines, run: Run[Any], tokens: int = 60) -> tuple[int, Completion]:
    """A seed whose reply reaches `tokens`, and the reply."""

    async def several() -> list[Completion]:
        samplings = [Sampling(max_tokens=tokens, seed=seed) for seed in range(24)]
        return list(await asyncio.gather(*(engines.qwen.generate(PROMPT, each) for each in samplings)))

    replies = run(several())
    return next((seed, reply) for seed, reply in enumerate(replies) if reply.finish_reason == "length")


def test_a_stop_text_ends_the_reply_and_stays_in_it(engines: Engines, run: Run[Any]) -> None:
    seed, whole = long_reply(engines, run)
    stop = whole.text[20:23]
    end = whole.text.index(stop) + 3
    sampling = Sampling(max_tokens=60, seed=seed, stop=("never said", stop))
    stopped = run(engines.qwen.generate(PROMPT, sampling))
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[:end]
    assert whole.token_ids[: len(stopped.token_ids)] == stopped.token_ids
    assert len(stopped.logprobs) == len(stopped.token_ids) == stopped.versions[-1].end
    tokenizer = load_tokenizer(engines.folders.qwen)
    assert tokenizer.decode(stopped.token_ids, skip_special_tokens=True) == stopped.text


def test_a_stop_text_that_never_comes_changes_nothing(engines: Engines, run: Run[Any]) -> None:
    seed, whole = long_reply(engines, run)
    assert run(engines.qwen.generate(PROMPT, Sampling(max_tokens=60, seed=seed, stop=("\0",)))) == whole


def test_a_continued_reply_stops_at_a_text_that_began_before(engines: Engines, run: Run[Any]) -> None:
    sampling = Sampling(max_tokens=40, temperature=0)
    whole = run(engines.qwen.generate(PROMPT, sampling))
    begun = list(whole.token_ids[:10])
    spanning = load_tokenizer(engines.folders.qwen).decode(whole.token_ids[8:12])
    rest = Sampling(max_tokens=30, temperature=0, stop=(spanning,), drawn=10)
    continued = run(engines.qwen.generate([*PROMPT, *begun], rest))
    assert continued.token_ids == whole.token_ids[10:12]
    assert continued.finish_reason == "stop"
    in_the_prompt = Sampling(max_tokens=30, temperature=0, stop=(spanning,))
    assert (
        run(engines.qwen.generate([*PROMPT, *begun], in_the_prompt)).token_ids[:3] == whole.token_ids[10:13]
    )


def test_a_continued_reply_does_not_begin_its_draws_again(engines: Engines, run: Run[Any]) -> None:
    """From a prompt that repeats one token, equal draws would give equal tokens."""
    prompt = [7] * 200

    async def first_tokens(drawn: int) -> list[int]:
        samplings = [Sampling(max_tokens=1, temperature=2.0, seed=seed, drawn=drawn) for seed in range(40)]
        replies = await asyncio.gather(*(engines.qwen.generate(prompt, each) for each in samplings))
        return [reply.token_ids[0] for reply in replies]

    assert run(first_tokens(0)) == run(first_tokens(0))
    assert run(first_tokens(50)) == run(first_tokens(50))
    same = sum(a == b for a, b in zip(run(first_tokens(0)), run(first_tokens(50)), strict=True))
    assert same < 20


def test_abort_returns_what_was_sampled_and_the_request_can_be_made_again(
    engines: Engines, run: Run[Any]
) -> None:
    seed, whole = long_reply(engines, run, tokens=200)

    async def abort_midway() -> tuple[Completion, Completion]:
        long = asyncio.create_task(engines.qwen.generate(PROMPT, Sampling(max_tokens=500, seed=seed)))
        first = await engines.qwen.generate(PROMPT, Sampling(max_tokens=3, seed=seed))  # it came later
        await engines.qwen.abort()
        return first, await long

    for _ in range(5):  # this process may be kept from its core for longer than the reply takes
        first, partial = run(abort_midway())
        if partial.finish_reason == "abort":
            break
    assert first.finish_reason == "length"
    assert partial.finish_reason == "abort"
    assert 0 < len(partial.token_ids) < 500
    assert partial.versions == (VersionSpan(0, 0, len(partial.token_ids)),)
    common = min(len(partial.token_ids), 200)
    assert partial.token_ids[:common] == whole.token_ids[:common]
    assert run(engines.qwen.generate(PROMPT, Sampling(max_tokens=200, seed=seed))) == whole
    rest = Sampling(max_tokens=20, seed=seed, drawn=len(partial.token_ids))
    continued = run(engines.qwen.generate([*PROMPT, *partial.token_ids], rest))
    assert_plain(load_model(engines.folders.qwen), [*PROMPT, *partial.token_ids], continued)


def test_a_cancelled_request_ends_within_vllm_too(engines: Engines, run: Run[Any]) -> None:
    async def cancel() -> int:
        tasks = [
            asyncio.create_task(engines.qwen.generate(PROMPT, Sampling(max_tokens=500, seed=seed)))
            for seed in range(8)
        ]
        await engines.qwen.generate(PROMPT, Sampling(max_tokens=2))
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        return int(engines.qwen._llm.get_num_unfinished_requests())

    assert run(cancel()) == 0
    assert run(engines.qwen.generate(PROMPT, Sampling(max_tokens=4))).finish_reason == "length"


def test_requests_that_cannot_be_served_are_refused(engines: Engines, run: Run[Any]) -> None:
    with pytest.raises(UsageError, match=f"exceed the context of {CONTEXT} tokens") as refused:
        run(engines.qwen.generate([4] * 5, Sampling(max_tokens=CONTEXT)))
    assert f"at most {CONTEXT - 5} tokens" in refused.value.hint
    with pytest.raises(UsageError, match="no tokens"):
        run(engines.qwen.generate([], Sampling(max_tokens=1)))
    full = run(engines.qwen.generate([4] * 5, Sampling(max_tokens=CONTEXT - 5, temperature=0)))
    assert full.finish_reason in ("length", "stop")


def test_vllm_that_hangs_while_it_samples_is_ended_and_one_that_is_slow_is_not(
    folders: Folders, run: Run[Any]
) -> None:
    engine = VllmEngine.from_path(folders.qwen, dtype="float32", context=CONTEXT, stalled=3, name="the slow")
    processes = list(engine._running.processes)

    def long_replies(seed: int) -> list[asyncio.Task[Completion]]:
        samplings = [Sampling(max_tokens=500, seed=seed + number) for number in range(16)]
        return [asyncio.create_task(engine.generate(PROMPT, each)) for each in samplings]

    async def hang() -> None:
        started = time.monotonic()
        while time.monotonic() - started < 6:
            await asyncio.gather(*long_replies(0))
        hung = long_replies(100)
        await asyncio.sleep(0.1)
        processes[0].suspend()
        failures = await asyncio.gather(*hung, return_exceptions=True)
        [failure] = {each for each in failures if isinstance(each, Broken)}
        assert "the slow has had no token for any of its" in failure.message
        assert "for 3 s" in failure.message
        assert not psutil.wait_procs(processes, timeout=30)[1]
        await engine.close()

    run(hang())


def test_an_engine_that_cannot_start_says_why(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ReasonkitError, match=f"vLLM could not start on {tmp_path}"):
        VllmEngine.from_path(tmp_path)
    with pytest.raises(ReasonkitError, match=rf"vLLM could not start on .*max_model_len \({CONTEXT * 2}\)"):
        VllmEngine.from_path(folders.llama, context=CONTEXT * 2)
    with pytest.raises(UsageError, match="weights cannot go by 'nccl' to an engine on a CPU"):
        VllmEngine.from_path(folders.llama, transfer="nccl")
