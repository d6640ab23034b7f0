"""The model's side of one attempt: what it was told, what it said, and the tokens of both.

A Talk is either kind of model behind one face: an Engine, whose ids are kept exactly as sampled, or a Chat, which
takes and gives text alone. Environments' tokens carry mask 0. An engine may interrupt a reply (`abort`): it goes on
from the ids it has, with whatever weights the engine holds by then, as long as none of its tokens is too old.
What an attempt earns, and how long it may take, is not decided here (rollouts.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from reasonkit.dialogue import Dialogue, cut_mark
from reasonkit.engines import Chat, Engine, Reply, Sampling, cut_after
from reasonkit.records import Completion, FinishReason, Message, Record, Segment, Usage, VersionSpan

CHARACTERS_A_TOKEN = 4
"""What limits count with where no tokenizer is at hand."""


@dataclass(frozen=True, slots=True)
class Limits:
    """In tokens; None sets none. A message that is longer loses its middle, which is marked and counted."""

    prompt: int | None = None
    """Of each message of the first prompt."""
    observation: int | None = None
    """Of each message that follows."""
    episode: int | None = None
    """Of all replies of an attempt together."""


NO_LIMITS = Limits()


class Talk(Protocol):
    """One attempt's conversation."""

    usage: Usage

    @abstractmethod
    def open(self, record: Record, messages: Sequence[Message]) -> None:
        """The first prompt."""

    @abstractmethod
    def tell(self, messages: Sequence[Message], *, fresh: bool) -> None:
        """What the environment says after a reply; `fresh` forgets what was before."""

    @abstractmethod
    async def reply(self, sampling: Sampling) -> Reply | None:
        """The model's next reply; None where there is no room for one.

        One that ended in `abort` was interrupted: the same call again goes on with it.
        """

    @abstractmethod
    def segments(self) -> tuple[Segment, ...]: ...

    @abstractmethod
    def place(self) -> tuple[int, int]:
        """(segment, token) at which the last reply ended."""

    @abstractmethod
    def oldest_version(self) -> int | None:
        """Of the weights that sampled any token so far."""


