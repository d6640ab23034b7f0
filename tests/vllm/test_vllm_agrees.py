"""The vLLM engine agrees with the model's own forward, with the transformers engine and with the learner.

Left out: speed, and everything that vLLM itself is responsible for.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasonkit.engines import Engine, Sampling
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.engines.vllm import Adapted
from reasonkit.errors import UsageError
from reasonkit.recipe import LossConfig, TrainConfig
from reasonkit.records import Completion, Group, Record, Rollout, Segment, Verdict
from reasonkit.train.model import load_model, load_tokenizer
from reasonkit.train.packing import Batch, assemble, mini_batches
from tests.learners import local_learner
from tests.vllm.conftest import TOLERANCE, Engines, Run, assert_plain

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),  # an engine takes up to minutes to start on a busy machine
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it loads warn about themselves
]

DRAW = random.Random(0)
PROMPTS = [[DRAW.randrange(90) for _ in range(length)] for length in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)]


async def complete(
    engine: Engine, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]
) -> list[Completion]:
    pairs = zip(prompts, samplings, strict=True)
    return await asyncio.gather(*(engine.generate(prompt, sampling) for prompt, sampling in pairs))


def by_transformers(folder: Path, prompts: list[list[int]], samplings: list[Sampling]) -> list[Completion]:
    async def all_at_once() -> list[Completion]:
        engine = TransformersEngine.from_path(folder, slots=256)
        try:
            return await complete(engine, prompts, samplings)
        finally:
            await engine.close()

    return asyncio.run(all_at_once())


def test_greedy_replies_are_those_of_the_transformers_engine(engines: Engines, run: Run[Any]) -> None:
    samplings = [Sampling(max_tokens=10 + 20 * (place % 4), temperature=0) for place in range(len(PROMPTS))]
    theirs = run(complete(engines.qwen, PROMPTS, samplings))
    ours = by_transformers(engines.folders.qwen, PROMPTS, samplings)
    for their, our in zip(theirs, ours, strict=True):
        assert their.token_ids == our.token_ids
        assert their.finish_reason == our.finish_reason
        assert their.text == our.text
        assert their.logprobs == pytest.approx(our.logprobs, abs=TOLERANCE)
    assert len({reply.token_ids for reply in ours}) > 1, "one reply to every prompt would prove little"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_a_plain_forward_at_the_temperature(
    engines: Engines, run: Run[Any], temperature: float
) -> None:
    samplings = [
        Sampling(max_tokens=60, temperature=temperature, seed=place) for place in range(len(PROMPTS))
    ]
    model = load_model(engines.folders.qwen)
    for prompt, reply in zip(PROMPTS, run(complete(engines.qwen, PROMPTS, samplings)), strict=True):
        assert_plain(model, prompt, reply, temperature)


def test_the_learner_gives_sampled_tokens_the_same_log_probs(engines: Engines, run: Run[Any]) -> None:
    samplings = [Sampling(max_tokens=40, temperature=0.8, seed=place) for place in range(len(PROMPTS))]
    replies = run(complete(engines.qwen, PROMPTS, samplings))
    learner = local_learner(
        load_model(engines.folders.qwen),
        loss=LossConfig(),
        train=TrainConfig(),
        total_updates=1,
        max_tokens=40,
        temperature=0.8,
    )
    scored = asyncio.run(learner.logprobs(batch_of(PROMPTS, replies), reference=False))
    for reply, mine in zip(replies, scored, strict=True):
        assert reply.logprobs == pytest.approx(mine.tolist(), abs=TOLERANCE)


def test_what_is_cut_off_is_renormalised_as_the_transformers_engine_does(
    engines: Engines, run: Run[Any]
) -> None:
    """Greedy draws do not depend on generators: with one token kept, both engines must say probability 1."""
    samplings = [Sampling(max_tokens=12, top_k=1, seed=5)] * len(PROMPTS)
    theirs = run(complete(engines.qwen, PROMPTS, samplings))
    ours = by_transformers(engines.folders.qwen, PROMPTS, samplings)
    for their, our in zip(theirs, ours, strict=True):
        assert their.token_ids == our.token_ids
        assert their.logprobs == pytest.approx(our.logprobs, abs=TOLERANCE)
        assert their.logprobs == pytest.approx([0.0] * len(their.logprobs), abs=TOLERANCE)


@pytest.mark.parametrize("cut", [{}, {"top_p": 0.7}, {"min_p": 0.1}], ids=["whole", "top_p", "min_p"])
def test_both_engines_sample_from_one_distribution(
    engines: Engines, run: Run[Any], cut: dict[str, float]
) -> None:
    """Chi-square of two samples: 2,000 replies of two tokens each, with other seeds."""
    count = 2000
    prompt = PROMPTS[5]
    replies = []
    for first in (0, count):
        samplings = [
            Sampling(max_tokens=2, temperature=1.5, seed=first + place, **cut) for place in range(count)
        ]
        if first == 0:
            replies.append(run(complete(engines.qwen, [prompt] * count, samplings)))
        else:
            replies.append(by_transformers(engines.folders.qwen, [prompt] * count, samplings))
    for position in (0, 1):
        theirs, ours = (
            Counter(reply.token_ids[position] for reply in sample if len(reply.token_ids) > position)
            for sample in replies
        )
        statistic, freedom = two_sample_chi_square(theirs, ours)
        assert freedom >= 5
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations above the mean


def two_sample_chi_square(one: Counter[int], other: Counter[int]) -> tuple[float, int]:
    """Over the tokens that both samples together hold at least ten of."""
    common = [token for token in one.keys() | other.keys() if one[token] + other[token] >= 10]
    statistic = sum((one[token] - other[token]) ** 2 / (one[token] + other[token]) for token in common)
    return statistic, len(common) - 1


def test_a_seed_gives_the_same_tokens_in_any_order_of_arrival(engines: Engines, run: Run[Any]) -> None:
    jobs = [
        (PROMPTS[place % len(PROMPTS)], Sampling(max_tokens=30 + place, seed=1000 + place))
        for place in range(33)
    ]

    async def in_order(order: Sequence[int], pause: float = 0.0) -> dict[int, tuple[int, ...]]:
        running = {}
        for place in order:
            running[place] = asyncio.create_task(engines.qwen.generate(*jobs[place]))
            await asyncio.sleep(pause)
        return {place: (await task).token_ids for place, task in running.items()}

    places = range(len(jobs))
    first = run(in_order(places))
    assert run(in_order(DRAW.sample(places, len(jobs)))) == first
    assert run(in_order(DRAW.sample(places, len(jobs)), pause=0.003)) == first
    alone = {place: run(in_order([place]))[place] for place in (0, 7, 32)}
    assert alone == {place: first[place] for place in alone}
    assert len(set(first.values())) == len(jobs)


def test_an_adapter_folder_is_an_engine_of_its_base_with_the_adapter(engines: Engines, run: Run[Any]) -> None:
    from peft import PeftModel

    folders, engine = engines.folders, engines.adapted
    samplings = [Sampling(max_tokens=30, seed=place) for place in range(len(PROMPTS))]

    async def all_three() -> list[list[Completion]]:
        """At the same time: one batch mixes the base and both adapters."""
        other = await engine.adapter(folders.other_adapter)
        assert isinstance(other, Adapted)
        plain = asyncio.gather(
            *(
                engine.sample(prompt, sampling, None)
                for prompt, sampling in zip(PROMPTS, samplings, strict=True)
            )
        )
        replies = await asyncio.gather(
            complete(engine, PROMPTS, samplings), complete(other, PROMPTS, samplings), plain
        )
        await other.close()
        return list(replies)

    replies = run(all_three())
    models = [
        PeftModel.from_pretrained(load_model(folders.llama), folders.adapter),
        PeftModel.from_pretrained(load_model(folders.llama), folders.other_adapter),
        load_model(folders.llama),
    ]
    for model, said in zip(models, replies, strict=True):
        for prompt, reply in zip(PROMPTS, said, strict=True):
            assert_plain(model, prompt, reply)
    assert len({tuple(reply.token_ids for reply in said) for said in replies}) == 3


def test_an_engine_with_an_adapter_takes_no_new_weights(engines: Engines, run: Run[Any]) -> None:
    with pytest.raises(UsageError, match="whose base takes no new weights"):
        run(engines.adapted.load_weights([], version=1))


def test_text_is_what_the_tokenizer_says_of_the_ids(engines: Engines, run: Run[Any]) -> None:
    tokenizer = load_tokenizer(engines.folders.qwen)
    [reply] = run(complete(engines.qwen, [PROMPTS[4]], [Sampling(max_tokens=40, seed=1)]))
    assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)


def batch_of(prompts: list[list[int]], replies: list[Completion]) -> Batch:
    rollouts = []
    for prompt, reply in zip(prompts, replies, strict=True):
        blank = (0,) * len(prompt)
        segment = Segment(
            (*prompt, *reply.token_ids),
            (*blank, *(1 for _ in reply.token_ids)),
            (*(0.0 for _ in blank), *reply.logprobs),
            reply.versions,
        )
        verdict = Verdict.wrong(None, "")
        rollouts.append(Rollout("", 0, (segment,), reply.text, reply.finish_reason, verdict, reward=0.0))
    group = Group(Record("", "", (), None), tuple(rollouts))
    [batch] = mini_batches(assemble([group], [[1.0] * len(rollouts)]), 1)
    return batch
