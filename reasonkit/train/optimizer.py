"""The optimizer as a recipe describes it: which parameters decay, and how the learning rate moves.

Left out: schedules with state. The rate is a function of the number of updates made, so nothing else needs
saving. Gradients are zeroed, not dropped, after an update: an update without any sample to learn from still
moves the moments, exactly as it would had its zero gradients been computed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

from reasonkit.errors import ReasonkitError
from reasonkit.recipe import TrainConfig
from reasonkit.registry import with_options
from reasonkit.train.lora import whole

OPTIMIZERS: dict[str, str] = {"adamw": "reasonkit.train.optimizer:adamw"}
SCHEDULES: dict[str, str] = {
    "constant": "reasonkit.train.optimizer:constant",
    "cosine": "reasonkit.train.optimizer:cosine",
    "linear": "reasonkit.train.optimizer:linear",
}
Schedule = Callable[[int, int], float]
"""The factor of the learning rate at update number `update`, counted from 0, of `total`."""

COSINE_FLOOR = 0.1


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    make = with_options("optimizer", config.optimizer.name, OPTIMIZERS, config.optimizer.options)
    optimizer: Optimizer = make(parameters, config.lr)
    if "offload_optimizer" in config.save_memory:
        optimizer.register_step_pre_hook(lambda *_: _move_moments(optimizer))
        optimizer.register_step_post_hook(lambda *_: _move_moments(optimizer, "cpu"))
    return optimizer


def _move_moments(optimizer: Optimizer, device: str | None = None) -> None:
    """To `device`, or to where each parameter is. Counters stay: a fused update wants them where they are made."""
    for parameter, state in optimizer.state.items():
        for name, each in state.items():
            if each.dim():
                state[name] = each.to(device or parameter.device)


def adamw(
    parameters: Sequence[Tensor],
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
) -> Optimizer:
    """AdamW, whose weight decay is decoupled and falls on matrices only."""
    groups: defaultdict[tuple[bool, DeviceMesh | None], list[Tensor]] = defaultdict(list)
    for each in parameters:
        groups[each.dim() >= 2, _mesh(each)].append(each)
    return AdamW(
        [
            {"params": params, "weight_decay": weight_decay if decays else 0.0}
            for (decays, _), params in groups.items()
        ],
        lr=lr,
        betas=(betas[0], betas[1]),
        fused=True,
    )


def make_schedule(config: TrainConfig) -> Schedule:
    schedule: Schedule = with_options(
        "schedule", config.lr_schedule.name, SCHEDULES, config.lr_schedule.options
    )
    return schedule


def constant(update: int, total: int, *, warmup: int = 0) -> float:
    """Rises over `warmup` updates, then holds."""
    del total
    return min((update + 1) / warmup, 1.0) if warmup else 1.0


def linear(update: int, total: int, *, warmup: int = 0) -> float:
    """Rises over `warmup` updates, then falls to 0 by the last update."""
    if update < warmup:
        return (update + 1) / warmup
    return max(1.0 - _progress(update, total, warmup), 0.0)


def cosine(update: int, total: int, *, warmup: int = 0) -> float:
    """Rises over `warmup` updates, then falls to a tenth along a cosine."""
    if update < warmup:
        return (update + 1) / warmup
    fraction = (1.0 + math.cos(math.pi * min(_progress(update, total, warmup), 1.0))) / 2
    return COSINE_FLOOR + (1.0 - COSINE_FLOOR) * fraction


def _progress(update: int, total: int, warmup: int) -> float:
    return (update - warmup) / max(total - 1 - warmup, 1)


def apply_update(model: torch.nn.Module, optimizer: Optimizer, *, rate: float, grad_clip: float) -> Tensor:
    """One update from the gradients that have gathered; returns their global norm before clipping."""
    norm = _clip(list(model.parameters()), grad_clip)
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


def _clip(parameters: Sequence[Tensor], grad_clip: float) -> Tensor:
    """Scale the gradients so that their global norm is no more than that; returns what it was. One call of torch
    takes only tensors that are sharded over the same ranks."""
    by_mesh: defaultdict[DeviceMesh | None, list[Tensor]] = defaultdict(list)
    for each in parameters:
        if each.grad is not None:
            by_mesh[_mesh(each)].append(each)
    norms = [
        whole(get_total_norm([each.grad for each in some if each.grad is not None]))
        for some in by_mesh.values()
    ]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for some in by_mesh.values():
        clip_grads_with_norm_(some, grad_clip, norm)
    return norm


def _mesh(tensor: Tensor) -> DeviceMesh | None:
    """The ranks that a tensor is sharded over."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None
