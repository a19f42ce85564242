"""One registration network for every weight of smoothness beside networks for one each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torchmetrics
from torch import Tensor, nn

from ..data import Splits, as_float, batch_loader
from ..data.batches import Samples
from ..data.pairs import digit_pairs, hippocampus_pairs
from ..generators import magnitude_invariant
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Metric, Objective
from ..zoo.hypermorph import Registered, VoxelMorph, hyper_morph, warp
from .experiment import Arm, Experiment, Figure, Networks, rates_around

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

DICE = Metric("dice", "Dice", torchmetrics.MeanMetric, "higher")
_SHOWN = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
_ENDS = 0.05
_SKEW = 0.6
_SCALE_OFFSET = 1.05


class Task(NamedTuple):
    """What is registered, and at which weights it is measured.

    Attributes:
        weights: of smoothness, that there are networks for one each of.
        sigma: a difference of pixels' values that counts as one.
        sharing: so many pairs of a batch have one drawn weight, and so a kernel.
        slide: the weights that are tried to find the best.
        evaluation_batch: pairs that are measured at once.
    """

    weights: tuple[float, ...]
    sigma: float
    sharing: int
    slide: tuple[float, ...]
    evaluation_batch: int


def _steps(count: int) -> tuple[float, ...]:
    return tuple(step / count for step in range(count + 1))


DIGITS = Task((0.1, 0.3, 0.5, 0.7, 0.9), 0.05, 16, _steps(20), 200)
SLICES = Task((0.1, 0.5, 0.9), 0.2, 16, _steps(20), 200)
VOLUMES = Task((0.1, 0.5, 0.9), 0.2, 2, _steps(10), 5)


class ForOneWeight(nn.Module):
    """A network that knows no weight of smoothness, called like one that does."""

    def __init__(self, weight: float, **sizes: Any) -> None:
        super().__init__()
        self.weight = weight
        self.network = self._network(**sizes)

    def _network(self, **sizes: Any) -> nn.Module:
        return VoxelMorph(**sizes)

    def forward(self, moving: Tensor, fixed: Tensor, context: Tensor) -> Registered:
        return self.network(moving, fixed)


class GeneratedForOneWeight(ForOneWeight):
    """A network for all weights that is trained at one only: what generating its kernels does by itself."""

    def _network(self, **sizes: Any) -> nn.Module:
        return hyper_morph(**sizes)

    def forward(self, moving: Tensor, fixed: Tensor, context: Tensor) -> Registered:
        return self.network(moving, fixed, context=context)


def weights_of(network: nn.Module, otherwise: Sequence[float]) -> Sequence[float]:
    """The weight that a network is for, or ``otherwise`` if it is for all."""
    return [module.weight for module in network.modules() if isinstance(module, ForOneWeight)] or otherwise


def registration(task: Task, network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Loss and Dice: means over the weights of the network, or in training over drawn ones if it is for all."""
    weights = weights_of(network, ())
    if draws is not None and not weights:
        return _at_drawn_weights(task, network, batch, draws)
    return _over_weights([registered(task, network, batch, weight) for weight in weights or task.weights])


def _at_drawn_weights(task: Task, network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Any]:
    """Every few pairs share a weight, and so a kernel; the losses are made alike in scale.

    The loss, and what the network learns from it, would vanish as the weight goes to 1. Where a weight's optimum lies
    does not change with the scale.
    """
    figures = []
    for pairs in zip(*(tensor.split(task.sharing) for tensor in batch), strict=True):
        weight = drawn_weight(draws)
        each = registered(task, network, pairs, weight)
        figures.append({**each, "loss": each["loss"] / (_SCALE_OFFSET - weight)})
    return _over_weights(figures)


