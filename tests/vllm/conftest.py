"""Two engines for all tests of a session, in one event loop: half a minute each to start, so they are shared.

The models are the smallest that the attention of vLLM's build for CPUs takes: heads of 64 dimensions.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from reasonkit.engines.vllm import VllmEngine
from reasonkit.models import find_model, load_engine
from reasonkit.recipe import ModelConfig
from reasonkit.records import Completion
from reasonkit.train.model import load_model, load_tokenizer, make_model

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

CONTEXT = 512
TOLERANCE = 1e-4
"""Of a log-probability in float32."""
SIZES = {
    "alphabet": string.digits
    + string.ascii_letters
    + string.punctuation
    + " ",  # a reply ends after about 100 tokens
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "initializer_range": 0.2,  # spread out, so that a wrong position or a lost tensor shows
}


def plain_logprobs(
    model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """What one forward over the whole sequence says of each token of the reply."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)[torch.arange(len(reply)), torch.tensor(reply)]


def assert_plain(
    model: PreTrainedModel, prompt: Sequence[int], reply: Completion, temperature: float = 1.0
) -> None:
    expected = plain_logprobs(model, prompt, reply.token_ids, temperature)
    torch.testing.assert_close(torch.tensor(reply.logprobs), expected, atol=TOLERANCE, rtol=0)


def make_folder(folder: Path, seed: int, **fields: Any) -> Path:
    make_model(ModelConfig(init={**SIZES, **fields}, context=CONTEXT), folder, seed)
    return folder


def make_adapter(base: Path, folder: Path, rank: int) -> Path:
    """A LoRA adapter with random weights, as peft saves it."""
    settings = LoraConfig(r=rank, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(load_model(base), settings).save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Folders:
    qwen: Path
    """Its embeddings are tied."""
    other_qwen: Path
    llama: Path
    adapter: Path
    """Of the llama."""
    other_adapter: Path


@dataclass(frozen=True)
class Engines:
    folders: Folders
    qwen: VllmEngine
    adapted: VllmEngine
    """The llama, with its adapter, opened as `eval -m vllm:ADAPTER` opens it."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    qwen = {"model_type": "qwen3", "tie_word_embeddings": True}
    llama = make_folder(root / "llama", 3, model_type="llama", tie_word_embeddings=False)
    return Folders(
        make_folder(root / "qwen", 1, **qwen),
        make_folder(root / "other_qwen", 2, **qwen),
        llama,
        make_adapter(llama, root / "adapter", 4),
        make_adapter(llama, root / "other_adapter", 2),
    )


@pytest.fixture(scope="session")
def run() -> Iterator[Run[Any]]:
    """The loop that all engines live in."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def engines(folders: Folders, run: Run[Any]) -> Iterator[Engines]:
    with ThreadPoolExecutor() as pool:
        qwen = pool.submit(
            VllmEngine.from_path,
            folders.qwen,
            dtype="float32",
            context=CONTEXT,
            bucket_mb=1,
            sleeps=True,
            name="qwen",
        )
        adapted = pool.submit(load_engine, find_model(f"vllm:{folders.adapter}"), 256)
    engines = Engines(folders, qwen.result(), cast(VllmEngine, adapted.result()))
    yield engines
    run(engines.qwen.close())
    run(engines.adapted.close())
