"""The plainest Env: the record's prompt, one reply, done. The verdict is the verifier's business."""

from __future__ import annotations

from reasonkit.engines import Reply
from reasonkit.envs import Env, Step
from reasonkit.records import Message, Record

ASKED = "answer"
"""The tag that records ask for and verifiers read."""


class SingleTurn(Env):
    """The record's prompt, one reply, done."""

    def __init__(self, *, answer_tag: str = ASKED) -> None:
        """`answer_tag: ans` asks for `<ans>…</ans>` wherever the record says `<answer>`, and reads it the same."""
        self._tag = answer_tag

    async def reset(self, record: Record, seed: int) -> list[Message]:
        if self._tag == ASKED:
            return list(record.prompt)
        return [
            Message(role=message["role"], content=_renamed(message["content"], ASKED, self._tag))
            for message in record.prompt
        ]

    async def step(self, reply: Reply) -> Step:
        return Step(done=True, answer=None if self._tag == ASKED else _renamed(reply.text, self._tag, ASKED))


def _renamed(text: str, old: str, new: str) -> str:
    return text.replace(f"<{old}>", f"<{new}>").replace(f"</{old}>", f"</{new}>")