def _over_weights(figures: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    loss = torch.stack([each["loss"] for each in figures]).mean()
    return {LOSS: loss, DICE.column: (torch.cat([each["parts"] for each in figures]),)}


def drawn_weight(draws: torch.Generator) -> float:
    """From 0 ... 1, high ones more often, since there the deformation changes most; sometimes one of the ends."""
    chance, even = torch.rand(2, generator=draws).tolist()
    return float(round(even)) if chance < _ENDS else even**_SKEW


def registered(task: Task, network: nn.Module, batch: Batch, weight: float) -> dict[str, Tensor]:
    """The batch's mean loss, and for each pair the Dice of its parts.

    Args:
        batch: moving and fixed images, ``(B, 1, *sides)``; then perhaps masks ``(B, parts, *sides)`` of both. Without
            these, the images' pixels above a half are the mask.

    Returns:
        ``loss``, ``parts`` ``(B, parts)``, and ``displacement`` as in `Registered`.
    """
    images, masks = [as_float(image) for image in batch[:2]], batch[2:]
    moving, fixed = images
    moved, displacement, velocity = network(moving, fixed, context=magnitude_invariant(moving.new_tensor([weight])))
    axes = range(2, velocity.dim())
    smoothness = torch.stack([velocity.diff(dim=axis).square().mean() for axis in axes]).mean()
    loss = (1 - weight) * (moved - fixed).square().mean() / task.sigma**2 + weight * smoothness
    with torch.no_grad():
        moved_mask = warp(masks[0].to(moved), displacement) if masks else moved
        parts = dice(moved_mask > 0.5, _masks(batch)[1])
    return {"loss": loss, "parts": parts, "displacement": displacement.detach()}


def dice(first: Tensor, second: Tensor) -> Tensor:
    """Of each sample and channel of two masks ``(B, C, *sides)``: ``(B, C)``; two empty masks agree.

    >>> dice(torch.tensor([1, 1, 0]).view(1, 1, 1, 3) > 0, torch.tensor([1, 0, 0]).view(1, 1, 1, 3) > 0)
    tensor([[0.6667]])
    """
    both, sizes = (first & second).flatten(2).sum(2), first.flatten(2).sum(2) + second.flatten(2).sum(2)
    return torch.where(sizes > 0, 2 * both / sizes, 1.0)


def jacobian_determinants(displacement: Tensor) -> Tensor:
    """Of the map from each pixel to its source, by central differences: ``(B, dims, *sides)`` to ``(B, *sides)``.

    >>> jacobian_determinants(torch.zeros(1, 2, 4, 4)).unique(), jacobian_determinants(torch.zeros(1, 3, 4, 4, 4)).sum()
    (tensor([1.]), tensor(64.))
    """
    dims = displacement.shape[1]
    along = torch.gradient(displacement, dim=tuple(range(dims + 1, 1, -1)))
    still = torch.eye(dims, device=displacement.device, dtype=displacement.dtype).view(dims, dims, *[1] * dims)
    first, second, *third = [each + unit for each, unit in zip(along, still, strict=True)]
    if third:
        return (first * torch.linalg.cross(second, third[0], dim=1)).sum(1)
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


@torch.no_grad()
def mean_figures(task: Task, network: nn.Module, pairs: Samples, weight: float) -> dict[str, float]:
    """Loss, Dice and folded pixels (%) over all pairs; each part's Dice under its number, if there are several."""
    loss, measured = torchmetrics.MeanMetric(), []
    for batch in batch_loader(pairs, task.evaluation_batch):
        figures = registered(task, network, batch, weight)
        loss.update(figures["loss"], len(batch[0]))
        folds = 100 * (jacobian_determinants(figures["displacement"]) < 0).float().flatten(1).mean(1)
        measured.append((figures["parts"], folds))
    parts, folds = map(torch.cat, zip(*measured, strict=True))
    return {"loss": loss.compute().item(), "folds": folds.mean().item(), **_of_parts(parts)}


def figures_at_weights(task: Task, network: nn.Module, splits: Splits) -> list[Figure]:
    """Test figures at each of `weights_of` the network."""
    return [
        Figure(name, value, f"λ={weight:g}")
        for weight in weights_of(network, task.weights)
        for name, value in mean_figures(task, network, splits.test, weight).items()
    ]


def figures_at_best_weight(task: Task, network: nn.Module, splits: Splits) -> list[Figure]:
    """Test figures as they are unregistered, at `weights_of` the network, and at the best weight if it is for all."""
    before = [Figure(name, value, "unregistered") for name, value in unregistered(task, splits).items()]
    figures = [*before, *figures_at_weights(task, network, splits)]
    if weights_of(network, ()):
        return figures
    best = best_weight(task, network, splits)
    at_best = mean_figures(task, network, splits.test, best)
    return [*figures, Figure("λ", best, "best λ"), *(Figure(name, value, "best λ") for name, value in at_best.items())]


def best_weight(task: Task, network: nn.Module, splits: Splits) -> float:
    """The weight of the highest Dice on validation pairs, found by a search over the weight alone."""
    return max(task.slide, key=lambda weight: mean_figures(task, network, splits.validation, weight)[DICE.name])


@torch.no_grad()
def unregistered(task: Task, splits: Splits) -> dict[str, float]:
    """The Dice of the test pairs before they are registered, as in `mean_figures`."""
    parts = torch.cat([dice(*_masks(batch)) for batch in batch_loader(splits.test, task.evaluation_batch)])
    return _of_parts(parts)


def _masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """Moving and fixed ones, ``(B, parts, *sides)``: those of the batch, or pixels above a half."""
    moving, fixed = batch[2:] or [as_float(images) > 0.5 for images in batch]
    return moving, fixed


def _of_parts(parts: Tensor) -> dict[str, float]:
    """The mean Dice of ``(pairs, parts)``; each part's under its number, if there are several."""
    of_each = parts.mean(0).tolist() if parts.shape[1] > 1 else ()
    return {
        DICE.name: parts.mean().item(),
        **{f"{DICE.name} of part {number}": part for number, part in enumerate(of_each, 1)},
    }


def slide(task: Task, networks: Networks, splits: Splits, *, search: bool = False) -> "Drawing":
    """Test pairs registered at several weights, and the test figures against the weight.

    Of images two pairs are shown, of volumes three slices of one, through the middle of what is labelled.

    Args:
        search: show the best weight on validation pairs too.
    """
    import pandas as pd

    from .figures.hypermorph import registrations

    rows = []
    for arm, network in networks.items():
        for weight in weights_of(network, task.slide):
            figures = mean_figures(task, network, splits.test, weight)
            rows += [{"arm": arm, "λ": weight, "figure": name, "value": value} for name, value in figures.items()]
    batch = splits.test[:2]
    moving, fixed = (as_float(images) for images in batch[:2])
    masks = [each.float() for each in batch[2:]]
    middle = _middle(masks[1] if masks else fixed)

    def flat(images: Tensor | None, *, along: bool = False) -> list[Any] | None:
        return None if images is None else _slices(images, middle, along=along)

    outlines = masks or [None, None]
    columns: dict[str, tuple[Any, Any, Any]] = {
        "moving": (flat(moving), None, flat(outlines[0])),
        "fixed": (flat(fixed), None, flat(outlines[1])),
    }
    network = networks.get("hyper", next(iter(networks.values())))
    for weight in weights_of(network, _SHOWN):
        with torch.no_grad():
            moved, displacement, _ = network(moving, fixed, context=magnitude_invariant(torch.tensor([weight])))
        outline = warp(masks[0], displacement) if masks else None
        columns[f"λ = {weight:g}"] = (flat(moved), flat(displacement, along=True), flat(outline))
    return registrations(
        columns,
        pd.DataFrame(rows),
        f"Registration of {splits.name} by one network whose kernels are generated from λ",
        before=unregistered(task, splits)[DICE.name],
        best=best_weight(task, network, splits) if search and not weights_of(network, ()) else None,
    )


def _middle(masks: Tensor) -> list[int]:
    """The middle of what is not 0 in the first of ``(B, C, *sides)``."""
    places = masks[0].sum(0).nonzero()
    if not len(places):
        return [side // 2 for side in masks.shape[2:]]
    return ((places.amin(0) + places.amax(0)) // 2).tolist()


def _slices(images: Tensor, at: Sequence[int], *, along: bool) -> list[Any]:
    """Images ``(C, H, W)`` of a batch; of the first of volumes ``(B, C, *sides)`` one across each axis.

    Args:
        at: where.
        along: the channels are components of a displacement, of which those along the slice are left.
    """
    if images.dim() == 4:
        return [image.numpy() for image in images]
    slices = []
    for axis, place in enumerate(at):
        chosen = images[0].select(1 + axis, place)
        across = len(at) - 1 - axis
        slices.append(chosen[[channel for channel in range(len(chosen)) if not along or channel != across]].numpy())
    return slices


_RECIPE = Recipe("adam", 5e-3, 0.0, "one-cycle", batch_size=32, epochs=4, patience=None, shuffle=True, clip=1.0)
_OF_HYPER = replace(_RECIPE, learning_rate=6e-4, epochs=5)
_OF_SLICES, _OF_HYPER_SLICES = replace(_RECIPE, epochs=6), replace(_OF_HYPER, epochs=6)
_OF_VOLUMES, _OF_HYPER_VOLUMES = (replace(each, batch_size=2, epochs=3) for each in (_RECIPE, _OF_HYPER))
# velocity at half the resolution
_OF_VOLUMES_NETWORK: dict[str, Any] = {"encoder": (16, 32, 32), "decoder": (32, 32, 16), "dims": 3}


def _arms(task: Task, recipe: Recipe, of_hyper: Recipe, **sizes: Any) -> dict[str, Arm]:
    return {
        "hyper": Arm(partial(hyper_morph, **sizes), of_hyper, rates_around(of_hyper)),
        **{
            f"fixed-{weight:g}": Arm(
                partial(ForOneWeight, weight, **sizes), recipe, rates_around(recipe), group="fixed"
            )
            for weight in task.weights
        },
    }


def _declared(name: str, what: str, minutes: int, task: Task, **more: Any) -> Experiment:
    return Experiment(
        name=name,
        paper="HyperMorph, Hoopes et al., IPMI 2021",
        task=what,
        minutes=minutes,
        objective=Objective(partial(registration, task), (DICE,), loss="dissimilarity and smoothness"),
        evaluation_batch=task.evaluation_batch,
        **more,
    )


EXPERIMENTS = (
    _declared(
        "hypermorph",
        "two digits of a class to a deformation: one network for every weight λ of smoothness, or one for each",
        25,
        DIGITS,
        arms={
            **_arms(DIGITS, _RECIPE, _OF_HYPER),
            "hyper-0.5": Arm(partial(GeneratedForOneWeight, 0.5), _OF_HYPER, rates_around(_OF_HYPER)),
        },
        recipe=_RECIPE,
        load=digit_pairs,
        quick_epochs=2,
        measure=partial(figures_at_weights, DIGITS),
        figure=partial(slide, DIGITS),
    ),
    _declared(
        "hypermorph-hippocampus",
        "slices of two patients' hippocampi to a deformation: λ is chosen after training (--data: folder of "
        "hippocampus_2d_64.npz, or of the Decathlon's imagesTr and labelsTr)",
        8,
        SLICES,
        arms=_arms(SLICES, _OF_SLICES, _OF_HYPER_SLICES),
        recipe=_OF_SLICES,
        load=hippocampus_pairs,
        measure=partial(figures_at_best_weight, SLICES),
        figure=partial(slide, SLICES, search=True),
    ),
    _declared(
        "hypermorph-3d",
        "volumes of two patients' hippocampi to a deformation, likewise (--data: folder of the Decathlon's imagesTr "
        "and labelsTr)",
        30,
        VOLUMES,
        arms=_arms(VOLUMES, _OF_VOLUMES, _OF_HYPER_VOLUMES, **_OF_VOLUMES_NETWORK),
        recipe=_OF_VOLUMES,
        load=partial(hippocampus_pairs, dims=3),
        extras=("medical",),
        quick_samples=200,
        measure=partial(figures_at_best_weight, VOLUMES),
        figure=partial(slide, VOLUMES, search=True),
    ),
)
