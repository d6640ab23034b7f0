"""Any model as a Chat: one behind an API as it is, one that is loaded here with its tokenizer in front.

For roles that only talk (checkers, a TaskLLM, data generation). What is trained or scored token by token goes
through its Engine instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import cast

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Chat, Engine, Reply, Sampling
from reasonkit.engines.http import open_chat
from reasonkit.engines.http_cache import ReplyCache
from reasonkit.engines.http_client import HttpSettings
from reasonkit.engines.http_ledger import Ledger, Price
from reasonkit.models import FoundModel, open_model
from reasonkit.records import Message


class EngineChat:
    """Implements Chat. A conversation that fills the context gets an empty reply, cut by length."""

    def __init__(self, engine: Engine, dialogue: Dialogue, context: int) -> None:
        self._engine = engine
        self._dialogue = dialogue
        self._context = context

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply:
        ids = self._dialogue.prompt_ids(messages)
        room = min(sampling.max_tokens, self._context - len(ids))
        if room < 1:
            return Reply("", "length", prompt_tokens=len(ids))
        completion = await self._engine.generate(ids, replace(sampling, max_tokens=room))
        return Reply(completion.text, completion.finish_reason, len(ids), len(completion.token_ids))

    async def close(self) -> None:
        await self._engine.close()


@contextlib.asynccontextmanager
async def open_as_chat(
    found: FoundModel,
    *,
    ledger: Ledger,
    prices: Mapping[str, Price],
    cache: ReplyCache | None,
    in_flight: int,
) -> AsyncIterator[Chat]:
    """`found`, ready for so many requests at once; closed at the end. Money and cache are for APIs only."""
    if found.name is not None:
        http = HttpSettings(concurrency=in_flight)
        async with open_chat(found.name, ledger=ledger, prices=prices, cache=cache, settings=http) as chat:
            yield chat
        return
    async with open_model(found, in_flight=in_flight) as opened:
        assert opened.dialogue is not None, "only a model behind an API has none"
        yield EngineChat(cast(Engine, opened.model), opened.dialogue, opened.context)
