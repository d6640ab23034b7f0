"""HttpEngine and HttpChat against vLLM's own server, started as a user would, on the CPU.

The server is started as `python -m vllm.entrypoints.openai.api_server`: the `vllm` script asks for the metadata of
a package of that name, and the build for CPUs has another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reasonkit.engines import Sampling
from reasonkit.engines.http import open_chat
from reasonkit.engines.http_engine import HttpEngine
from reasonkit.engines.names import parse_model
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import ModelConfig
from reasonkit.records import Completion
from reasonkit.train.model import make_model
from tests.vllm.conftest import SIZES

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),  # a server takes up to minutes to start on a busy machine
    pytest.mark.filterwarnings("ignore"),
]

TOLERANCE = 1e-3
PROMPTS = [[3, 4, 5, 6], [7, 8], [10, 11, 12, 13, 14]]
START_SECONDS = 600


@contextlib.contextmanager
def vllm_serve(folder: Path, *more: str) -> Iterator[str]:
    """The address of a server of the model in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--max-model-len", "256", "--enforce-eager", *more,
    ]  # fmt: skip
    log = folder.parent / f"server-{port}.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
        )
        try:
            until = time.monotonic() + START_SECONDS
            while True:
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                        break
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("served") / "model"
    make_model(ModelConfig(init={"model_type": "llama", **SIZES}, context=256), target, seed=1)
    return target


def over_http(url: str, *samplings: Sampling) -> list[Completion]:
    async def run() -> list[Completion]:
        engine = HttpEngine(parse_model(f"local:m@{url}"))
        try:
            return await asyncio.gather(*(engine.generate(p, each) for p in PROMPTS for each in samplings))
        finally:
            await engine.close()

    return asyncio.run(run())


def here(folder: Path, sampling: Sampling) -> list[Completion]:
    async def run() -> list[Completion]:
        engine = TransformersEngine.from_path(folder)
        try:
            return await asyncio.gather(*(engine.generate(prompt, sampling) for prompt in PROMPTS))
        finally:
            await engine.close()

    return asyncio.run(run())


def test_a_server_of_processed_log_probabilities(folder: Path) -> None:
    greedy = Sampling(max_tokens=20, temperature=0.0)
    drawn = Sampling(max_tokens=20, temperature=0.7, seed=5)
    with vllm_serve(folder, "--logprobs-mode", "processed_logprobs") as url:
        remote = over_http(url, greedy)
        twice = [over_http(url, drawn) for _ in range(2)]
        chat = open_chat(f"local:m@{url}")

        async def ask() -> tuple[str, int]:
            async with chat:
                reply = await chat.reply(
                    [{"role": "user", "content": "abc"}], Sampling(max_tokens=8, temperature=0.0)
                )
                return reply.text, reply.completion_tokens

        text, tokens = asyncio.run(ask())
    for there, mine in zip(remote, here(folder, greedy), strict=True):
        assert there.token_ids == mine.token_ids
        assert (there.text, there.finish_reason) == (mine.text, mine.finish_reason)
        assert there.logprobs == pytest.approx(mine.logprobs, abs=TOLERANCE)
    assert [each.token_ids for each in twice[0]] == [each.token_ids for each in twice[1]], "a seed decides"
    assert text
    assert 0 < tokens <= 8


@pytest.mark.slow
def test_a_server_of_raw_log_probabilities_is_found_out(folder: Path) -> None:
    with vllm_serve(folder) as url:
        over_http(url, Sampling(max_tokens=5, seed=1))
        with pytest.raises(ReasonkitError, match="before temperature"):
            over_http(url, Sampling(max_tokens=5, temperature=0.5))
