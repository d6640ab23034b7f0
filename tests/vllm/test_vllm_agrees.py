"""vLLM serves the model folders that reasonkit writes, and agrees with reasonkit's own engine and learner on them.

`nox -s vllm` installs vLLM's build for CPUs and runs this. The models are the smallest that its attention takes:
heads of 64 dimensions. Left out: speed, and everything that vLLM itself is responsible for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from reasonkit.engines import Sampling
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.recipe import LossConfig, ModelConfig, TrainConfig
from reasonkit.records import Completion
from reasonkit.train.learner import LocalLearner
from reasonkit.train.model import load_model, load_tokenizer, make_model
from reasonkit.train.packing import Batch, Sample
from tests.micro import reasonkit, write_micro

if TYPE_CHECKING:  # other sessions collect this file too, without vLLM
    from vllm import LLM, RequestOutput

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),  # an engine takes up to minutes to start on a busy machine
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it loads warn about themselves
]

TOKENS = 24
TOLERANCE = 1e-3
"""Of a log-probability in float32, where two implementations add in different orders."""
ALPHABET = "0123456789+-=# "
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "initializer_range": 0.2,  # spread out, so that a wrong position or a lost tensor shows
}


def made_llama(folder: Path) -> Path:
    make_model(
        ModelConfig(init={"model_type": "llama", "alphabet": ALPHABET, **SIZES}, context=96), folder, seed=1
    )
    return folder


def made_qwen3_tied(folder: Path) -> Path:
    init = {"model_type": "qwen3", "tie_word_embeddings": True, "alphabet": ALPHABET, **SIZES}
    make_model(ModelConfig(init=init, context=96), folder, seed=2)
    return folder


def trained_and_exported(folder: Path) -> Path:
    """The real commands: two steps of GRPO, then `reasonkit export`."""
    folder.mkdir()
    write_micro(folder)
    settings = ("train.steps=2", "model.init.head_dim=64")
    for arguments in (
        ("train", "micro.yaml", "--out", "run", *(word for each in settings for word in ("--set", each))),
        ("export", "run", "exported"),
    ):
        done = reasonkit(folder, *arguments)
        assert done.returncode == 0, done.stderr
    return folder / "exported"


@dataclass(frozen=True)
class Served:
    folder: Path
    llm: LLM
    prompts: list[list[int]]

    def generate(self, **sampling: Any) -> list[RequestOutput]:
        """As vLLM takes a rollout's prompts: token ids in; ids and the log-probability of each sampled one out."""
        from vllm import SamplingParams

        return self.llm.generate(
            prompts=[{"prompt_token_ids": prompt} for prompt in self.prompts],
            sampling_params=SamplingParams(max_tokens=TOKENS, logprobs=0, detokenize=False, **sampling),
            use_tqdm=False,
        )


@pytest.fixture(scope="module", params=[made_llama, made_qwen3_tied, trained_and_exported])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from vllm import LLM

    make: Callable[[Path], Path] = request.param
    folder = make(tmp_path_factory.mktemp("model") / "folder")
    draw = random.Random(0)
    vocabulary = len(load_tokenizer(folder))
    prompts = [[draw.randrange(vocabulary) for _ in range(length)] for length in (1, 2, 3, 5, 8, 13, 21, 34)]
    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        seed=0,
    )
    yield Served(folder, llm, prompts)
    client = llm.llm_engine.engine_core
    client.shutdown()
    client.ctx.term()  # vLLM leaves it open, and what collects it later would warn outside of any test


def logprobs(output: RequestOutput) -> list[float]:
    """Of the sampled tokens themselves."""
    [reply] = output.outputs
    assert reply.logprobs is not None
    return [step[token].logprob for token, step in zip(reply.token_ids, reply.logprobs, strict=True)]


async def own_engine(folder: Path, prompts: list[list[int]]) -> list[Completion]:
    engine = TransformersEngine.from_path(folder, slots=4)
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
    try:
        return await asyncio.gather(*(engine.generate(prompt, sampling) for prompt in prompts))
    finally:
        await engine.close()


def test_greedy_replies_are_the_same_tokens_with_the_same_log_probs(served: Served) -> None:
    theirs = served.generate(temperature=0.0)
    ours = asyncio.run(own_engine(served.folder, served.prompts))
    assert [list(output.outputs[0].token_ids) for output in theirs] == [
        list(reply.token_ids) for reply in ours
    ]
    assert [output.outputs[0].finish_reason for output in theirs] == [reply.finish_reason for reply in ours]
    for output, reply in zip(theirs, ours, strict=True):
        assert logprobs(output) == pytest.approx(reply.logprobs, abs=TOLERANCE)
    assert len({reply.token_ids for reply in ours}) > 1, "one reply to every prompt would prove little"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_learner_gives_sampled_tokens_the_log_probs_that_vllm_sampled_them_with(
    served: Served, temperature: float
) -> None:
    outputs = served.generate(temperature=temperature, seed=3)
    learner = LocalLearner(
        load_model(served.folder),
        loss=LossConfig(),
        train=TrainConfig(),
        total_updates=1,
        max_tokens=TOKENS,
        temperature=temperature,
    )
    scored = asyncio.run(learner.logprobs(batch_of(served.prompts, outputs), reference=False))
    for output, mine in zip(outputs, scored, strict=True):
        assert logprobs(output) == pytest.approx(mine.tolist(), abs=TOLERANCE)


def batch_of(prompts: list[list[int]], outputs: list[RequestOutput]) -> Batch:
    samples = []
    for prompt, output in zip(prompts, outputs, strict=True):
        reply = list(output.outputs[0].token_ids)
        samples.append(
            Sample(
                ids=torch.tensor(prompt + reply),
                scored=torch.arange(len(prompt), len(prompt) + len(reply)),
                old_logprobs=torch.tensor(logprobs(output)),
                sampler_logprobs=torch.tensor(logprobs(output)),
                advantages=torch.zeros(len(reply)),
                rollout_tokens=len(reply),
            )
        )
    return Batch(tuple(samples), sum(sample.rollout_tokens for sample in samples), len(samples))
