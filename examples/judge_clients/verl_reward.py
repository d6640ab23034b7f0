"""A reward function for verl that asks a reasonkit judge.

    custom_reward_function.path=verl_reward.py custom_reward_function.name=compute_score

verl hands over the columns `data_source`, `reward_model.ground_truth` and `extra_info` of each row. A reply that
the judge could not judge raises, since verl has no other way to say so: a 0 would be learned from. REASONKIT_JUDGE
is the server's address (a token may be the first part of its path), REASONKIT_JUDGE_KEY its token.
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


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any
) -> dict[str, Any]:
    """verl logs every key of the result; `score` is the reward."""
    record = {"source": data_source, "answer": _plain(ground_truth), "metadata": _plain(extra_info or {})}
    response = CLIENT.post(f"{ADDRESS}/v1/verify", json={"record": record, "response": solution_str})
    if response.status_code != 200:
        raise RuntimeError(f"the judge refused a row of {data_source}: {response.text[:300]}")
    verdict = response.json()
    if verdict["score"] is None:
        raise RuntimeError(f"the judge could not judge a row of {data_source}: {verdict['reason']}")
    return {"score": verdict["score"], "acc": verdict["score"] == 1.0, "status": verdict["status"]}


def _plain(value: Any) -> Any:
    """Rows come from parquet: numpy arrays as lists, and what reasonkit wrote as JSON text as what it says."""
    if isinstance(value, str):
        return json.loads(value) if value[:1] in ('"', "{", "[") else value
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))
