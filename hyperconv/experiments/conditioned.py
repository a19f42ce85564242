"""Digits turned by any angle, and networks that are told the angle."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..data import Splits, as_float, turned_digits
from ..data.augment import turn
from ..generators import ChunkedGenerator, CoordinateMLP, DenseGenerator, LowRankGenerator
from ..training import Recipe
from ..training.objectives import ACCURACY, Batch, Objective, scores
from ..zoo.conditioned_cnn import ConcatenatedCNN, DeepHyperCNN, FilmedCNN, HyperCNN, PlainCNN
from .experiment import Arm, Experiment, Figure, rates_around

_TOLD = 2
_DEPTHS = (2, 4, 8, 16)
_TRAINED_DEPTH = 4
_RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=128, epochs=5, patience=None, shuffle=True)


def turned_classification(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Cross-entropy and accuracy on digits turned by an angle, whose cosine and sine the network is told.

    Args:
        batch: images and labels; in evaluation, angles in radians too, which belong to the data.
    """
    images, labels, *held = batch
    (angles,) = held if draws is None else (torch.rand(len(images), generator=draws) * (2 * math.pi),)
    told = torch.stack([angles.cos(), angles.sin()], dim=1).to(images.device)
    return scores(network(turn(as_float(images), angles), told), labels)


TURNED_CLASSIFICATION = Objective(turned_classification, (ACCURACY,), loss="cross-entropy")


def parameters_by_depth(network: DeepHyperCNN, splits: Splits) -> list[Figure]:
    """Parameters that the kernels of shallower and deeper networks of this kind come from."""
    return [
        Figure("kernel parameters", kernel_parameters(DeepHyperCNN(depth, _TOLD, **network.kind)), f"{depth} kernels")
        for depth in _DEPTHS
    ]


def kernel_parameters(network: DeepHyperCNN) -> int:
    """Parameters of what makes the kernels, from what the network is told on."""
    makers: list[Any] = [network.trunk, network.recurrent, *(layer.generator for layer in network.convolutions)]
    return sum(p.numel() for p in {p for maker in makers if maker is not None for p in maker.parameters()})


# of sizes that come out about equally accurate
_KINDS: dict[str, dict[str, Any]] = {
    "dense": {"generator": partial(DenseGenerator, context_dim=8, hidden=(2,))},
    "chunked": {"generator": partial(ChunkedGenerator, context_dim=8, chunk_size=64)},
    "low-rank": {"generator": partial(LowRankGenerator, context_dim=8, rank=4)},
    "recurrent": {"generator": partial(DenseGenerator, context_dim=8), "recurrent": True},
    "coordinate": {"generator": partial(CoordinateMLP, context_dim=8, hidden=(32, 32, 9))},
}


def _declared(name: str, networks: Mapping[str, Callable[[], nn.Module]], **more: Any) -> Experiment:
    return Experiment(
        name=name,
        minutes=10,
        arms={arm: Arm(network, grid=rates_around(_RECIPE)) for arm, network in networks.items()},
        recipe=_RECIPE,
        objective=TURNED_CLASSIFICATION,
        load=turned_digits,
        **more,
    )


EXPERIMENTS = (
    _declared(
        "conditioned",
        # channels such that all have about the same number of parameters
        {
            "hyper": partial(HyperCNN, 8, _TOLD),
            "film": partial(FilmedCNN, 20, _TOLD),
            "concatenated": partial(ConcatenatedCNN, 20, _TOLD),
            "not-told": partial(PlainCNN, 20),
        },
        paper="HyperConvFromDense, Hoopes et al., IPMI 2021; FiLM, Perez et al., AAAI 2018",
        task="digits turned by any angle to classes: the angle makes the kernels, FiLM, more channels; or is not told",
        quick_epochs=5,
    ),
    _declared(
        "generators",
        {kind: partial(DeepHyperCNN, _TRAINED_DEPTH, _TOLD, **made) for kind, made in _KINDS.items()},
        paper="neurite, issue 57: must a kernel come from one dense layer?",
        task=f"as conditioned, {_TRAINED_DEPTH} residual kernels of five kinds; parameters for 2 to 16 of them",
        quick_epochs=3,
        measure=parameters_by_depth,
    ),
)
