"""What a model is called on every command line: one grammar, read here and nowhere else.

    openai:NAME  anthropic:NAME  mistral:NAME  deepseek:NAME   the provider's own API
    local:NAME                                                 a vLLM server on this machine, port 8000
    openai:NAME@http://HOST:8000/v1                            any server that speaks the provider's API
    vllm:PATH  hf:PATH                                         a model folder or Hub id, loaded here
    RUN  RUN@STEP  PATH                                        a training run or a model folder

This module only takes names apart. Whether a path exists, what a run's step is and how a model is opened
is for whoever opens it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from reasonkit.engines.http_providers import PROVIDERS
from reasonkit.errors import UsageError, nearest

LOADED_HERE = ("vllm", "hf")
RUN_OR_FOLDER = ""

_ADDRESS = re.compile(r"@(?=https?://)")
"""Model names may hold an @ of their own (`ORG/NAME@REV`), so only one before an address parts them."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as a user wrote it, taken apart."""

    text: str
    engine: str
    """A provider of PROVIDERS, `vllm`, `hf`, or empty for a run or folder."""
    name: str
    url: str = ""
    """Of an HTTP model: the address that the user gave; empty where the provider's own is meant."""
    at: str = ""
    """Of the others, what stands after @: a run's step or a Hub revision."""

    @property
    def is_http(self) -> bool:
        return self.engine in PROVIDERS


def parse_model(text: str) -> ModelName:
    """`text` taken apart; UsageError where it follows no form of the grammar."""
    prefix, colon, rest = text.partition(":")
    if not colon or "/" in prefix or prefix.startswith((".", "~")):
        return ModelName(text, RUN_OR_FOLDER, *_split_at(text, text))
    if prefix in LOADED_HERE:
        return ModelName(text, prefix, *_split_at(rest, text))
    if prefix not in PROVIDERS:
        raise UsageError(
            f"'{prefix}' in '{_shown(text)}' is no kind of model",
            nearest(prefix, [*PROVIDERS, *LOADED_HERE]),
        )
    name, *address = _ADDRESS.split(rest, maxsplit=1)
    if not name:
        raise UsageError(f"'{_shown(text)}' names no model after '{prefix}:'", f"for example {prefix}:NAME")
    return ModelName(text, prefix, name, _checked(address[0]) if address else "")


def _split_at(rest: str, text: str) -> tuple[str, str, str]:
    """(name, no address, what stands after @)."""
    name, separator, at = rest.rpartition("@")
    if not separator or "/" in at:
        name, at = rest, ""
    if not name:
        raise UsageError(
            f"'{text}' names no model", "a model folder, a run, or openai:NAME@http://HOST:PORT/v1"
        )
    return name, "", at


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"the model's address at host '{parts.hostname}' must be http(s)://HOST[:PORT][/PATH] and nothing more",
            "keys belong in the environment or a .env file, never in an address",
        )
    return url.rstrip("/")


def _shown(text: str) -> str:
    """`text` without what may be a password before the host of an address."""
    return re.sub(r"//[^/@]*@", "//", text)
