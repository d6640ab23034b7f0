"""The embedded engine against the model's own forward and `generate`, on tiny Llama, Qwen2 and Qwen3 models."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from reasonkit.engines import Sampling
from reasonkit.engines.slot_cache import token_bytes
from reasonkit.engines.transformers import CACHE_SHARE, TransformersEngine
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Completion, VersionSpan
from tests.tiny_models import SHAPES, Shape, save_tiny_model, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
END = 2
TOKENIZER = tiny_tokenizer()
PROMPTS = [TOKENIZER.encode(f"{'What is ' * (place % 3)}{place * 7} plus {place}?") for place in range(14)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(model: PreTrainedModel, *, slots: int = 5, eos: Sequence[int] = (END,)) -> TransformersEngine:
    return TransformersEngine(model, eos, TOKENIZER, slots=slots)


def complete(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]
) -> list[Completion]:
    async def all_at_once() -> list[Completion]:
        pairs = zip(prompts, samplings, strict=True)
        return await asyncio.gather(*(engine.generate(prompt, sampling) for prompt, sampling in pairs))

    return asyncio.run(all_at_once())


def plain_logprobs(
    model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """What one forward over the whole sequence says of each token of the reply."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)]


def greedy(model: PreTrainedModel, prompt: Sequence[int], count: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    sequence = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, eos_token_id=END
    )
    return sequence[0, len(prompt) :].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_equals_generate_while_requests_join_and_leave(shape: Shape) -> None:
    """14 requests of mixed prompt and reply lengths pass through 5 slots."""
    engine, model = engine_of(tiny_model(shape)), tiny_model(shape)
    samplings = [Sampling(max_tokens=3 + 5 * (place % 7), temperature=0) for place in range(len(PROMPTS))]
    completions = complete(engine, PROMPTS, samplings)
    for prompt, sampling, completion in zip(PROMPTS, samplings, completions, strict=True):
        assert list(completion.token_ids) == greedy(model, prompt, sampling.max_tokens)
        assert completion.finish_reason == ("stop" if completion.token_ids[-1] == END else "length")
        assert completion.text == TOKENIZER.decode(completion.token_ids, skip_special_tokens=True)
        expected = plain_logprobs(model, prompt, completion.token_ids)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_sampled_logprobs_equal_a_plain_forward_at_the_temperature(shape: Shape) -> None:
    engine, model = engine_of(tiny_model(shape)), tiny_model(shape)
    samplings = [Sampling(max_tokens=30, temperature=0.7, seed=place) for place in range(len(PROMPTS))]
    for prompt, completion in zip(PROMPTS, complete(engine, PROMPTS, samplings), strict=True):
        expected = plain_logprobs(model, prompt, completion.token_ids, 0.7)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_a_prompt_of_one_token_needs_no_prefill() -> None:
    engine, model = engine_of(tiny_model("llama")), tiny_model("llama")
    [completion] = complete(engine, [[17]], [Sampling(max_tokens=9, temperature=0)])
    assert list(completion.token_ids) == greedy(model, [17], 9)


def test_replies_longer_than_the_first_allocation_are_right() -> None:
    """The cache grows while rows are live."""
    engine, model = engine_of(tiny_model("qwen3"), eos=()), tiny_model("qwen3")
    samplings = [Sampling(max_tokens=200, seed=place) for place in range(3)]
    for prompt, completion in zip(PROMPTS, complete(engine, PROMPTS[:3], samplings), strict=False):
        assert len(completion.token_ids) == 200
        expected = plain_logprobs(model, prompt, completion.token_ids)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_flight() -> None:
    samplings = [Sampling(max_tokens=25, seed=1000 + place) for place in range(len(PROMPTS))]
    together = complete(engine_of(tiny_model("llama"), slots=8), PROMPTS, samplings)
    alone = [
        complete(engine_of(tiny_model("llama"), slots=1), [prompt], [sampling])[0]
        for prompt, sampling in zip(PROMPTS, samplings, strict=True)
    ]
    assert [completion.token_ids for completion in together] == [completion.token_ids for completion in alone]


