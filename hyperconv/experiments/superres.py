"""Super-resolution by a network that is told the blur: by way of its first filters, of more channels, or not at all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ..data import Splits, as_float, batch_loader
from ..data.superres import (
    COEFFICIENTS,
    HELD_OUT,
    SCALE,
    Blurred,
    blur_kernels,
    blurred,
    coefficients,
    digits_to_blur,
    middle_kernel,
    natural_images,
)
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Measured, Metric, Objective
from ..zoo.conditioned_srcnn import SRCNN, BiasedSRCNN, Bicubic, ConcatenatedSRCNN, ConditionedSRCNN
from .experiment import Arm, Experiment, Figure, Networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_EVALUATION_BATCH = 50 * HELD_OUT
_SHOWN = 3
_WINDOW = 64
_FILTERS = 8


class OverImages(torchmetrics.MeanMetric):
    """The mean over images of what ``of`` says of restored and true ones, ``(B, 1, H, W)``, for each."""

    def __init__(self, of: Callable[..., Any]) -> None:
        super().__init__()
        self.of = of

    def update(self, restored: Sequence[Tensor], truths: Sequence[Tensor]) -> None:  # type: ignore[override]
        for pair in zip(restored, truths, strict=True):
            super().update(self.of(*pair, data_range=(0.0, 1.0), reduction="none"))


_psnr = partial(peak_signal_noise_ratio, dim=(1, 2, 3))
PSNR = Metric("psnr", "PSNR", partial(OverImages, _psnr), "higher")
SSIM = Metric("ssim", "SSIM", partial(OverImages, structural_similarity_index_measure), "higher")


class ForOneKernel(SRCNN):
    """A network that is trained on images seen through one kernel alone."""


def restoration(border: int, network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Mean squared error, and restored and true images.

    Args:
        border: pixels along the edges that do not count.
        batch: `Blurred`; or in training, only images ``(B, 1, H, W)``, even sides, which kernels are drawn for.
    """
    if draws is not None:
        (truths,) = batch
        batch = blurred(truths, _drawn_kernels(network, len(truths), draws).to(truths.device))
    errors, restored, expected = [], [], []
    for truth, seen, told in _of_one_size(batch):
        inner, true = (each[..., border:-border, border:-border] for each in (network(seen, told), as_float(truth)))
        errors.append((inner - true).square().mean(dim=(1, 2, 3)))
        restored.append(inner.detach())
        expected.append(true)
    return {LOSS: torch.cat(errors).mean(), PSNR.column: (restored, expected), SSIM.column: (restored, expected)}


def _of_one_size(batch: Blurred) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of true images, seen images, and what is told."""
    truths, seen = batch.truths, batch.seen
    if isinstance(truths, Tensor) and isinstance(seen, Tensor):
        yield truths, seen, batch.told
    else:
        for truth, half, told in zip(truths, seen, batch.told, strict=True):
            yield truth.unsqueeze(0), half.unsqueeze(0), told.unsqueeze(0)


def _drawn_kernels(network: nn.Module, count: int, draws: torch.Generator) -> Tensor:
    if any(isinstance(module, ForOneKernel) for module in network.modules()):
        return middle_kernel().expand(count, -1, -1)
    kernels = blur_kernels().train
    return kernels[torch.randint(len(kernels), (count,), generator=draws)]


def told_another_kernel(batch: Blurred) -> Blurred:
    """Every image's network is told the kernel of the image before."""
    return batch._replace(told=batch.told.roll(1, 0))


def through_the_one_kernel(batch: Blurred) -> Blurred:
    """The images as they are seen through the kernel that `ForOneKernel` is for."""
    return blurred(batch.truths, middle_kernel().expand_as(batch.kernels), batch.sets)


def _of_set(name: str, batch: Blurred) -> Blurred:
    chosen = [number for number, other in enumerate(batch.sets) if other == name]
    truths, seen = ([images[number] for number in chosen] for images in batch[:2])
    return Blurred(truths, seen, batch.told[chosen], batch.kernels[chosen])


@torch.no_grad()
def figures_by_condition(objective: Objective, network: nn.Module, splits: Splits) -> list[Figure]:
    """Test figures of a network that is told wrong kernels, and of one kernel; and of each set if there are several."""
    measured: dict[str, Measured] = {}
    for batch in batch_loader(splits.test, _EVALUATION_BATCH):
        sets = sorted(set(batch.sets))
        conditions: dict[str, Callable[[Blurred], Blurred]] = {
            "told another kernel": told_another_kernel,
            "the kernel of one-kernel": through_the_one_kernel,
            **({name: partial(_of_set, name) for name in sets} if len(sets) > 1 else {}),
        }
        for at, change in conditions.items():
            changed = change(batch)
            values = objective.score(network, changed, None)
            measured.setdefault(at, Measured(objective)).update(values, len(changed.truths))
    return [
        Figure(metric.name, each.figures()[metric.column], at)
        for at, each in measured.items()
        for metric in objective.metrics
    ]


