"""Shapes of the models that the shipped recipes start from, so that a dry run needs no network.

What a dry run counts with, and nothing else: a run itself always reads the model's own config. The shapes are those
of the models' published config.json.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


def _qwen2(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    context: int,
    tied: bool,
) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 4864, 24, 14, 2, 151_936, 32_768, True),
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2(896, 4864, 24, 14, 2, 151_936, 32_768, True),
    "Qwen/Qwen2.5-1.5B": _qwen2(1536, 8960, 28, 12, 2, 151_936, 131_072, True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _qwen2(1536, 8960, 28, 12, 2, 151_936, 131_072, False),
    "Qwen/Qwen2.5-7B": _qwen2(3584, 18_944, 28, 28, 4, 152_064, 131_072, False),
    "Qwen/Qwen2.5-7B-Instruct": _qwen2(3584, 18_944, 28, 28, 4, 152_064, 32_768, False),
    "Qwen/Qwen2.5-32B": _qwen2(5120, 27_648, 64, 40, 8, 152_064, 131_072, False),
}


def known_shape(path: str) -> PreTrainedConfig | None:
    fields = dict(SHAPES.get(path, {}))
    return AutoConfig.for_model(fields.pop("model_type"), **fields) if fields else None