def test_samples_of_one_prompt_follow_the_models_distribution() -> None:
    engine, model = engine_of(tiny_model("llama"), slots=256), tiny_model("llama")
    count = 4_000
    samplings = [Sampling(max_tokens=1, temperature=1.5, seed=seed) for seed in range(count)]
    tokens = [done.token_ids[0] for done in complete(engine, [PROMPTS[0]] * count, samplings)]
    with torch.no_grad():
        expected = (model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 1.5).softmax(-1) * count
    counts = torch.bincount(torch.tensor(tokens), minlength=len(expected)).float()
    cells = expected >= 5
    freedom = int(cells.sum()) - 1
    statistic = float(((counts - expected) ** 2 / expected)[cells].sum())
    assert freedom >= 10
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations above the mean


def test_a_groups_prompt_is_computed_once() -> None:
    model = tiny_model("qwen2")
    prefilled: list[int] = []

    def count(_module: object, _args: object, inputs: dict[str, Any], _output: object) -> None:
        if inputs["attention_mask"] is None:
            prefilled.append(inputs["input_ids"].numel())

    model.register_forward_hook(count, with_kwargs=True)
    engine = engine_of(model, slots=16)
    samplings = [Sampling(max_tokens=12, seed=seed) for seed in range(16)]
    completions = complete(engine, [PROMPTS[2]] * 8 + [PROMPTS[5]] * 8, samplings)
    assert sum(prefilled) == 2 * (max(len(PROMPTS[2]), len(PROMPTS[5])) - 1)
    reference = tiny_model("qwen2")
    for prompt, completion in zip([PROMPTS[2]] * 8 + [PROMPTS[5]] * 8, completions, strict=True):
        expected = plain_logprobs(reference, prompt, completion.token_ids)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)
    assert len({completion.token_ids for completion in completions}) == 16


def test_the_same_order_gives_the_same_bits_whatever_the_clock_does() -> None:
    """Clients of several turns, which resubmit once they are answered, while forwards are delayed at random."""

    def run(delays: random.Random | None) -> list[Completion]:
        model = tiny_model("llama")
        if delays is not None:
            model.register_forward_pre_hook(lambda *_: time.sleep(delays.random() * 0.004))
        engine = engine_of(model, slots=4)

        async def client(place: int) -> list[Completion]:
            ids, said = list(PROMPTS[place]), []
            for turn in range(3):
                completion = await engine.generate(
                    ids, Sampling(max_tokens=4 + place, seed=place * 10 + turn)
                )
                said.append(completion)
                ids += [*completion.token_ids, 5]
            return said

        async def all_clients() -> list[Completion]:
            turns = await asyncio.gather(*(client(place) for place in range(9)))
            return [completion for said in turns for completion in said]

        return asyncio.run(all_clients())

    undisturbed = run(None)
    assert run(random.Random(1)) == undisturbed
    assert run(random.Random(2)) == undisturbed


def crowd() -> list[Completion]:
    engine = engine_of(tiny_model("qwen2"), slots=6)
    samplings = [Sampling(max_tokens=5 + 3 * place, seed=place, top_p=0.9) for place, _ in enumerate(PROMPTS)]
    return complete(engine, PROMPTS, samplings)


def test_another_process_gives_the_same_bits() -> None:
    """`repr` of a float names its every bit; the hash seed changes the order of whatever iterates over a set."""
    script = f"import torch; torch.set_num_threads(1); from {__name__} import crowd; print(crowd())"
    environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == repr(crowd()), done.stderr