@torch.no_grad()
def figure(objective: Objective, networks: Networks, splits: Splits) -> "Drawing":
    """A few test images: their kernel, what is seen of them, what each arm makes of it; and the generated filters."""
    from .figures.superres import Restored, restorations

    shown = []
    for number in range(_SHOWN):
        batch = splits.test[torch.tensor([number * (len(splits.test) // _SHOWN) + number])]
        ((truth, seen, told),) = _of_one_size(batch)
        reached = {}
        for arm, network in networks.items():
            measured = Measured(objective)
            measured.update(objective.score(network, batch, None), 1)
            reached[arm] = measured.figures()[PSNR.column]
        shown.append(
            Restored(
                kernel=batch.kernels[0].numpy(),
                seen=_middle(seen, _WINDOW // SCALE),
                restored={arm: _middle(network(seen, told).clamp(0, 1), _WINDOW) for arm, network in networks.items()},
                psnr=reached,
                truth=_middle(as_float(truth), _WINDOW),
                filters=_filters(networks["hyper"], told) if "hyper" in networks else None,
            )
        )
    return restorations(
        shown, f"Images of {splits.name}, seen at half their size through kernels that are not in training"
    )


def _middle(images: Tensor, side: int) -> Any:
    """Of the first image, ``(h, w)``."""
    top, left = (max(0, size - side) // 2 for size in images.shape[2:])
    return images[0, 0, top : top + side, left : left + side].numpy()


def _filters(network: Any, told: Tensor) -> Any:
    """Those first filters of a `ConditionedSRCNN` that differ most between kernels, ``(F, 9, 9)``."""
    generator = network.first.generator
    spread = generator(coefficients(blur_kernels().train)).var(dim=0).sum(dim=(1, 2, 3))
    return generator(told)[0, spread.topk(min(_FILTERS, len(spread))).indices, 0].numpy()


_RECIPE = Recipe("adam", 8e-3, 0.0, "one-cycle", batch_size=16, epochs=3, patience=None, shuffle=True)
_RATES = {
    "superres": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    # from 8e-3 on, ReLUs die
    "superres-natural": (5e-4, 1e-3, 2e-3, 4e-3),
}
_ENDS = {"one-kernel": {"learning_rate": "validation images are seen through other kernels than its own"}}
# widths such that all trained arms have about as many parameters
_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "hyper": partial(ConditionedSRCNN, (16, 16), COEFFICIENTS),
    "concatenated": partial(ConcatenatedSRCNN, (17, 16), COEFFICIENTS),
    "biased": partial(BiasedSRCNN, (73, 64), COEFFICIENTS),
    "blind": partial(SRCNN, (76, 66)),
    "one-kernel": partial(ForOneKernel, (76, 66)),
}
# the best of the grid on validation data, where it is not the recipe's
CHOSEN: Mapping[str, Mapping[str, float]] = {
    "superres": {"concatenated": 4e-3, "biased": 1.6e-2, "one-kernel": 2e-3},
    # of which one-kernel was not tuned
    "superres-natural": {**dict.fromkeys(_NETWORKS, 2e-3), "hyper": 1e-3, "blind": 1e-3},
}


def _declared(name: str, task: str, minutes: int, border: int, **more: Any) -> Experiment:
    objective = Objective(
        partial(restoration, border), (PSNR, SSIM), PSNR.column, lambda batch: len(batch[0]), loss="mean squared error"
    )
    trained = {
        arm: Arm(
            network,
            replace(_RECIPE, learning_rate=CHOSEN[name].get(arm, _RECIPE.learning_rate)),
            {"learning_rate": _RATES[name]},
            _ENDS.get(arm, {}),
        )
        for arm, network in _NETWORKS.items()
    }
    return Experiment(
        name=name,
        paper="Conditioned Regression Models for Non-Blind Super-Resolution, Riegler et al., ICCV 2015",
        task=task,
        minutes=minutes,
        arms={**trained, "bicubic": Arm(Bicubic)},
        recipe=_RECIPE,
        objective=objective,
        measure=partial(figures_by_condition, objective),
        figure=partial(figure, objective),
        **more,
    )


EXPERIMENTS = (
    _declared(
        "superres",
        "digits blurred and halved to digits: the blur makes the first filters, or more channels; or is not told",
        minutes=3,
        border=2,
        load=digits_to_blur,
    ),
    _declared(
        "superres-natural",
        "as superres, of natural images (--data: a folder of test images, such as Set5, or of such folders)",
        minutes=5,
        # as far as the blur sees beyond the edges
        border=8,
        load=natural_images,
        extras=("images",),
        quick_samples=1000,
    ),
)
