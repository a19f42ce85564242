"""One registration network for every weight of smoothness beside networks for one each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .. import plotting
from ..data import Splits, batch_loader
from ..data.pairs import digit_pairs, hippocampus_pairs
from ..training import Recipe
from ..training.learner import Batch
from ..training.objectives import Metric, as_float
from ..zoo.hypermorph import HyperMorph, Registered, VoxelMorph, warp
from .experiment import Experiment, Networks

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_SLIDE = tuple(step / 20 for step in range(21))
_SHOWN = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_SIGMA = 0.05
_ENDS = 0.05
_SKEW = 0.6
_SHARING = 16
_SCALE_OFFSET = 1.05
_EVALUATION_BATCH = 200


class ForOneWeight(nn.Module):
    """A network that knows no weight of smoothness, called like one that does."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.network = VoxelMorph()

    def forward(self, moving: Tensor, fixed: Tensor, weight: Tensor) -> Registered:
        return self.network(moving, fixed)


def weights_of(network: nn.Module, otherwise: Sequence[float] = WEIGHTS) -> Sequence[float]:
    """The weight that a network is for, or ``otherwise`` if it is for all."""
    return [module.weight for module in network.modules() if isinstance(module, ForOneWeight)] or otherwise


def registration(network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Tensor]:
    """Loss and Dice: means over the weights of the network, or in training over drawn ones if it is for all."""
    weights = weights_of(network, ())
    if network.training and not weights:
        return _at_drawn_weights(network, batch, draws)
    return _means([registered(network, batch, weight) for weight in weights or WEIGHTS])


def _at_drawn_weights(network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Tensor]:
    """Every few pairs share a weight, and so a kernel; the losses are made alike in scale.

    The loss, and what the network learns from it, would vanish as the weight goes to 1. Where a weight's optimum lies
    does not change with the scale.
    """
    figures = []
    for pairs in zip(*(tensor.split(_SHARING) for tensor in batch), strict=True):
        weight = drawn_weight(draws)
        each = registered(network, pairs, weight)
        figures.append({**each, "loss": each["loss"] / (_SCALE_OFFSET - weight)})
    return _means(figures)


def _means(figures: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in figures]).mean() for name in ("loss", "dice")}


def drawn_weight(draws: torch.Generator) -> float:
    """From 0 ... 1, high ones more often, since there the deformation changes most; sometimes one of the ends."""
    chance, even = torch.rand(2, generator=draws).tolist()
    return float(round(even)) if chance < _ENDS else even**_SKEW


def registered(network: nn.Module, batch: Batch, weight: float) -> dict[str, Tensor]:
    """Loss, Dice, the Dice of each part, and percentage of folded pixels: the batch's means.

    Args:
        batch: moving and fixed images, ``(B, 1, H, W)``; then perhaps masks ``(B, parts, H, W)`` of both. Without
            these, the images' pixels above a half are the mask.
    """
    images, masks = [as_float(image) for image in batch[:2]], batch[2:]
    moving, fixed = images
    moved, displacement, velocity = network(moving, fixed, moving.new_tensor([weight]))
    smoothness = sum(velocity.diff(dim=axis).square().mean() for axis in (2, 3)) / 2
    loss = (1 - weight) * (moved - fixed).square().mean() / _SIGMA**2 + weight * smoothness
    with torch.no_grad():
        moved_mask = warp(masks[0].to(moved), displacement) if masks else moved
        parts = dice(moved_mask > 0.5, masks[1] if masks else fixed > 0.5)
        folds = 100 * (jacobian_determinants(displacement) < 0).float().mean()
    return {"loss": loss, "dice": parts.mean(), "parts": parts, "folds": folds}


def dice(first: Tensor, second: Tensor) -> Tensor:
    """Of each channel of two masks ``(B, C, H, W)``, the batch's mean: ``(C,)``.

    >>> dice(torch.tensor([1, 1, 0]).view(1, 1, 1, 3) > 0, torch.tensor([1, 0, 0]).view(1, 1, 1, 3) > 0)
    tensor([0.6667])
    """
    both, sizes = (first & second).sum((2, 3)), first.sum((2, 3)) + second.sum((2, 3))
    return torch.where(sizes > 0, 2 * both / sizes, 1.0).mean(0)


def jacobian_determinants(displacement: Tensor) -> Tensor:
    """Of the map from each pixel to its source, by central differences: ``(B, 2, H, W)`` to ``(B, H, W)``.

    >>> jacobian_determinants(torch.zeros(1, 2, 4, 4)).unique()
    tensor([1.])
    """
    down, right = torch.gradient(displacement, dim=(2, 3))
    return (1 + right[:, 0]) * (1 + down[:, 1]) - down[:, 0] * right[:, 1]


