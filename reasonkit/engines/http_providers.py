"""Who serves models over HTTP: addresses, the variables that hold keys, and what requests may hold.

A provider's key is sent to that provider's own host and to no other. For an address that the user gave, the key
is that of REASONKIT_API_KEY, if it is set. Keys come from the environment or a `.env` file and stay in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from reasonkit.dotenv import variable
from reasonkit.errors import UsageError

Api = Literal["openai", "anthropic"]
OWN_KEY = "REASONKIT_API_KEY"


@dataclass(frozen=True, slots=True)
class Provider:
    url: str
    api: Api
    keys: tuple[str, ...]
    """Variables that may hold the key; the first that is set counts."""
    key_optional: bool = False
    length: str = "max_tokens"
    """What its API calls the limit on a reply's tokens."""
    seed: str = ""
    """What its API calls the seed; empty where it takes none."""
    extras: tuple[str, ...] = ()
    """Which of top_k and min_p it takes."""
    omits_ones: bool = False
    """Leave temperature and top_p out where they are 1, its own default: its newest models refuse to be told."""
    is_vllm: bool = False
    """Whatever a request leaves out, vLLM takes from the model's generation_config.json; so all is sent."""


PROVIDERS: dict[str, Provider] = {
    "openai": Provider(
        "https://api.openai.com/v1",
        "openai",
        ("OPENAI_API_KEY",),
        length="max_completion_tokens",
        seed="seed",
        omits_ones=True,
    ),
    "anthropic": Provider(
        "https://api.anthropic.com/v1",
        "anthropic",
        ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY"),
        extras=("top_k",),
        omits_ones=True,
    ),
    "mistral": Provider(
        "https://api.mistral.ai/v1", "openai", ("MISTRAL_API_KEY", "MIXTRAL_API_KEY"), seed="random_seed"
    ),
    "deepseek": Provider("https://api.deepseek.com/v1", "openai", ("DEEPSEEK_API_KEY",)),
    "local": Provider(
        "http://localhost:8000/v1",
        "openai",
        ("VLLM_API_KEY",),
        key_optional=True,
        seed="seed",
        extras=("top_k", "min_p"),
        is_vllm=True,
    ),
}


def provider_at(engine: str, url: str) -> Provider:
    """The provider `engine`, at the address that the user gave, if one was given."""
    provider = PROVIDERS[engine]
    if not url:
        return provider
    provider = replace(provider, url=url, keys=(OWN_KEY, *_local_keys(provider)), key_optional=True)
    if engine == "openai":  # any server that speaks this API; OpenAI's own peculiarities are not its
        return replace(provider, length="max_tokens", extras=("top_k", "min_p"), omits_ones=False)
    return provider


def key_of(engine: str, provider: Provider) -> str:
    """The provider's key; empty where it needs none and none is set."""
    key = variable(*provider.keys).strip()
    if not key and not provider.key_optional:
        raise UsageError(
            f"no key for {engine}: {' or '.join(provider.keys)} is not set",
            f"export {provider.keys[0]}=…, or write that line into .env",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(f"the key in {' or '.join(provider.keys)} holds characters that no key has")
    return key


def _local_keys(provider: Provider) -> tuple[str, ...]:
    """A server of one's own has one key, wherever it runs."""
    return provider.keys if provider.key_optional else ()
