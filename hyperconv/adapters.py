"""Adapters that a context generates, for those who know plain ones only."""

import copy
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .conditional import Conditional
from .extras import needing
from .generators import StartAtKernel
from .layers import HyperLayer, HyperLinear

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@torch.no_grad()
def to_peft(network: Conditional, context: Tensor, folder: str | Path, check: Any = None) -> None:
    """Write the adapter of one context in the format that the `peft` library loads onto the network that was adapted.

    ``peft.PeftModel.from_pretrained(original, folder)`` then computes what ``network(..., context=context)`` computes.
    An adapter holds no buffers: running statistics that have moved since are not those of the original.

    Args:
        network: ``conditional(original, ..., generator=LowRankGenerator, keep_function="shared")``, whose selected
            layers are all linear.
        context: ``(context_dim,)``.
        folder: to be made; one that holds such an adapter is overwritten.
        check: an input or a tuple of inputs to call the network with, batch first, so that a layer is found whose
            weight the network reads instead of calling it, as peft cannot adapt it; without, it is in torch's attention
            only.

    Raises:
        ValueError: a context a sample; a layer that is a convolution, stands in several places, has its weight read, or
            does not add a product of two factors to its own weight; a folder that holds other files.
        ImportError: safetensors is not installed.
    """
    with needing("hub", "hyperconv.to_peft"):
        from safetensors.torch import save

        from .files import remove_leftovers, renamed_into_place, write_whole

    if not isinstance(network, Conditional):
        raise ValueError(f"adapters are those of a conditional network, not of a {type(network).__name__}")
    if context.dim() != 1:
        raise ValueError(f"one adapter is written for one context, (context_dim,); got {tuple(context.shape)}")
    folder = Path(folder)
    if folder.is_dir():
        remove_leftovers(folder)
    if folder.exists() and (not folder.is_dir() or {each.name for each in folder.iterdir()} - {_CONFIG, _WEIGHTS}):
        raise ValueError(f"{folder} holds other files than an adapter's; choose a new folder")
    layers = _adapted(network.network)
    if check is not None:
        inputs = check if isinstance(check, tuple) else (check,)
        # which weights are read is known where they differ from sample to sample
        copy.deepcopy(network).eval()(*inputs, context=context.expand(len(inputs[0]), -1))
    features = network.features(context)
    weights: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, layer in layers.items():
        left, right, _ = layer.generator.thin_factors(features)
        ranks[name] = len(right)
        for letter, factor in (("A", right), ("B", left)):
            weights[f"base_model.model.{name}.lora_{letter}.weight"] = factor.cpu().contiguous()
    most = max(ranks.values())
    other = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != most}
    # the scale is alpha / r
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": most,
        "lora_alpha": most,
        # peft takes names in a list, and patterns without an anchor, for those of all layers that end so
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": "|".join(map(re.escape, layers)),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with renamed_into_place(folder / _WEIGHTS) as beside:
        beside.write_bytes(save(weights, metadata={"format": "pt"}))
    write_whole(folder / _CONFIG, json.dumps(config, indent=2) + "\n")


def _adapted(network: nn.Module) -> dict[str, HyperLayer]:
    """The hyper layers by name, if all of them are such as peft adapts."""
    places: dict[HyperLayer, list[str]] = defaultdict(list)
    for name, part in network.named_modules(remove_duplicate=False):
        if isinstance(part, HyperLayer):
            places[part].append(name)
    for layer, names in places.items():
        if obstacle := _obstacle(network, layer, names):
            raise ValueError(f"layer {names[0] or type(layer).__name__}: {obstacle}")
    return {name: layer for layer, (name,) in places.items()}


def _obstacle(network: nn.Module, layer: HyperLayer, names: list[str]) -> str | None:
    if not isinstance(layer, HyperLinear):
        return f"adapters are written for linear layers only, and this is a {type(layer).__name__}; do not select it"
    changes_only = isinstance(layer.generator, StartAtKernel) and layer.bias_generator is None
    if not changes_only or layer.generator.thin_rank() is None:
        return (
            f"its {type(layer.generator).__name__} does more than to add a product of two factors; make the network "
            'with generator=LowRankGenerator, keep_function="shared"'
        )
    if len(names) > 1:
        return f"it stands in several places ({', '.join(names)}), of which peft adapts the first only"
    if not names[0]:
        return "it is all of the network, and peft adapts parts; put it into an nn.Sequential"
    parent = network.get_submodule(names[0].rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention | nn.TransformerEncoderLayer):
        return f"nn.{type(parent).__name__} reads its weight, which peft does not adapt; do not select it"
    return None
