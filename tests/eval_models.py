"""Models for evaluations in tests: tiny real ones, and one of them behind an HTTP address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Sampling
from reasonkit.engines.transformers import TransformersEngine
from tests.chat_server import ChatServer, openai_reply, serve_chat

LOCAL_TASKS = """\
arithmetic_chain:2
knights
countdown
graph
ordering
rg:leg_counting
rg:chain_sum
rg:spell_backward
rg:caesar_cipher
sums.yaml
words.yaml:3
"""
"""Eleven tasks that need no network; the last two are write_tasks'."""


def write_tasks(folder: Path) -> None:
    """Two tasks of a user's own: a YAML file each, over a JSONL file and a generator with options."""
    rows = "".join(f'{{"question": "{a}+{a + 1}=?", "answer": "#### {2 * a + 1}"}}\n' for a in range(30))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "sums.yaml").write_text(
        f"source: {{name: {folder / 'rows.jsonl'}, map: {{question: question, answer: answer}}, verifier: gsm8k}}\n"
        "prompt: 'Add. {question}'\n"
    )
    (folder / "words.yaml").write_text(
        "source: {name: arithmetic_chain, size: 12, options: {operations: [1, 2]}}\n"
        "cluster: operations\nbreakdown: [operations]\nk: 2\n"
    )


@contextmanager
def serve_model(folder: Path) -> Iterator[ChatServer]:
    """An OpenAI-compatible server that samples from the model in `folder`, as its requests' seeds decide."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = TransformersEngine.from_path(folder, slots=16)
    assert engine._tokenizer is not None
    dialogue = Dialogue(engine._tokenizer)

    def answer(body: dict[str, Any]) -> Any:
        prompt = dialogue.prompt_ids(body["messages"])
        limit = body.get("max_completion_tokens") or body["max_tokens"]
        sampling = Sampling(
            min(limit, engine.context - len(prompt)), body.get("temperature", 1.0), seed=body.get("seed", 0)
        )
        reply = asyncio.run_coroutine_threadsafe(engine.generate(prompt, sampling), loop).result(60)
        return openai_reply(reply.text, body, reply.finish_reason)

    try:
        with serve_chat(answer) as server:
            yield server
    finally:
        asyncio.run_coroutine_threadsafe(engine.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
