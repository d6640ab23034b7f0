"""AdamW as a recipe describes it: which parameters decay, and how the learning rate moves.

Left out: schedules with state. The rate is a function of the number of updates made, so nothing else needs
saving. Gradients are zeroed, not dropped, after an update: an update without any sample to learn from still
moves the moments, exactly as it would had its zero gradients been computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import AdamW

from reasonkit.errors import ReasonkitError
from reasonkit.recipe import TrainConfig

COSINE_FLOOR = 0.1


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> AdamW:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    groups = [
        {"params": [each for each in parameters if each.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True)


def learning_rate(config: TrainConfig, update: int, total: int) -> float:
    """The rate of update number `update`, counted from 0, of `total`."""
    if update < config.lr_warmup:
        return config.lr * (update + 1) / config.lr_warmup
    progress = (update - config.lr_warmup) / max(total - 1 - config.lr_warmup, 1)
    match config.lr_schedule:
        case "constant":
            return config.lr
        case "linear":
            return config.lr * max(1.0 - progress, 0.0)
        case "cosine":
            fraction = (1.0 + math.cos(math.pi * min(progress, 1.0))) / 2
            return config.lr * (COSINE_FLOOR + (1.0 - COSINE_FLOOR) * fraction)


def apply_update(model: torch.nn.Module, optimizer: AdamW, *, rate: float, grad_clip: float) -> Tensor:
    """One update from the gradients that have gathered; returns their global norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    if not norm.isfinite():
        raise ReasonkitError(
            f"the gradient's norm is {norm.item()}: the weights were left as they are",
            "resume from the last checkpoint with a lower train.lr, or look at the rollouts of this step",
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm
