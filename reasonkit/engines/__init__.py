"""Engines turn token ids into Completions; Chats turn messages into replies.

All that trains goes through an Engine, because only ids with their log-probabilities can be trained
on without re-tokenising. A Chat serves what takes no ids: HTTP APIs for evaluation, filtering,
judging. The implementations are one file each; this page holds what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from reasonkit.errors import UsageError
from reasonkit.recipe import ModelConfig, Part
from reasonkit.records import Completion, FinishReason, Message
from reasonkit.registry import bind, resolve

if TYPE_CHECKING:
    from torch import Tensor

ENGINES: dict[str, str] = {
    "transformers": "reasonkit.engines.transformers:TransformersEngine",
    "vllm": "reasonkit.engines.vllm:VllmEngine",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw one completion."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    """Texts that end the reply (kept in it). The model's own end-of-turn tokens always do."""
    seed: int = 0
    """Decides this request's draws, whatever else is in flight."""
    drawn: int = 0
    """The prompt's last `drawn` tokens are the beginning of this very reply, which was interrupted: draws go on
    where it stopped, and a stop text may have begun in them. `max_tokens` is what is left."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a Chat answered, or what an Env is shown of a Completion: text, never tokens."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0


def cut_after(text: str, stops: Sequence[str]) -> str:
    """The text up to and including the stop text that ends first."""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def check_request(prompt_ids: Sequence[int], sampling: Sampling, context: int) -> None:
    """Refuses what no engine could serve. A prompt that leaves no room for the reply is refused, not cut."""
    if not prompt_ids:
        raise UsageError("the prompt has no tokens", "give generate() at least one token id")
    if sampling.max_tokens < 1:
        raise UsageError(f"max_tokens is {sampling.max_tokens}", "ask for at least one token")
    if len(prompt_ids) + sampling.max_tokens > context:
        raise UsageError(
            f"a prompt of {len(prompt_ids)} tokens and max_tokens {sampling.max_tokens} exceed the context "
            f"of {context} tokens",
            f"shorten the prompt, or ask for at most {max(context - len(prompt_ids), 0)} tokens",
        )


class WeightSource(Protocol):
    """Named tensors to load into an engine, under the names that the model's own state dict uses."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class Engine(Protocol):
    """Async; one prompt a call, batching is the engine's business."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion: ...

    async def load_weights(self, weights: WeightSource, version: int) -> None: ...

    async def close(self) -> None: ...


@runtime_checkable
class Punctual(Protocol):
    """An engine whose batches do not depend on time, as long as it knows who is away."""

    def away(self) -> AbstractAsyncContextManager[None]:
        """Between two requests a client waits in here for what is outside the event loop."""


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can leave its device to a learner beside it."""

    async def sleep(self) -> None:
        """Until the next `load_weights`, which brings back all that it needs. Nothing is in flight."""


def engine_maker(part: Part, model: ModelConfig) -> Callable[[Path | str], Engine]:
    """What opens the engine that a recipe names on a model folder, with the part's options."""
    from_path = resolve("engine", part.name, ENGINES).from_path
    options = {**part.options, "dtype": model.dtype, "context": model.context}
    return bind("engine", part.name, from_path, options)


def open_engine(path: Path | str, part: Part, model: ModelConfig) -> Engine:
    return engine_maker(part, model)(path)


class Chat(Protocol):
    """Messages in, text out: an HTTP API, or an Engine with its tokenizer."""

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply: ...

    async def close(self) -> None: ...