@torch.no_grad()
def mean_figures(network: nn.Module, pairs: Dataset, weight: float) -> dict[str, float]:
    """What `registered` returns, over all pairs; each part's Dice under its number, if there are several."""
    totals: dict[str, float] = {}
    for batch in batch_loader(pairs, _EVALUATION_BATCH):
        figures = registered(network, batch, weight)
        parts = figures.pop("parts")
        if len(parts) > 1:
            figures |= {f"dice of part {number}": part for number, part in enumerate(parts, 1)}
        for name, value in figures.items():
            totals[name] = totals.get(name, 0.0) + value.item() * len(batch[0]) / len(pairs)
    return totals


def figures_at_weights(network: nn.Module, splits: Splits) -> dict[str, float]:
    """Test figures at each of `weights_of` the network."""
    return {
        f"{name} at λ={weight:g}": value
        for weight in weights_of(network)
        for name, value in mean_figures(network, splits.test, weight).items()
    }


def figures_at_best_weight(network: nn.Module, splits: Splits) -> dict[str, float]:
    """Test figures as they are unregistered, at the best weight, and at `weights_of` the network."""
    best = best_weight(network, splits)
    at_best = {f"{name} at best λ": value for name, value in mean_figures(network, splits.test, best).items()}
    return {"dice before": dice_before(splits), "best λ": best, **at_best, **figures_at_weights(network, splits)}


def best_weight(network: nn.Module, splits: Splits) -> float:
    """The weight of the highest Dice on validation pairs, found by a search over the weight alone."""
    return max(_SLIDE, key=lambda weight: mean_figures(network, splits.validation, weight)["dice"])


def dice_before(splits: Splits) -> float:
    """The test pairs' Dice before they are registered."""
    return mean_figures(ForOneWeight(0.0), splits.test, 0.0)["dice"]


def slide(networks: Networks, splits: Splits, path: Path, *, search: bool = False) -> None:
    """Two test pairs registered at several weights, and the test figures against the weight.

    Args:
        search: show the best weight on validation pairs too.
    """
    rows = []
    for arm, network in networks.items():
        for weight in weights_of(network, _SLIDE):
            figures = mean_figures(network, splits.test, weight)
            rows += [{"arm": arm, "λ": weight, "figure": name, "value": value} for name, value in figures.items()]
    batch = splits.test[:2]
    moving, fixed = (as_float(images) for images in batch[:2])
    masks = [each.float() for each in batch[2:]]
    outlines = masks or [None, None]
    columns = {"moving": (moving, None, outlines[0]), "fixed": (fixed, None, outlines[1])}
    network = networks.get("hyper", next(iter(networks.values())))
    for weight in weights_of(network, _SHOWN):
        with torch.no_grad():
            moved, displacement, _ = network(moving, fixed, torch.tensor([weight]))
        outline = warp(masks[0], displacement) if masks else None
        columns[f"λ = {weight:g}"] = (moved, displacement, outline)
    plotting.registrations(
        columns,
        pd.DataFrame(rows),
        path,
        f"Registration of {splits.name} by one network whose kernels are generated from λ",
        before=dice_before(splits),
        best=best_weight(network, splits) if search else None,
    )


def _declared(name: str, task: str, minutes: int, **more: Any) -> Experiment:
    return Experiment(
        name=name,
        paper="HyperMorph, Hoopes et al., IPMI 2021",
        task=task,
        minutes=minutes,
        objective=registration,
        metric=Metric("dice", "Dice"),
        **more,
    )


_RECIPE = Recipe("adam", 5e-3, 0.0, "one-cycle", batch_size=32, epochs=4, patience=None, shuffle=True, clip=1.0)

HYPERMORPHS = (
    _declared(
        "hypermorph",
        "two digits of a class to a deformation: one network for every weight λ of smoothness, or one for each",
        minutes=25,
        arms={"hyper": HyperMorph, **{f"fixed-{weight:g}": partial(ForOneWeight, weight) for weight in WEIGHTS}},
        recipe=_RECIPE,
        arm_recipes={"hyper": replace(_RECIPE, learning_rate=6e-4, epochs=5)},
        load=digit_pairs,
        quick_epochs=2,
        measure=figures_at_weights,
        figure=slide,
    ),
    _declared(
        "hypermorph-hippocampus",
        "two hippocampi to a deformation: λ is chosen after training (--data: folder of hippocampus_2d_64.npz)",
        minutes=8,
        arms={"hyper": HyperMorph},
        recipe=replace(_RECIPE, learning_rate=6e-4, epochs=6),
        load=hippocampus_pairs,
        measure=figures_at_best_weight,
        figure=partial(slide, search=True),
    ),
)
