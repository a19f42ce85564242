"""One registration network for every weight of smoothness beside networks for one each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from torch import Tensor, nn

from ..data import Splits, as_float, batch_loader
from ..data.batches import Samples
from ..data.pairs import digit_pairs, hippocampus_pairs
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Metric, Objective
from ..zoo.hypermorph import HyperMorph, Registered, VoxelMorph, warp
from .experiment import Arm, Experiment, Figure, Networks, rates_around

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

DICE = Metric("dice", "Dice", torchmetrics.MeanMetric, "higher")
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


def registration(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Loss and Dice: means over the weights of the network, or in training over drawn ones if it is for all."""
    weights = weights_of(network, ())
    if draws is not None and not weights:
        return _at_drawn_weights(network, batch, draws)
    return _over_weights([registered(network, batch, weight) for weight in weights or WEIGHTS])


def _at_drawn_weights(network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Any]:
    """Every few pairs share a weight, and so a kernel; the losses are made alike in scale.

    The loss, and what the network learns from it, would vanish as the weight goes to 1. Where a weight's optimum lies
    does not change with the scale.
    """
    figures = []
    for pairs in zip(*(tensor.split(_SHARING) for tensor in batch), strict=True):
        weight = drawn_weight(draws)
        each = registered(network, pairs, weight)
        figures.append({**each, "loss": each["loss"] / (_SCALE_OFFSET - weight)})
    return _over_weights(figures)


