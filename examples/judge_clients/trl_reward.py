"""A reward function for TRL's GRPOTrainer that asks a reasonkit judge: `reward_funcs=[judge_reward]`.

The data set needs the columns `data_source` and `answer` (or `ground_truth`) beside `prompt`. A reply that the
judge could not judge gets None, which TRL leaves out, and never a 0. REASONKIT_JUDGE is the server's address (a
token may be the first part of its path), REASONKIT_JUDGE_KEY its token.
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx

ADDRESS = os.environ.get("REASONKIT_JUDGE", "http://127.0.0.1:8000").rstrip("/")
KEY = os.environ.get("REASONKIT_JUDGE_KEY", "")
CLIENT = httpx.Client(
    timeout=900,
    transport=httpx.HTTPTransport(retries=5),
    headers={"Authorization": f"Bearer {KEY}"} if KEY else {},
)


def judge_reward(
    prompts: list[Any], completions: list[Any], data_source: list[str], **columns: Any
) -> list[float | None]:
    """One score for each completion, from one request."""
    answers = columns["answer"] if "answer" in columns else columns["ground_truth"]
    items = [
        {
            "record": {"source": source, "answer": answer, "prompt": _messages(prompt)},
            "response": _text(completion),
        }
        for source, answer, prompt, completion in zip(data_source, answers, prompts, completions, strict=True)
    ]
    response = CLIENT.post(f"{ADDRESS}/v1/verify/batch", json={"items": items})
    response.raise_for_status()
    scores: list[float | None] = [None] * len(items)
    for line in response.content.split(b"\n"):
        if line:
            verdict = json.loads(line)
            scores[verdict["index"]] = verdict["score"]
    return scores


def _text(completion: Any) -> str:
    """Conversational data sets have a list of messages, others a text."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _messages(prompt: Any) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message["role"], "content": message["content"]} for message in prompt]