@dataclass(slots=True)
class Transcript:
    """The token sequence that an attempt builds: ids, and which of them the model sampled."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[VersionSpan] = field(default_factory=list)

    def observe(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        self.mask.extend([0] * len(ids))
        self.logprobs.extend([0.0] * len(ids))

    def sample(self, completion: Completion) -> None:
        offset = len(self.ids)
        self.versions.extend(
            VersionSpan(span.version, span.start + offset, span.end + offset) for span in completion.versions
        )
        self.ids.extend(completion.token_ids)
        self.mask.extend([1] * len(completion.token_ids))
        self.logprobs.extend(completion.logprobs)

    def segment(self) -> Segment:
        return Segment(tuple(self.ids), tuple(self.mask), tuple(self.logprobs), tuple(self.versions))


class EngineTalk(Talk):
    """Token-in, token-out: what was sampled is never tokenised again."""

    def __init__(self, engine: Engine, dialogue: Dialogue, context: int, limits: Limits) -> None:
        self.usage = Usage()
        self._engine = engine
        self._dialogue = dialogue
        self._context = context
        self._limits = limits
        self._history: list[Message] = []
        self._transcript = Transcript()
        self._finished: list[Segment] = []
        self._under_way: list[int] = []
        """The reply that was interrupted, so far."""
        self._decoded: str | None = None
        self._ended = True
        """Whether the last reply closed its turn; one that was cut, or ended by a stop text, did not."""

    def open(self, record: Record, messages: Sequence[Message]) -> None:
        shown = self._cut(messages, self._limits.prompt)
        self._history = shown
        self._transcript.observe(self._dialogue.record_ids(record, shown))

    def tell(self, messages: Sequence[Message], *, fresh: bool) -> None:
        shown = self._cut(messages, self._limits.observation)
        self._history = shown if fresh else [*self._history, *shown]
        if not fresh and self._dialogue.appends_after([message["role"] for message in shown]):
            self._transcript.observe(self._dialogue.bridge_ids(shown, self._ended))
            return
        if not fresh:
            self._dialogue.announce()
        self._finished.append(self._transcript.segment())
        self._transcript = Transcript()
        self._transcript.observe(self._dialogue.prompt_ids(self._history))

    async def reply(self, sampling: Sampling) -> Reply | None:
        drawn = len(self._under_way)
        limit = min(sampling.max_tokens - drawn, self._room())
        if limit < 1:
            return self._said("length", sampling.stop) if drawn else None
        asked = replace(sampling, max_tokens=limit, drawn=drawn)
        completion = await self._engine.generate(self._transcript.ids, asked)
        self._count(completion)
        self._transcript.sample(completion)
        self._under_way += completion.token_ids
        if completion.finish_reason == "abort":
            return Reply(completion.text, "abort")
        if not drawn:
            self._decoded = completion.text
        return self._said(completion.finish_reason, sampling.stop)

    def segments(self) -> tuple[Segment, ...]:
        return (*self._finished, self._transcript.segment())

    def place(self) -> tuple[int, int]:
        return len(self._finished), len(self._transcript.ids)

    def oldest_version(self) -> int | None:
        spans = [span for segment in self._finished for span in segment.versions]
        return min((span.version for span in [*spans, *self._transcript.versions]), default=None)

    def _said(self, reason: FinishReason, stop: Sequence[str]) -> Reply:
        """The whole reply. One in parts is decoded from all of its ids: a character may lie across a cut."""
        ids, self._under_way = self._under_way, []
        text, self._decoded = self._decoded, None
        if text is None:
            text = cut_after(self._dialogue.reply_text(ids), stop)
        self._ended = ids[-1:] == [self._dialogue.end_of_turn]
        self._history = [*self._history, self._dialogue.said(text)]
        return Reply(text, reason, completion_tokens=len(ids))

    def _room(self) -> int:
        room = self._context - len(self._transcript.ids)
        if self._limits.episode is None:
            return room
        return min(room, self._limits.episode - self.usage.completion_tokens)

    def _count(self, completion: Completion) -> None:
        usage = self.usage
        self.usage = replace(
            usage,
            requests=usage.requests + 1,
            prompt_tokens=usage.prompt_tokens + len(self._transcript.ids),
            completion_tokens=usage.completion_tokens + len(completion.token_ids),
        )

    def _cut(self, messages: Sequence[Message], limit: int | None) -> list[Message]:
        if limit is None:
            return list(messages)
        kept, cut = [], 0
        for message in messages:
            content, lost = self._dialogue.shorten(message["content"], limit)
            kept.append(Message(role=message["role"], content=content))
            cut += lost
        self.usage = replace(self.usage, cut_tokens=self.usage.cut_tokens + cut)
        return kept


class ChatTalk(Talk):
    """Text alone: no ids, so nothing that could be trained on."""

    def __init__(self, chat: Chat, limits: Limits) -> None:
        self.usage = Usage()
        self._chat = chat
        self._limits = limits
        self._history: list[Message] = []

    def open(self, record: Record, messages: Sequence[Message]) -> None:  # noqa: ARG002 - text is text
        self._history = self._cut(messages, self._limits.prompt)

    def tell(self, messages: Sequence[Message], *, fresh: bool) -> None:
        shown = self._cut(messages, self._limits.observation)
        self._history = shown if fresh else [*self._history, *shown]

    async def reply(self, sampling: Sampling) -> Reply | None:
        limit = sampling.max_tokens
        if self._limits.episode is not None:
            limit = min(limit, self._limits.episode - self.usage.completion_tokens)
        if limit < 1:
            return None
        reply = await self._chat.reply(self._history, replace(sampling, max_tokens=limit))
        usage = self.usage
        self.usage = replace(
            usage,
            requests=usage.requests + 1,
            prompt_tokens=usage.prompt_tokens + reply.prompt_tokens,
            completion_tokens=usage.completion_tokens + reply.completion_tokens,
        )
        self._history = [*self._history, Message(role="assistant", content=reply.text)]
        return reply

    def segments(self) -> tuple[Segment, ...]:
        return ()

    def place(self) -> tuple[int, int]:
        return 0, 0

    def oldest_version(self) -> int | None:
        return None

    def _cut(self, messages: Sequence[Message], limit: int | None) -> list[Message]:
        if limit is None:
            return list(messages)
        kept, cut = [], 0
        for message in messages:
            content, lost = _shorten(message["content"], limit)
            kept.append(Message(role=message["role"], content=content))
            cut += lost
        self.usage = replace(self.usage, cut_tokens=self.usage.cut_tokens + cut)
        return kept


def _shorten(text: str, limit: int) -> tuple[str, int]:
    """As Dialogue.shorten, by the number of characters."""
    room = limit * CHARACTERS_A_TOKEN
    if len(text) <= room:
        return text, 0
    cut = -(-(len(text) - room) // CHARACTERS_A_TOKEN)
    return f"{text[: room - room // 2]}{cut_mark(cut)}{text[len(text) - room // 2 :]}", cut