class Weights:
    """A model's weights, as a learner hands them over: tied ones once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._model.named_parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_after_a_swap_match_the_new_weights_and_spans_say_where(shape: Shape) -> None:
    old, new = tiny_model(shape), tiny_model(shape, seed=1)
    engine = engine_of(tiny_model(shape), eos=())

    async def swap_after_the_shortest() -> list[Completion]:
        requests = [
            asyncio.create_task(engine.generate(prompt, Sampling(max_tokens=length, seed=length)))
            for prompt, length in zip(PROMPTS, (6, 20, 30, 25), strict=False)
        ]
        await requests[0]
        await engine.load_weights(Weights(new), version=7)
        return await asyncio.gather(*requests)

    completions = asyncio.run(swap_after_the_shortest())
    assert completions[0].versions == (VersionSpan(0, 0, 6),)
    for prompt, completion in zip(PROMPTS[1:], completions[1:], strict=False):
        before, after = completion.versions
        assert (before.version, before.start, after.version) == (0, 0, 7)
        assert before.end == after.start == 6
        assert after.end == len(completion.token_ids)
        for span, model in ((before, old), (after, new)):
            expected = plain_logprobs(model, prompt, completion.token_ids)[span.start : span.end]
            got = torch.tensor(completion.logprobs[span.start : span.end])
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_an_idle_engine_takes_new_weights() -> None:
    new = tiny_model("qwen2", seed=3)
    engine = engine_of(tiny_model("qwen2"))
    asyncio.run(engine.load_weights(Weights(new), version=1))
    [completion] = complete(engine, [PROMPTS[4]], [Sampling(max_tokens=12, temperature=0)])
    assert list(completion.token_ids) == greedy(new, PROMPTS[4], 12)
    assert completion.versions == (VersionSpan(1, 0, len(completion.token_ids)),)


def test_weights_that_do_not_fit_are_refused_and_change_nothing() -> None:
    engine, model = engine_of(tiny_model("llama")), tiny_model("llama")
    fitting = dict(Weights(tiny_model("llama", seed=1)))
    name, tensor = next(iter(fitting.items()))
    refusals = {
        r"hold 'another', which the engine's model does not have": {**fitting, "another": tensor},
        rf"'{name}' is \(99, 24\) in the weights of version 1 and \(99, 48\)": {
            **fitting,
            name: tensor[:, :24],
        },
        r"lack 20 of the model's 21 tensors": {name: tensor},
    }
    for complaint, weights in refusals.items():
        with pytest.raises(ReasonkitError, match=complaint):
            asyncio.run(engine.load_weights(list(weights.items()), version=1))
    [completion] = complete(engine, [PROMPTS[4]], [Sampling(max_tokens=12, temperature=0)])
    assert list(completion.token_ids) == greedy(model, PROMPTS[4], 12)
    assert completion.versions[0].version == 0


def test_a_stop_text_ends_the_reply_and_stays_in_it() -> None:
    engine = engine_of(tiny_model("llama"), eos=())
    [whole] = complete(engine, [PROMPTS[1]], [Sampling(max_tokens=60, seed=5)])
    stop = whole.text[20:23]
    end = whole.text.index(stop) + 3
    samplings = [Sampling(max_tokens=60, seed=5, stop=("never said", stop)), Sampling(max_tokens=60, seed=5)]
    stopped, unstopped = complete(engine, [PROMPTS[1]] * 2, samplings)
    assert stopped.text == whole.text[:end]
    assert stopped.finish_reason == "stop"
    assert whole.token_ids[: len(stopped.token_ids)] == stopped.token_ids
    assert TOKENIZER.decode(stopped.token_ids, skip_special_tokens=True) == whole.text[:end]
    assert unstopped.token_ids == whole.token_ids


def test_a_stop_text_in_the_prompt_does_not_count() -> None:
    engine = engine_of(tiny_model("llama"), eos=())
    prompt = TOKENIZER.encode("ab")
    [free] = complete(engine, [prompt], [Sampling(max_tokens=20, seed=1)])
    across = "b" + free.text[0]
    assert across not in free.text
    [completion] = complete(engine, [prompt], [Sampling(max_tokens=20, seed=1, stop=(across,))])
    assert completion.finish_reason == "length"


def test_fewer_are_decoded_at_once_where_memory_has_no_room_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones side by side, then long ones: the cache trades rows for columns, and every reply is right."""
    model, reference = tiny_model("qwen2"), tiny_model("qwen2")
    limit = 1024 * token_bytes(model.config, model.dtype)  # of 1,024 tokens
    monkeypatch.setattr("reasonkit.engines.transformers._memory_of", lambda _: limit / CACHE_SHARE)
    engine = engine_of(model, slots=14)
    shapes: list[tuple[int, int]] = []

    def note(_module: object, _args: object, inputs: dict[str, Any], _output: object) -> None:
        keys = inputs["past_key_values"]._keys
        assert 2 * keys.numel() * keys.element_size() <= limit
        if inputs["attention_mask"] is not None:
            shapes.append((len(inputs["input_ids"]), inputs["attention_mask"].shape[-1]))

    model.register_forward_hook(note, with_kwargs=True)
    for tokens in (10, 150, 20):
        completions = complete(engine, PROMPTS, [Sampling(max_tokens=tokens, temperature=0)] * len(PROMPTS))
        for prompt, completion in zip(PROMPTS, completions, strict=True):
            assert list(completion.token_ids) == greedy(reference, prompt, tokens)
    assert max(rows for rows, _ in shapes) == 14
    assert max(rows for rows, columns in shapes if columns > 128) <= 1024 // 192


