"""Adapters (LoRA, by peft): small matrices beside frozen weights, trained instead of them.

They are put into the model itself, so that everything else, packed attention and sharding included, sees the model
that it knows. What engines get are merged weights, under the model's own names; files hold the adapters alone, as
peft writes them. Left out: dropout, which training here never has.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from reasonkit.errors import ConfigError, ReasonkitError, nearest
from reasonkit.seeding import derive_seed

ADAPTER_CONFIG = "adapter_config.json"
ADAPTERS = "adapter_model.safetensors"
NAME = "default"
FILE_PREFIX = "base_model.model."
"""How peft names tensors in files."""


def lora_config(fields: Mapping[str, Any]) -> Any:
    """peft's LoraConfig from a recipe's `model.lora`; every linear layer but the head, unless it says otherwise."""
    from peft import LoraConfig

    known = [field.name for field in dataclasses.fields(LoraConfig)]
    for name in fields:
        if name not in known:
            raise ConfigError(f"model.lora has no field '{name}' of peft's LoraConfig", nearest(name, known))
    if fields.get("lora_dropout"):
        raise ConfigError(
            f"model.lora.lora_dropout is {fields['lora_dropout']}, but the policy that is trained is the policy "
            "that sampled: it has no dropout",
            "--set model.lora.lora_dropout=0",
        )
    try:
        return LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **fields})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"model.lora: {error}", "https://huggingface.co/docs/peft has its fields"
        ) from error


def add_adapters(model: PreTrainedModel, fields: Mapping[str, Any], seed: int) -> None:
    """Freeze the model and put new adapters into it, the same ones for the same seed."""
    config = lora_config(fields)
    origin = model.name_or_path or ""
    config.base_model_name_or_path = str(Path(origin).absolute()) if Path(origin).is_dir() else origin or None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*tie_word_embeddings")  # merging would untie what is tied
        torch.manual_seed(derive_seed(seed, "adapters"))
        try:
            model.add_adapter(config, NAME)
        except (ValueError, UserWarning) as error:
            raise ConfigError(f"model.lora: {error}", "name other target_modules") from error


def has_adapters(model: PreTrainedModel) -> bool:
    return bool(model._hf_peft_config_loaded)


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """The model as its frozen weights alone would compute. For a forward pass without gradient.

    peft's own switch also touches what requires a gradient, which sharding does not survive between a forward pass
    and its backward.
    """
    layers = list(_adapted(model).values())
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def only_adapters_train(model: PreTrainedModel) -> bool:
    """Whether every trained parameter lies in what `without_adapters` leaves out."""
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    return all(_is_adapter(name) for name in trained)


def adapters(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All that training changes, under the names of the model's state dict. All ranks iterate together."""
    for name, tensor in model.state_dict().items():
        if _is_adapter(name):
            yield name, whole(tensor)


@torch.no_grad()
def fill_adapters(model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Put in what `adapters` took out of another one of the same base and configuration."""
    held = {name: tensor for name, tensor in model.state_dict().items() if _is_adapter(name)}
    given = dict(weights)
    if held.keys() != given.keys():
        one = min(held.keys() ^ given.keys())
        raise ReasonkitError(
            f"the learner's {len(given)} adapter tensors are not the {len(held)} of the engine's model: only one "
            f"of them has '{one}'",
            "start the engine and the learner from the same recipe",
        )
    for name, tensor in given.items():
        held[name].copy_(tensor)


def adapter_tensors(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model's tensors, those that its adapters' file holds, under the names that they have there."""
    named = model.get_adapter_state_dict(adapter_name=NAME, state_dict=dict(weights))
    return {f"{FILE_PREFIX}{name}": tensor for name, tensor in named.items()}


def merged(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of the model as if it had been trained whole, one layer at a time. All ranks iterate together."""
    adapted = _adapted(model)
    done: set[str] = set()
    for name, tensor in model.state_dict().items():
        owner = next((each for each in adapted if name.startswith(f"{each}.")), None)
        if owner is None:
            yield name, whole(tensor)
        elif owner not in done:
            done.add(owner)
            for part, weight in _as_trained(adapted[owner]).items():
                yield f"{owner}.{part}", weight


def whole(tensor: Tensor) -> Tensor:
    """Put together from all ranks' shards, where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _is_adapter(name: str) -> bool:
    return ".lora_" in name or f".modules_to_save.{NAME}." in name


def _adapted(model: PreTrainedModel) -> dict[str, Any]:
    """The modules that peft has put in place of the model's own."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _as_trained(layer: Any) -> dict[str, Tensor]:
    """The tensors of the layer that one with adapters stands for: a copy, merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    gathered = {
        id(each): torch.nn.Parameter(whole(each.detach()), requires_grad=False) for each in layer.parameters()
    }
    if not isinstance(layer, BaseTunerLayer):
        return {name: whole(each) for name, each in layer.modules_to_save[NAME].state_dict().items()}
    twin = copy.deepcopy(layer, gathered)
    for name, parameter in twin.get_base_layer().named_parameters():
        # What is merged into must be no memory of the model's own, which an unsharded tensor is.
        twin.get_base_layer().register_parameter(
            name, torch.nn.Parameter(parameter.clone(), requires_grad=False)
        )
    twin.merge()
    weights: dict[str, Tensor] = twin.get_base_layer().state_dict()
    return weights
