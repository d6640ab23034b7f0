"""What a run needs of a device's memory, from shapes alone: for the dry run, before anything is loaded.

The whole is held by tests against the measured peak of real steps on a CPU: of one process in float32, and of one
or two under FSDP in float32 and bfloat16. What a GPU adds on top (the allocator's fragments, workspaces, buffers of
collectives, CUDA itself) is not counted: leave a tenth of the memory free. Not measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from reasonkit.advantages import WITH_CRITIC
from reasonkit.recipe import Recipe
from reasonkit.train.lm_head import slice_rows

FLOAT32 = 4
GIB = 2**30
TOKEN_BUDGET = 16384
"""train.token_budget of a GPU, where the recipe leaves it open."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What counts of an architecture."""

    parameters: int
    embeddings: int
    """Of these, in the embedding and the head."""
    layers: int
    hidden: int
    intermediate: int
    key_values: int
    """Width of a token's keys, which is that of its values."""
    vocabulary: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shapes:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        heads = text.num_attention_heads
        head_dim = text.to_dict().get("head_dim") or text.hidden_size // heads
        embeddings = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            embeddings=sum(each.numel() for each in embeddings),
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            key_values=(text.num_key_value_heads or heads) * head_dim,
            vocabulary=text.vocab_size,
        )

    @property
    def block(self) -> int:
        """Parameters of one transformer block."""
        return (self.parameters - self.embeddings) // self.layers


def learner_memory(recipe: Recipe, shapes: Shapes, learners: int) -> dict[str, float]:
    """GiB by purpose on each of `learners` devices that share the model, at the most that a step takes."""
    rests = (
        0.0 if "offload_parameters" in recipe.train.save_memory else 1.0
    )  # else on the CPU, and updated there
    whole = rests * shapes.parameters * FLOAT32 / learners
    trained = rests * _trained(recipe, shapes) * FLOAT32 / learners
    passing = {
        "gathered weights": _gathered_bytes(recipe, shapes, learners),
        "activations": activation_bytes(recipe, shapes),
        "temporary": _temporary_bytes(recipe, shapes),
    }
    optimizer = 2 * trained
    if "offload_optimizer" in recipe.train.save_memory:  # here for the update, when what is passing has gone
        optimizer = max(optimizer - sum(passing.values()), 0.0)
    sizes = {
        "weights": whole,
        "gradients": trained,
        "optimizer": optimizer,
        "reference": whole if recipe.loss.kl and recipe.model.lora is None else 0.0,
        "critic": 4 * whole if recipe.algorithm.name in WITH_CRITIC else 0.0,
        **passing,
    }
    return {name: round(size / GIB, 4) for name, size in sizes.items() if size}


def activation_bytes(recipe: Recipe, shapes: Shapes) -> float:
    """What autograd saves of a packed micro-batch. Of neighbours that share matrices an upper bound: attention's
    own tensors are counted whole."""
    width, hidden = _width(recipe), shapes.hidden
    split = (2 * shapes.key_values + 4 * shapes.intermediate) / recipe.cluster.parallel.get("tensor", 1)
    block = (2 * FLOAT32 + 7 * width) * hidden + split * width  # norms compute in float32 whatever goes in
    outside = (FLOAT32 + 2 * width) * hidden
    if (
        "checkpoint_activations" in recipe.train.save_memory
    ):  # each block's input, and one while it is run again
        return _tokens(recipe) * (shapes.layers * hidden * width + block + outside)
    return _tokens(recipe) * (shapes.layers * block + outside)


def _gathered_bytes(recipe: Recipe, shapes: Shapes, learners: int) -> float:
    """Copies of weights as they are computed with, and of gradients: what lies outside the blocks for the whole
    step, two blocks at a time, a block's gradient, and those of two on their way to the others. On a GPU one
    learner does the same by itself; on a CPU it computes with the weights as they are."""
    width = _width(recipe)
    if learners == 1 and width == FLOAT32 and not torch.cuda.is_available():
        return 0.0
    block = shapes.block // recipe.cluster.parallel.get("tensor", 1)
    return float(3 * block * width + 2 * block * FLOAT32 + shapes.embeddings * width)


def _temporary_bytes(recipe: Recipe, shapes: Shapes) -> float:
    """What backward holds at once: in the head, logits of a slice and the gradient of its matrix, unless that is
    frozen; or in a block, the gradients of what lies between its matrices."""
    width = _width(recipe)
    tokens, matrix = _tokens(recipe), shapes.vocabulary * shapes.hidden
    logits = min(slice_rows(shapes.vocabulary), tokens) * shapes.vocabulary * FLOAT32
    head = 3 * logits
    if recipe.model.lora is None:
        head = matrix * FLOAT32 + max(head, 2 * logits + matrix * width)
    block = tokens * 2 * shapes.intermediate * width / recipe.cluster.parallel.get("tensor", 1)
    return max(head, block)


def _tokens(recipe: Recipe) -> int:
    """Of the largest micro-batch, on each of the neighbours that share its tokens: a sequence longer than the
    budget has a row of its own, in which its last token is no input."""
    row = max(recipe.train.token_budget or TOKEN_BUDGET, recipe.model.context - 1)
    return -(-row // recipe.cluster.parallel.get("sequence", 1))


def engine_memory(recipe: Recipe, shapes: Shapes) -> dict[str, float]:
    """GiB by purpose on each device of an engine; vLLM takes what is left for its cache."""
    width = _width(recipe)
    part = recipe.rollout.engine
    split = int(part.options.get("tensor_parallel", 1)) if part.name == "vllm" else 1
    sizes = {"engine weights": shapes.parameters * width / split}
    if part.name == "transformers":
        from reasonkit.engines.transformers import SLOTS

        cached = 2 * shapes.layers * shapes.key_values * recipe.model.context
        sizes["engine cache"] = float(cached * part.options.get("slots", SLOTS) * width)
    return {name: round(size / GIB, 4) for name, size in sizes.items()}


def fewest_learners(recipe: Recipe, shapes: Shapes, gib: float, most: int = 1024) -> int | None:
    """The smallest power of two of devices with so much memory that hold the learner."""
    learners = 1
    while learners <= most:
        if sum(learner_memory(recipe, shapes, learners).values()) <= gib:
            return learners
        learners *= 2
    return None


def _width(recipe: Recipe) -> int:
    return int(torch.finfo(getattr(torch, recipe.model.dtype)).bits) // 8


def _trained(recipe: Recipe, shapes: Shapes) -> float:
    """Parameters with gradients. An adapter has rank × (in + out) of its matrix; all have one by default."""
    lora = recipe.model.lora
    if lora is None:
        return float(shapes.parameters)
    rank = int(lora.get("r", 8))
    hidden, wide, kv = shapes.hidden, shapes.intermediate, shapes.key_values
    sides = {
        "q_proj": 2 * hidden,
        "k_proj": hidden + kv,
        "v_proj": hidden + kv,
        "o_proj": 2 * hidden,
        "gate_proj": hidden + wide,
        "up_proj": hidden + wide,
        "down_proj": hidden + wide,
    }
    targets = lora.get("target_modules", "all-linear")
    wanted = sides if targets == "all-linear" else {name: sides.get(name, 0) for name in targets}
    return float(rank * shapes.layers * sum(wanted.values()))