def test_a_request_that_memory_has_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    room = 64 * token_bytes(model.config, model.dtype)
    monkeypatch.setattr("reasonkit.engines.transformers._memory_of", lambda _: room / CACHE_SHARE)
    engine = engine_of(model)
    with pytest.raises(
        ReasonkitError, match=r"max_tokens 62 take .* and the engine has .* 50% of"
    ) as refused:
        complete(engine, [[1, 2, 3]], [Sampling(max_tokens=62)])
    assert "at most 64 tokens: lower rollout.max_tokens" in refused.value.hint
    [fitting] = complete(engine, [[1, 2, 3]], [Sampling(max_tokens=61)])
    assert fitting.finish_reason in ("stop", "length")


def test_a_cancelled_request_frees_its_slot() -> None:
    engine = engine_of(tiny_model("llama"), slots=1, eos=())

    async def cancel_the_first() -> Completion:
        endless = asyncio.create_task(engine.generate(PROMPTS[0], Sampling(max_tokens=200)))
        waiting = asyncio.create_task(engine.generate(PROMPTS[1], Sampling(max_tokens=200)))
        following = asyncio.create_task(engine.generate(PROMPTS[2], Sampling(max_tokens=5, temperature=0)))
        await asyncio.sleep(0.02)
        endless.cancel()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        return await following

    completion = asyncio.run(cancel_the_first())
    assert list(completion.token_ids) == greedy(tiny_model("llama"), PROMPTS[2], 5)


def test_abort_returns_what_was_sampled_so_far() -> None:
    engine = engine_of(tiny_model("llama"), slots=2, eos=())

    async def abort_after_the_shortest() -> list[Completion]:
        requests = [
            asyncio.create_task(engine.generate(prompt, Sampling(max_tokens=length, seed=length)))
            for prompt, length in zip(PROMPTS, (4, 100, 100, 100), strict=False)
        ]
        await requests[0]
        await engine.abort()
        return await asyncio.gather(*requests)

    done, partial, *_, unstarted = asyncio.run(abort_after_the_shortest())
    assert done.finish_reason == "length"
    assert partial.finish_reason == unstarted.finish_reason == "abort"
    assert 4 <= len(partial.token_ids) < 100
    assert partial.versions == (VersionSpan(0, 0, len(partial.token_ids)),)
    assert unstarted.token_ids == ()
    [whole] = complete(engine, [PROMPTS[1]], [Sampling(max_tokens=100, seed=100)])
    assert whole.token_ids[: len(partial.token_ids)] == partial.token_ids


