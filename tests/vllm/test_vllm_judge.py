"""`serve-judge --judge-serve`: vLLM started, awaited, asked, restarted after its death, and gone with the server.

The judging model is made by hand: each character decides the next one, and after a line break comes `False` and the
end. So every verdict is known, and reached by vLLM itself.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reasonkit.engines.vllm_start import _shared_memory_of
from tests.judge_server import JudgeServer, launch
from tests.tiny_models import tiny_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

WORD = "False"
START_SECONDS = 600.0


def make_judge(folder: Path) -> Path:
    """Layers that add nothing leave the last character's embedding, and the head maps it to the next character."""
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size, hidden_size=128, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    assert size <= config.hidden_size
    ids = tokenizer.convert_tokens_to_ids(list(WORD))
    following = torch.full((size,), ids[0])
    for one, after in zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True):
        following[one] = after
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, config.hidden_size))
        model.lm_head.weight.zero_()
        model.lm_head.weight[following, torch.arange(size)] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ask(server: JudgeServer, gold: str) -> httpx.Response:
    info = json.dumps({"type": "llm_judge", "answer": {"value": gold}})
    asked = {"llm_output": "\\boxed{something else}", "verification_info": info}
    return httpx.post(f"{server.url}/reward", json=asked, timeout=120)


def vllm_of(server: JudgeServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    return next(child for child in children if any("api_server" in part for part in child.cmdline()))


@pytest.mark.slow
def test_the_judge_is_served_by_vllm_and_outlives_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.judge_server.START_SECONDS", START_SECONDS)
    folder = make_judge(tmp_path / "judge")
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    server = launch(tmp_path, "--judge-serve", str(folder), "--no-format-score", environment=environment)
    try:
        health = httpx.get(f"{server.url}/health").json()
        assert health["judge"]["canary_false_positives"] == 0.0, "it says False to everything"
        assert health["judge"]["host"] == "127.0.0.1"
        assert ask(server, "one thing").json() == {"score": 0.0}

        first = vllm_of(server)
        assert not any("key" in part.lower() for part in first.cmdline())
        address = f"http://127.0.0.1:{health['judge']['port']}/v1/models"
        assert httpx.get(address).status_code == 401, "nobody else may ask it"
        left_behind = _shared_memory_of([first, *first.children(recursive=True)])
        os.killpg(first.pid, signal.SIGKILL)
        for name in left_behind:  # nobody is left to remove what the whole group shared
            Path("/dev/shm", name).unlink(missing_ok=True)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if ask(server, f"thing {time.monotonic()}").status_code == 200:
                break
        assert vllm_of(server).pid != first.pid

        family = psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop(seconds=120) == 0
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(120)


def test_a_model_that_vllm_cannot_serve_ends_the_command_with_vllms_words(tmp_path: Path) -> None:
    from tests.micro import reasonkit

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    done = reasonkit(tmp_path, "serve-judge", "--port", "0", "--judge-serve", str(tmp_path / "broken"))
    assert done.returncode == 1
    assert "vLLM ended with status" in done.stderr
    assert "--judge-url" in done.stderr
