"""Digits turned by any angle, and networks that are told the angle."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..data import Splits, as_float, batch_loader, turned_digits
from ..data.augment import turn
from ..errors import InputError
from ..generators import ChunkedGenerator, CoordinateMLP, DenseGenerator, LowRankGenerator
from ..training import Recipe
from ..training.objectives import ACCURACY, Batch, Objective, scores
from ..zoo.conditioned_cnn import ConcatenatedCNN, DeepHyperCNN, FilmedCNN, HyperCNN, PlainCNN, TurnedBackCNN
from .experiment import TWICE_CHANCE, Arm, Experiment, Figure, rates_around

_TOLD = 2
_OFF = (10, 45, 90, 180)
_DEPTHS = (2, 4, 8, 16)
_TRAINED_DEPTH = 4
_RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=128, epochs=5, patience=None, shuffle=True)


@dataclass(frozen=True)
class ConditionedOptions:
    """Options of conditioned.

    Args:
        unseen: the part of all angles, from 0 on, that digits are never turned by in training and validation; test
            figures then tell them from the others.
    """

    unseen: ClosedUnitInterval = 0.0


def turned_classification(
    network: nn.Module, batch: Batch, draws: torch.Generator | None, unseen: float = 0.0
) -> dict[str, Any]:
    """Cross-entropy and accuracy on digits turned by an angle, whose cosine and sine the network is told.

    Args:
        batch: images and labels; in evaluation, angles in radians too, which belong to the data.
        unseen: as of `ConditionedOptions`.
    """
    images, labels, *held = batch
    (angles,) = held if draws is None else (_beyond(unseen, torch.rand(len(images), generator=draws) * (2 * math.pi)),)
    return scores(network(turn(as_float(images), angles), _told(angles).to(images.device)), labels)


def _beyond(unseen: float, angles: Tensor) -> Tensor:
    """Even angles, moved evenly into those that may be seen."""
    return 2 * math.pi * unseen + angles * (1 - unseen)


def _told(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def turned_digits_without(unseen: float, source: str = "auto") -> Splits:
    digits = turned_digits(source)
    images, labels, angles = digits.validation[:]
    return replace(digits, validation=TensorDataset(images, labels, _beyond(unseen, angles)))


@torch.no_grad()
def figures_by_angle(unseen: float, network: nn.Module, splits: Splits) -> list[Figure]:
    """Test accuracy at angles seen and unseen; where all are seen, told another one, so many degrees away."""

    def right(off: float) -> Tensor:
        answers = [
            network(turn(as_float(images), turns), _told(turns + off)).argmax(1) == labels
            for images, labels, turns in batch_loader(splits.test, 500)
        ]
        return torch.cat(answers).double()

    if not unseen:
        return [Figure(ACCURACY.name, right(math.radians(off)).mean().item(), f"told {off}° more") for off in _OFF]
    new = torch.cat([turns for _, _, turns in batch_loader(splits.test, 500)]) < 2 * math.pi * unseen
    return [
        Figure(ACCURACY.name, right(0)[~new].mean().item(), "angles of training"),
        Figure(ACCURACY.name, right(0)[new].mean().item(), "other angles"),
    ]


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
        failed_at=TWICE_CHANCE,
        **more,
    )


def _adapted(conditioned: Experiment, options: ConditionedOptions) -> Experiment:
    if not options.unseen:
        return conditioned
    if options.unseen == 1:
        raise InputError("--unseen 1 leaves no angles to train on")
    score = partial(turned_classification, unseen=options.unseen)
    return replace(
        conditioned,
        objective=replace(TURNED_CLASSIFICATION, score=score),
        load=partial(turned_digits_without, options.unseen),
        measure=partial(figures_by_angle, options.unseen),
    )


EXPERIMENTS = (
    _declared(
        "conditioned",
        # channels such that all have about the same number of parameters, or where it is said, operations
        {
            "hyper": partial(HyperCNN, 8, _TOLD),
            "film": partial(FilmedCNN, 20, _TOLD),
            "film-same-operations": partial(FilmedCNN, 8, _TOLD),
            "concatenated": partial(ConcatenatedCNN, 20, _TOLD),
            "turned-back": partial(TurnedBackCNN, 20),
            "not-told": partial(PlainCNN, 20),
        },
        paper="HyperConvFromDense, Hoopes et al., IPMI 2021; FiLM, Perez et al., AAAI 2018",
        task="digits turned by any angle to classes: the angle makes the kernels, FiLM, more channels, or turns the "
        "digit back; or is not told",
        options=ConditionedOptions,
        adapted=_adapted,
        quick_epochs=5,
        measure=partial(figures_by_angle, 0.0),
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