def test_close_fails_what_is_in_flight_and_what_comes_after() -> None:
    engine = engine_of(tiny_model("llama"), slots=1)

    async def close_early() -> list[BaseException | Completion]:
        requests = [
            asyncio.create_task(engine.generate(ids, Sampling(max_tokens=200))) for ids in PROMPTS[:3]
        ]
        await asyncio.sleep(0.01)
        await engine.close()
        await engine.close()
        return await asyncio.gather(*requests, return_exceptions=True)

    for outcome in asyncio.run(close_early()):
        assert isinstance(outcome, ReasonkitError)
        assert "closed while 3 requests were in flight" in outcome.message
    with pytest.raises(ReasonkitError, match="the engine is closed"):
        complete(engine, PROMPTS[:1], [Sampling(max_tokens=1)])


def test_a_failing_forward_fails_every_request() -> None:
    model = tiny_model("llama")

    def fail(*_: object) -> None:
        raise RuntimeError("no memory left")

    model.register_forward_pre_hook(fail)
    engine = engine_of(model)

    async def two() -> list[BaseException | Completion]:
        requests = [engine.generate(prompt, Sampling(max_tokens=3)) for prompt in PROMPTS[:2]]
        return await asyncio.gather(*requests, return_exceptions=True)

    for outcome in asyncio.run(two()):
        assert isinstance(outcome, ReasonkitError)
        assert "RuntimeError: no memory left" in outcome.message


def test_requests_that_cannot_be_served_are_refused() -> None:
    engine = TransformersEngine(tiny_model("llama", context=64), [END], slots=2)
    with pytest.raises(
        UsageError, match="prompt of 5 tokens and max_tokens 60 exceed the context of 64"
    ) as refused:
        complete(engine, [[4] * 5], [Sampling(max_tokens=60)])
    assert "at most 59 tokens" in refused.value.hint
    with pytest.raises(UsageError, match="no tokens"):
        complete(engine, [[]], [Sampling(max_tokens=1)])
    with pytest.raises(UsageError, match="max_tokens is 0"):
        complete(engine, [[4]], [Sampling(max_tokens=0)])
    with pytest.raises(UsageError, match="need a tokenizer"):
        complete(engine, [[4]], [Sampling(max_tokens=1, stop=("x",))])
    [completion] = complete(engine, [[4] * 5], [Sampling(max_tokens=59)])
    assert completion.text == ""


def test_one_engine_serves_several_event_loops_one_after_the_other() -> None:
    engine = engine_of(tiny_model("llama"))
    first = complete(engine, PROMPTS[:3], [Sampling(max_tokens=8, seed=2)] * 3)
    assert complete(engine, PROMPTS[:3], [Sampling(max_tokens=8, seed=2)] * 3) == first


def test_a_saved_model_is_loaded_with_its_tokenizer_and_its_end_tokens(tmp_path: Path) -> None:
    engine = TransformersEngine.from_path(save_tiny_model(tmp_path / "model", "qwen3"), slots=4)
    completions = complete(engine, PROMPTS, [Sampling(max_tokens=30, temperature=0)] * len(PROMPTS))
    model = tiny_model("qwen3")
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert list(completion.token_ids) == greedy(model, prompt, 30)
    ended = [completion for completion in completions if completion.finish_reason == "stop"]
    assert ended
    assert all(completion.token_ids[-1] == END for completion in ended)


def test_bfloat16_decodes(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "qwen2")
    engine = TransformersEngine.from_path(folder, dtype="bfloat16", slots=4)
    completions = complete(engine, PROMPTS, [Sampling(max_tokens=10, seed=3)] * len(PROMPTS))
    model = tiny_model("qwen2").to(torch.bfloat16)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = plain_logprobs(model, prompt, completion.token_ids)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected.float(), atol=0.5, rtol=0.1)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReasonkitError, match="no language model could be loaded") as refused:
        TransformersEngine.from_path(tmp_path, slots=1)
    assert "config.json" in refused.value.hint
