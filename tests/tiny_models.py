"""Small real models for tests: Llama, Qwen2 and Qwen3 folders with a tokenizer and a ChatML-style template.

Weights are random but spread out, so that distributions are far from uniform and a wrong position or a stale
cache shows. Nothing is downloaded; a folder is made in well under a second.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

Shape = Literal["llama", "qwen2", "qwen3"]
SHAPES: tuple[Shape, ...] = ("llama", "qwen2", "qwen3")

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ALPHABET = string.digits + string.ascii_letters + string.punctuation + " \n"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """One token a character, three special tokens."""
    vocabulary = {token: place for place, token in enumerate([PAD, START, END, *dict.fromkeys(alphabet)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(shape: Shape, vocabulary: int, *, hidden: int = 48, context: int = 256) -> PreTrainedConfig:
    """Two layers, grouped key-value heads, tied embeddings for Qwen and untied ones for Llama."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    match shape:
        case "llama":
            return LlamaConfig(**sizes)
        case "qwen2":
            return Qwen2Config(**sizes, tie_word_embeddings=True)
        case "qwen3":
            return Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=True)


def tiny_model(
    shape: Shape, vocabulary: int | None = None, *, seed: int = 0, **sizes: int
) -> PreTrainedModel:
    """A model with random weights, the same ones for the same seed, whatever else draws random numbers."""
    config = tiny_config(shape, vocabulary or len(tiny_tokenizer()), **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        for name, parameter in model.named_parameters():
            if "bias" in name:
                torch.nn.init.normal_(
                    parameter, std=0.3
                )  # Qwen2 starts them at 0, where a lost bias would not show
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def save_tiny_model(folder: Path, shape: Shape = "llama", *, seed: int = 0, **sizes: int) -> Path:
    """A folder as the Hub has them: config, safetensors, tokenizer, chat template."""
    tiny_model(shape, seed=seed, **sizes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
