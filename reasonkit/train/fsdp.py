"""Laying a model over the ranks of a learner, by FSDP2, and over less memory or fewer kernels on each of them.

Every block (a decoder layer) is a unit: its parameters come together when its turn comes and are sharded
again after it. What lies outside the blocks (embeddings, last norm, head) is one unit with the policy as a whole,
because the head is not called but read (lm_head.py). Where ranks share matrices, blocks are sharded over those that
hold the same slice, and the rest over all. Masters, gradients and the sum over ranks are float32; what a forward
pass sees is cast to its dtype as it is gathered.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from reasonkit.recipe import TrainConfig
from reasonkit.train.mesh import Mesh
from reasonkit.train.policy import Policy
from reasonkit.train.tensor_parallel import split
from reasonkit.train.ulysses import Neighbours


def spread(module: torch.nn.Module, policy: Policy, mesh: Mesh, train: TrainConfig) -> None:
    """Lay `module`, which is the policy or has it inside, over the ranks. Its parameters are others afterwards."""
    blocks = blocks_of(policy.model)
    for block in blocks:
        if train.compile:
            block.forward = torch.compile(block.forward, dynamic=True)
        if "checkpoint_activations" in train.save_memory:
            # transformers' own checkpointing works in training mode only, which would bring dropout.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        block.register_forward_pre_hook(lambda _module, _inputs: mesh.tick())
    if mesh.shards is None:
        return
    if mesh.neighbours is not None:
        policy.neighbours = Neighbours(mesh.neighbours, mesh.sequence, mesh.place)
        policy.neighbours.check_heads(policy.model.config.get_text_config().num_key_value_heads)
    if mesh.grid is not None:
        split(policy.model, blocks, mesh.grid)
    offload = OffloadPolicy()
    if "offload_parameters" in train.save_memory:
        offload = CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda")
    dtype = policy.dtype if policy.autocast else None
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    policy.autocast = False
    over = mesh.shards if mesh.grid is None else mesh.grid["shards"]
    for block in blocks:
        fully_shard(block, mesh=over, mp_policy=precision, offload_policy=offload)
    fully_shard(module, mesh=mesh.shards, mp_policy=precision, offload_policy=offload)


def blocks_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers of a model, as its architecture names them."""
    names = model._no_split_modules or ()
    return [module for module in model.modules() if type(module).__name__ in names]
