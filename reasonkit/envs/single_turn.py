"""The plainest Env: the record's prompt, one reply, done. The verdict is the verifier's business."""

from __future__ import annotations

from reasonkit.engines import Reply
from reasonkit.envs import Env, Step
from reasonkit.records import Message, Record


class SingleTurn(Env):
    async def reset(self, record: Record, seed: int) -> list[Message]:
        return list(record.prompt)

    async def step(self, reply: Reply) -> Step:
        return Step(done=True)
