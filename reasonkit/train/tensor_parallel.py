"""Tensor parallelism: neighbours hold a slice of each block's matrices, and all compute the same rows together.

Attention heads and the columns of the MLP are dealt out; what comes back together is summed, twice a block. Which
matrix is cut how is transformers' own plan of the architecture, carried out by torch's `parallelize_module`; FSDP
then shards each slice over the ranks that hold the same one. Embedding, norms and head stay whole: every neighbour
computes them alike. Left out: adapters, and splitting tokens between neighbours (ulysses.py) at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from transformers import PreTrainedModel

from reasonkit.errors import ConfigError
from reasonkit.train.lora import has_adapters

ROWS, COLUMNS = "colwise", "rowwise"
"""What transformers calls a matrix that is cut along its rows (its outputs), or along its columns."""
STYLES: dict[str, Callable[[], ParallelStyle]] = {
    ROWS: ColwiseParallel,
    COLUMNS: RowwiseParallel,
    # A norm of single heads, [1, tokens, heads, width]: each neighbour applies it to its own heads.
    "replicated_with_grad_allreduce": lambda: SequenceParallel(sequence_dim=2, use_local_output=True),
}
BLOCKS = "layers.*."


def split(model: PreTrainedModel, blocks: Sequence[torch.nn.Module], grid: DeviceMesh) -> None:
    """Leave this rank its slices of the blocks' matrices. `grid` is [shards, tensor]."""
    plan = plan_of(model)
    check_split(model, blocks, plan, *grid.mesh.shape)
    for block in blocks:
        block.to(grid.device_type)  # block by block: whole, the model may be too large for a device
        styles = {name: STYLES[style]() for name, style in plan.items()}
        parallelize_module(
            block, grid["tensor"], styles, src_data_rank=None
        )  # all have read the same weights


def plan_of(model: PreTrainedModel) -> dict[str, str]:
    """How each module of a block is cut."""
    plan: Mapping[str, str] = model.config.get_text_config().base_model_tp_plan or {}
    styles = {name.removeprefix(BLOCKS): style for name, style in plan.items() if name.startswith(BLOCKS)}
    strange = sorted(set(styles.values()) - STYLES.keys())
    if strange or not styles:
        why = f"'{strange[0]}'" if strange else "nothing"
        raise ConfigError(
            f"cluster.parallel.tensor: transformers' plan of {type(model).__name__} says {why}, which the learner "
            "cannot carry out",
            "--set cluster.parallel.tensor=1, or train a Llama-, Qwen- or Mistral-like model",
        )
    return styles


def check_split(
    model: PreTrainedModel,
    blocks: Sequence[torch.nn.Module],
    plan: Mapping[str, str],
    shards: int,
    tensor: int,
) -> None:
    """Refuse shapes that cannot be dealt out evenly."""
    if has_adapters(model):
        raise ConfigError(
            f"model.lora and cluster.parallel.tensor ({tensor}) are both set, but adapters cannot be split",
            "--set cluster.parallel.tensor=1",
        )
    text = model.config.get_text_config()
    sizes = {
        "attention heads": text.num_attention_heads,
        "key-value heads": text.num_key_value_heads or text.num_attention_heads,
        "columns of the MLP": text.intermediate_size,
    }
    common = math.gcd(*sizes.values())
    fits = max(n for n in range(1, tensor + 1) if common % n == 0)
    for what, size in sizes.items():
        if size % tensor:
            raise ConfigError(
                f"cluster.parallel.tensor ({tensor}) does not divide the model's {size} {what}",
                f"--set cluster.parallel.tensor={fits}",
            )
    for name, style in plan.items():
        rows = next(blocks[0].get_submodule(name).parameters()).shape[0]
        if style == ROWS and rows % (shards * tensor):
            raise ConfigError(
                f"cluster.learners ({shards * tensor}) does not divide the {rows} rows of {name}, which "
                "cluster.parallel.tensor needs",
                f"--set cluster.learners={max(n for n in range(tensor, shards * tensor, tensor) if rows % n == 0)}",
            )
