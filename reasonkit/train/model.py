"""Models and tokenizers in Hugging Face folders: loading them, and making new ones from a recipe's fields.

A new tokenizer has one token a character and a ChatML template: enough for a model that starts from nothing. Left
out: training a tokenizer, and loading anything but decoder-only language models.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from reasonkit.errors import ConfigError, ReasonkitError, nearest
from reasonkit.recipe import ModelConfig

transformers.utils.logging.disable_progress_bar()  # a bar for every file it reads or writes is none of ours

HUB_SECONDS = 5.0
"""After which a Hub that does not answer counts as out of reach."""
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
ROLES = "system user assistant tool\n"
"""What the template itself writes must be in every alphabet."""


def make_model(config: ModelConfig, folder: Path, seed: int) -> None:
    """A new model with random weights, and its tokenizer, as a plain Hugging Face folder."""
    tokenizer = make_tokenizer(str((config.init or {})["alphabet"]))
    architecture = make_architecture(config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    save_model(model, folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token for each character, and the three special ones. Characters outside the alphabet become padding."""
    characters = sorted(set(alphabet) | set(ROLES))
    vocabulary = {token: place for place, token in enumerate([PAD, START, END, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def load_model(path: Path | str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise _not_a_model(path, error) from error
    assert isinstance(model, PreTrainedModel)
    return torch.nn.Module.to(model, device)


def save_model(model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """As a plain Hugging Face folder, with these weights instead of its own. A full disk is an OSError here as
    everywhere else."""
    try:
        model.save_pretrained(folder, state_dict=weights)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(folder)) from error


def load_config(path: Path | str) -> PreTrainedConfig:
    """A model's shapes, without its weights."""
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _not_a_model(path, error) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def is_fetched(name: str) -> bool:
    """Whether the Hub's model is to be had: in the cache, or from a server that answers at once."""
    if try_to_load_from_cache(name, "config.json") is not None:
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(f"{constants.ENDPOINT}/{name}/resolve/main/config.json", timeout=HUB_SECONDS)
    except httpx.HTTPError:
        return False
    return True


def check_context(config: PreTrainedConfig, context: int, path: Path | str) -> None:
    """A run may not build longer sequences than its model knows positions for."""
    longest: int = config.get_text_config().max_position_embeddings
    if context > longest:
        raise ConfigError(
            f"model.context ({context}) is longer than the model at {path} allows ({longest})",
            f"--set model.context={longest}",
        )


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _not_a_model(path, error) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def make_architecture(config: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The recipe's fields, with what follows from the tokenizer and the context."""
    fields: dict[str, Any] = {
        name: value for name, value in (config.init or {}).items() if name != "alphabet"
    }
    kind = fields.pop("model_type", None)
    try:
        known = AutoConfig.for_model(kind).to_dict()
    except ValueError as error:
        raise ConfigError(
            f"model.init.model_type is {kind!r}, which transformers does not know",
            "llama and qwen3 are good starts",
        ) from error
    for name in fields:
        if name not in known:
            raise ConfigError(f"model.init has no field '{name}' for model_type {kind}", nearest(name, known))
    derived = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": config.context,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    return AutoConfig.for_model(kind, **{**derived, **fields})


def _not_a_model(path: Path | str, error: Exception) -> ReasonkitError:
    return ReasonkitError(
        f"no language model could be loaded from {path}: {error}",
        "give a folder with config.json, weights and tokenizer, or the id of one on the Hub",
    )
