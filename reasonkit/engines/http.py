"""Chat over HTTP: any OpenAI-compatible server, and Anthropic's own API.

    async with open_chat("openai:NAME", ledger=Ledger(max_cost=5.0), prices=prices) as chat:
        reply = await chat.reply(messages, Sampling(max_tokens=1000))

Replies are cached on disk, requests are limited, repeated, counted and priced by the modules beside this one. No
streaming, no tools, no images. An API that takes no token ids cannot be trained on: see http_engine.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from reasonkit.engines import Reply, Sampling
from reasonkit.engines.http_cache import ReplyCache, request_key
from reasonkit.engines.http_client import HttpClient, HttpSettings
from reasonkit.engines.http_ledger import FREE, Booking, Ledger, Price, most_prompt_tokens
from reasonkit.engines.http_providers import Provider, key_of, provider_at
from reasonkit.engines.names import ModelName, parse_model
from reasonkit.errors import UsageError
from reasonkit.records import FinishReason, Message

ANTHROPIC_VERSION = "2023-06-01"
SEEDS = 2**31
"""Servers differ in how large a seed they take; all take this many. The cache knows the whole seed."""
_LENGTH = frozenset({"length", "max_tokens", "model_length", "model_context_window_exceeded"})
_BROKEN = frozenset({"abort", "error", "insufficient_system_resource"})
"""What servers call the end of a reply that was cut by a limit, and of one that they failed to finish."""


class HttpChat:
    """Implements reasonkit.engines.Chat."""

    def __init__(
        self,
        model: ModelName,
        provider: Provider,
        key: str,
        *,
        ledger: Ledger,
        price: Price | None = None,
        cache: ReplyCache | None = None,
        settings: HttpSettings | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """`extra` goes into every request as it is: what only this server understands."""
        self.model = model
        self.ledger = ledger
        self._provider = provider
        self._price = price
        self._cache = cache
        self._extra = dict(extra or {})
        self._client = HttpClient(
            f"{model.name} at {urlsplit(provider.url).netloc}",
            provider.url,
            headers_for(provider, key),
            key,
            ledger,
            settings or HttpSettings(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply:
        """The model's reply: from the cache, or from the server once it has given one."""
        path, body = _request(self._provider, self.model.name, messages, sampling)
        body |= self._extra
        self.ledger.asked += 1
        key = request_key(self._provider.url + path, body, sampling.seed)
        kept = self._cache.get(key) if self._cache is not None else None
        if kept is not None:
            self.ledger.cached += 1
            return kept
        price = self._price
        most = price.of(most_prompt_tokens(messages), sampling.max_tokens) if price is not None else None
        reply = await self._client.post(path, body, self._read, most)
        self.ledger.answered += 1
        if self._cache is not None:
            self._cache.put(key, reply)
        return reply

    def _read(self, answer: Any, booking: Booking) -> Reply:
        read = _read_anthropic if self._provider.api == "anthropic" else _read_openai
        reply = read(answer)
        if not reply.prompt_tokens and not reply.completion_tokens:
            self.ledger.uncounted += 1
            return reply
        self.ledger.prompt_tokens += reply.prompt_tokens
        self.ledger.completion_tokens += reply.completion_tokens
        if self._price is not None:
            booking.cost = self._price.of(reply.prompt_tokens, reply.completion_tokens)
        return reply


def open_chat(
    name: str | ModelName,
    *,
    ledger: Ledger | None = None,
    prices: Mapping[str, Price] | None = None,
    cache: ReplyCache | None = None,
    settings: HttpSettings | None = None,
    extra: Mapping[str, Any] | None = None,
) -> HttpChat:
    """The chat that `name` means. UsageError where there is no key, or a ceiling but no price."""
    model = parse_model(name) if isinstance(name, str) else name
    if not model.is_http:
        raise UsageError(
            f"'{model.text}' is a model to be loaded here, not one behind an HTTP address",
            f"serve it (vllm serve {model.name}) and write local:{model.name}",
        )
    ledger = ledger or Ledger()
    provider = provider_at(model.engine, model.url)
    price = price_of(model, prices or {})
    if price is None and ledger.max_cost is not None:
        raise UsageError(
            f"--max-cost {ledger.max_cost:g} cannot be kept: the price of '{model.text}' is not known",
            f"--price {model.text}=IN,OUT in dollars per million tokens",
        )
    key = key_of(model.engine, provider)
    return HttpChat(
        model, provider, key, ledger=ledger, price=price, cache=cache, settings=settings, extra=extra
    )


def price_of(model: ModelName, prices: Mapping[str, Price]) -> Price | None:
    """The price that the user gave for the model by its whole or its bare name. One's own server is free."""
    for name in (model.text, model.name):
        if name in prices:
            return prices[name]
    return FREE if model.engine == "local" else None


def finish_reason(said: str | None) -> FinishReason:
    """A reply that the provider's filter ended is over, as one that the model ended; one that broke off is none."""
    if said in _BROKEN:
        raise ValueError(f"the server broke the reply off: {said}")
    return "length" if said in _LENGTH else "stop"


def headers_for(provider: Provider, key: str) -> dict[str, str]:
    if provider.api == "anthropic":
        return {"anthropic-version": ANTHROPIC_VERSION} | ({"x-api-key": key} if key else {})
    return {"authorization": f"Bearer {key}"} if key else {}


def _request(
    provider: Provider, model: str, messages: Sequence[Message], sampling: Sampling
) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request."""
    for name in ("top_k", "min_p"):
        if getattr(sampling, name) and name not in provider.extras:
            raise UsageError(
                f"{urlsplit(provider.url).netloc} takes no {name}, which is {getattr(sampling, name)}",
                f"set {name} to 0, or serve the model with vLLM",
            )
    body: dict[str, Any] = {"model": model, provider.length: sampling.max_tokens}
    wanted = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    body |= {name: value for name, value in wanted.items() if value != 1.0 or not provider.omits_ones}
    for name in provider.extras:
        if getattr(sampling, name) or provider.is_vllm:
            body[name] = getattr(sampling, name)
    if provider.is_vllm:
        body["repetition_penalty"] = 1.0
    if provider.seed:
        body[provider.seed] = sampling.seed % SEEDS
    if provider.api == "anthropic":
        return "/messages", body | _anthropic_messages(messages, sampling)
    if sampling.stop:
        body["stop"] = list(sampling.stop)
        if provider.is_vllm:
            body["include_stop_str_in_output"] = True
    return "/chat/completions", body | {"messages": [dict(message) for message in messages]}


def _anthropic_messages(messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    body: dict[str, Any] = {"messages": [dict(turn) for turn in messages if turn["role"] != "system"]}
    if system:
        body["system"] = system
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    return body


def _read_openai(answer: Any) -> Reply:
    choice = answer["choices"][0]
    text = _text(choice["message"]["content"])
    usage = answer.get("usage") or {}
    return Reply(
        text,
        finish_reason(choice.get("finish_reason")),
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )


def _read_anthropic(answer: Any) -> Reply:
    text = _text(answer["content"])
    if answer.get("stop_reason") == "stop_sequence":  # a stop text is kept in a reply
        text += answer["stop_sequence"]
    usage = answer.get("usage") or {}
    return Reply(
        text,
        finish_reason(answer.get("stop_reason")),
        int(usage.get("input_tokens") or 0),
        int(usage.get("output_tokens") or 0),
    )


def _text(content: Any) -> str:
    """A message's text; of one in parts, the parts that are text and not thinking."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