def _over_weights(figures: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    loss = torch.stack([each["loss"] for each in figures]).mean()
    return {LOSS: loss, DICE.column: (torch.cat([each["parts"] for each in figures]),)}


def drawn_weight(draws: torch.Generator) -> float:
    """From 0 ... 1, high ones more often, since there the deformation changes most; sometimes one of the ends."""
    chance, even = torch.rand(2, generator=draws).tolist()
    return float(round(even)) if chance < _ENDS else even**_SKEW


def registered(network: nn.Module, batch: Batch, weight: float) -> dict[str, Tensor]:
    """The batch's mean loss; and for each pair the Dice of its parts and the percentage of folded pixels.

    Args:
        batch: moving and fixed images, ``(B, 1, H, W)``; then perhaps masks ``(B, parts, H, W)`` of both. Without
            these, the images' pixels above a half are the mask.

    Returns:
        ``loss``, ``parts`` ``(B, parts)`` and ``folds`` ``(B,)``.
    """
    images, masks = [as_float(image) for image in batch[:2]], batch[2:]
    moving, fixed = images
    moved, displacement, velocity = network(moving, fixed, moving.new_tensor([weight]))
    smoothness = sum(velocity.diff(dim=axis).square().mean() for axis in (2, 3)) / 2
    loss = (1 - weight) * (moved - fixed).square().mean() / _SIGMA**2 + weight * smoothness
    with torch.no_grad():
        moved_mask = warp(masks[0].to(moved), displacement) if masks else moved
        parts = dice(moved_mask > 0.5, masks[1] if masks else fixed > 0.5)
        folds = 100 * (jacobian_determinants(displacement) < 0).float().mean((1, 2))
    return {"loss": loss, "parts": parts, "folds": folds}


def dice(first: Tensor, second: Tensor) -> Tensor:
    """Of each sample and channel of two masks ``(B, C, H, W)``: ``(B, C)``; two empty masks agree.

    >>> dice(torch.tensor([1, 1, 0]).view(1, 1, 1, 3) > 0, torch.tensor([1, 0, 0]).view(1, 1, 1, 3) > 0)
    tensor([[0.6667]])
    """
    both, sizes = (first & second).sum((2, 3)), first.sum((2, 3)) + second.sum((2, 3))
    return torch.where(sizes > 0, 2 * both / sizes, 1.0)


def jacobian_determinants(displacement: Tensor) -> Tensor:
    """Of the map from each pixel to its source, by central differences: ``(B, 2, H, W)`` to ``(B, H, W)``.

    >>> jacobian_determinants(torch.zeros(1, 2, 4, 4)).unique()
    tensor([1.])
    """
    down, right = torch.gradient(displacement, dim=(2, 3))
    return (1 + right[:, 0]) * (1 + down[:, 1]) - down[:, 0] * right[:, 1]


@torch.no_grad()
def mean_figures(network: nn.Module, pairs: Samples, weight: float) -> dict[str, float]:
    """Loss, Dice and folds over all pairs; each part's Dice under its number, if there are several."""
    loss, measured = torchmetrics.MeanMetric(), []
    for batch in batch_loader(pairs, _EVALUATION_BATCH):
        figures = registered(network, batch, weight)
        loss.update(figures["loss"], len(batch[0]))
        measured.append((figures["parts"], figures["folds"]))
    parts, folds = map(torch.cat, zip(*measured, strict=True))
    of_parts = parts.mean(0).tolist() if parts.shape[1] > 1 else ()
    return {
        "loss": loss.compute().item(),
        DICE.name: parts.mean().item(),
        "folds": folds.mean().item(),
        **{f"{DICE.name} of part {number}": part for number, part in enumerate(of_parts, 1)},
    }


def figures_at_weights(network: nn.Module, splits: Splits) -> list[Figure]:
    """Test figures at each of `weights_of` the network."""
    return [
        Figure(name, value, f"λ={weight:g}")
        for weight in weights_of(network)
        for name, value in mean_figures(network, splits.test, weight).items()
    ]


def figures_at_best_weight(network: nn.Module, splits: Splits) -> list[Figure]:
    """Test figures as they are unregistered, at the best weight, and at `weights_of` the network."""
    best = best_weight(network, splits)
    at_best = [Figure(name, value, "best λ") for name, value in mean_figures(network, splits.test, best).items()]
    before = Figure(DICE.name, dice_before(splits), "unregistered")
    return [before, Figure("λ", best, "best λ"), *at_best, *figures_at_weights(network, splits)]


def best_weight(network: nn.Module, splits: Splits) -> float:
    """The weight of the highest Dice on validation pairs, found by a search over the weight alone."""
    return max(_SLIDE, key=lambda weight: mean_figures(network, splits.validation, weight)[DICE.name])


def dice_before(splits: Splits) -> float:
    """The test pairs' Dice before they are registered."""
    return mean_figures(ForOneWeight(0.0), splits.test, 0.0)[DICE.name]


def slide(networks: Networks, splits: Splits, *, search: bool = False) -> "Drawing":
    """Two test pairs registered at several weights, and the test figures against the weight.

    Args:
        search: show the best weight on validation pairs too.
    """
    import pandas as pd

    from .figures.hypermorph import registrations

    rows = []
    for arm, network in networks.items():
        for weight in weights_of(network, _SLIDE):
            figures = mean_figures(network, splits.test, weight)
            rows += [{"arm": arm, "λ": weight, "figure": name, "value": value} for name, value in figures.items()]
    batch = splits.test[:2]
    moving, fixed = (as_float(images) for images in batch[:2])
    masks = [each.float() for each in batch[2:]]
    outlines = masks or [None, None]
    columns: dict[str, tuple[Any, Any, Any]] = {
        "moving": (moving, None, outlines[0]),
        "fixed": (fixed, None, outlines[1]),
    }
    network = networks.get("hyper", next(iter(networks.values())))
    for weight in weights_of(network, _SHOWN):
        with torch.no_grad():
            moved, displacement, _ = network(moving, fixed, torch.tensor([weight]))
        outline = warp(masks[0], displacement) if masks else None
        columns[f"λ = {weight:g}"] = (moved, displacement, outline)
    return registrations(
        columns,
        pd.DataFrame(rows),
        f"Registration of {splits.name} by one network whose kernels are generated from λ",
        before=dice_before(splits),
        best=best_weight(network, splits) if search else None,
    )


_RECIPE = Recipe("adam", 5e-3, 0.0, "one-cycle", batch_size=32, epochs=4, patience=None, shuffle=True, clip=1.0)
_OF_HYPER = replace(_RECIPE, learning_rate=6e-4, epochs=5)
_OF_HIPPOCAMPI = replace(_OF_HYPER, epochs=6)


def _declared(name: str, task: str, minutes: int, **more: Any) -> Experiment:
    return Experiment(
        name=name,
        paper="HyperMorph, Hoopes et al., IPMI 2021",
        task=task,
        minutes=minutes,
        objective=Objective(registration, (DICE,), loss="dissimilarity and smoothness"),
        **more,
    )


EXPERIMENTS = (
    _declared(
        "hypermorph",
        "two digits of a class to a deformation: one network for every weight λ of smoothness, or one for each",
        minutes=25,
        arms={
            "hyper": Arm(HyperMorph, _OF_HYPER, rates_around(_OF_HYPER)),
            **{
                f"fixed-{weight:g}": Arm(partial(ForOneWeight, weight), grid=rates_around(_RECIPE), group="fixed")
                for weight in WEIGHTS
            },
        },
        recipe=_RECIPE,
        load=digit_pairs,
        quick_epochs=2,
        measure=figures_at_weights,
        figure=slide,
    ),
    _declared(
        "hypermorph-hippocampus",
        "two hippocampi to a deformation: λ is chosen after training (--data: folder of hippocampus_2d_64.npz)",
        minutes=8,
        arms={"hyper": Arm(HyperMorph, grid=rates_around(_OF_HIPPOCAMPI))},
        recipe=_OF_HIPPOCAMPI,
        load=hippocampus_pairs,
        measure=figures_at_best_weight,
        figure=partial(slide, search=True),
    ),
)
