"""Who serves models over HTTP: base addresses and the variables that hold their keys.

A provider's key is sent to that provider's own host and to no other. For an address that the user gave, the key
is that of REASONKIT_API_KEY, if it is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Api = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class Provider:
    url: str
    api: Api
    keys: tuple[str, ...]
    """Variables that may hold the key; the first that is set counts."""
    key_optional: bool = False


PROVIDERS: dict[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "openai", ("OPENAI_API_KEY",)),
    "anthropic": Provider(
        "https://api.anthropic.com/v1", "anthropic", ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY")
    ),
    "mistral": Provider("https://api.mistral.ai/v1", "openai", ("MISTRAL_API_KEY", "MIXTRAL_API_KEY")),
    "deepseek": Provider("https://api.deepseek.com/v1", "openai", ("DEEPSEEK_API_KEY",)),
    "local": Provider("http://localhost:8000/v1", "openai", ("VLLM_API_KEY",), key_optional=True),
}
