"""U-Nets that segment images and volumes: generated 5-wide kernels beside stored ones, and MONAI's DynUNet."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn

from ..cli import Size
from ..data import Splits, as_float
from ..data.cases import Case, collate
from ..data.clutter import DEPTH, SIDE, TARGETS, digits_in_clutter
from ..data.hippocampus import FOLDS, PARTS, hippocampus_slices, hippocampus_volumes
from ..data.noise import NOISES, add_noise
from ..errors import InputError
from ..layers import HyperLayer
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Metric, Objective
from ..zoo.unet import Dims, UNet, hyper_unet
from .experiment import Arm, Experiment, Figure, Networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TaskName = Literal["digits", "hippocampus"]
DICE = Metric("dice", "Dice", torchmetrics.MeanMetric, "higher")
HD95 = "HD95"
_PERCENTILE = 95
_OVERLAP = 0.25
_LEVELS = 4
_DIVISOR, _SHORTEST = 8, 16
_TURN, _SCALE, _SHIFT = 0.2, 0.1, 4.0
_SHOWN_CASES = 3
_NOISE_SEED = 0


@dataclass(frozen=True)
class UnetOptions:
    """Options of unet and unet-3d.

    Args:
        task: what to segment: a 3 and an 8 among pieces of other digits, or the two parts of the hippocampus (--data:
            the folder of the Decathlon's imagesTr and labelsTr, or for unet that of hippocampus_2d_64.npz; auto:
            data/hippocampus, else a download).
        patients: how many to train on (of digits, scenes), with as many steps as with all. Default: all.
        every_fold: test on every patient once, in five folds, rather than on the first fold.
        width: channels at full resolution, doubled from each of four levels to the next.
    """

    task: TaskName = "digits"
    patients: Size | None = None
    every_fold: bool = False
    width: Size = 8


class Task(NamedTuple):
    """What is segmented, and in pieces of what size.

    Attributes:
        load: of ``--data``, with ``patients=``.
        patch: sides of what a network is trained on.
        window: sides of what it is shown of a larger image in evaluation, in overlapping windows.
        classes: names of those that are not background.
    """

    load: Callable[..., Splits]
    patch: tuple[int, ...]
    window: tuple[int, ...]
    classes: tuple[str, ...]


_DIGITS = tuple(map(str, TARGETS))
TASKS: Mapping[tuple[TaskName, Dims], Task] = {
    ("digits", 2): Task(partial(digits_in_clutter, dims=2), (SIDE, SIDE), (SIDE, SIDE), _DIGITS),
    ("digits", 3): Task(partial(digits_in_clutter, dims=3), (SIDE, SIDE, DEPTH), (SIDE, SIDE, DEPTH), _DIGITS),
    ("hippocampus", 2): Task(hippocampus_slices, (64, 64), (64, 64), PARTS),
    ("hippocampus", 3): Task(hippocampus_volumes, (32, 40, 32), (48, 64, 48), PARTS),
}
RECIPES: Mapping[Dims, Recipe] = {
    2: Recipe("adam", 4e-3, 0.0, "one-cycle", batch_size=8, epochs=5, patience=None, shuffle=True, clip=1.0),
    3: Recipe("adam", 1.6e-2, 0.0, "one-cycle", batch_size=2, epochs=3, patience=None, shuffle=True, clip=1.0),
}
_RATES: Mapping[Dims, Sequence[float]] = {
    2: (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2),
    3: (8e-3, 1.6e-2, 3.2e-2),
}
# the best of these on validation slices of the hippocampus, taken for other tasks too
CHOSEN = {"hyper-4": 3.2e-2, "hyper-8": 3.2e-2, "normal-3": 1.6e-2, "normal-5": 8e-3, "dynunet": 8e-3}
# as many operations as with 5-wide kernels, at a kernel of 3
_WIDER: Mapping[Dims, float] = {2: 5 / 3, 3: (5 / 3) ** 1.5}
# noise of 0.1 on images in 0 ... 1; images are seen at more levels than volumes, which take longer
NOISE_LEVELS: Mapping[Dims, Sequence[float]] = {2: (0.05, 0.1, 0.2), 3: (0.1,)}


def segmentation(task: Task, network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Soft Dice and cross-entropy as the loss, and the Dice of each case's classes; in training of `moved` patches."""
    cases = list(zip(*batch, strict=True))
    if draws is not None:
        images, labels = map(torch.stack, zip(*moved(cases, task.patch, draws), strict=True))
        together = [(network(images), labels)]
    else:
        together = [(whole(network, as_float(image), task.window), labels.unsqueeze(0)) for image, labels in cases]
    loss = torch.stack([dice_and_entropy(*each) for each in together]).mean()
    dices = [dice(logits.detach().argmax(1, keepdim=True), labels, task.classes) for logits, labels in together]
    return {LOSS: loss, DICE.column: torch.cat(dices)}


def dice_and_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of logits ``(B, classes, *sides)`` and labels ``(B, 1, *sides)``: 1 less the soft Dice, plus cross-entropy."""
    from monai.losses import DiceCELoss

    return DiceCELoss(softmax=True, to_onehot_y=True)(logits, labels)


def moved(cases: Sequence[Case], patch: tuple[int, ...], draws: torch.Generator) -> Iterator[Case]:
    """Patches of the cases, images float, turned, scaled and shifted a little, alike for image and labels."""
    transform = _moving(patch)
    transform.set_random_state(seed=int(torch.randint(2**31, (1,), generator=draws)))
    for image, labels in cases:
        seen = transform({"image": as_float(image), "labels": labels})
        yield seen["image"].as_tensor(), seen["labels"].as_tensor()


@cache
def _moving(patch: tuple[int, ...]) -> Any:
    from monai.transforms import Compose, RandAffined, RandSpatialCropd

    both, dims = ("image", "labels"), len(patch)
    return Compose(
        [
            RandSpatialCropd(both, patch, random_size=False),
            RandAffined(
                both,
                patch,
                prob=1.0,
                rotate_range=(_TURN,) * (1 if dims == 2 else 3),
                translate_range=(_SHIFT,) * dims,
                scale_range=(_SCALE,) * dims,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
        ]
    )


def whole(network: nn.Module, image: Tensor, window: tuple[int, ...]) -> Tensor:
    """Logits ``(1, classes, *sides)`` of an image ``(1, *sides)``; if it is larger than the window, of several."""
    from monai.inferers import sliding_window_inference

    seen = [
        min(most, max(_SHORTEST, math.ceil(side / _DIVISOR) * _DIVISOR))
        for most, side in zip(window, image.shape[1:], strict=True)
    ]
    logits: Any = sliding_window_inference(
        image.unsqueeze(0), seen, 1, network, overlap=_OVERLAP, padding_mode="replicate"
    )
    return logits


def dice(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Of each case and class but the background, ``(B, len(classes))``; where a class is in neither, it is 1.

    Args:
        predicted, labels: maps of classes ``(B, 1, *sides)``.
    """
    from monai.metrics import compute_dice

    count = 1 + len(classes)
    return compute_dice(predicted, labels, include_background=False, ignore_empty=False, num_classes=count)


def hausdorff_95(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> list[float]:
    """Of each class, the distance that 95 % of either outline keep to the other, in pixels, or mm at 1 mm.

    Of a class that is in one map only, the image's diagonal, which no distance exceeds; in neither, 0.

    Args:
        predicted, labels: maps of classes ``(1, 1, *sides)``.
    """
    from monai.metrics import compute_hausdorff_distance

    sides = labels.shape[2:]
    distances = []
    for number in range(1, 1 + len(classes)):
        masks = (predicted == number).float(), (labels == number).float()
        there = [bool(mask.any()) for mask in masks]
        if all(there):
            with warnings.catch_warnings():  # MONAI's, of what it calls itself
                warnings.simplefilter("ignore", FutureWarning)
                distance = compute_hausdorff_distance(*masks, include_background=True, percentile=_PERCENTILE).item()
        else:
            distance = math.dist(sides, [1] * len(sides)) if any(there) else 0.0
        distances.append(distance)
    return distances


@torch.no_grad()
def figures_on_test(task: Task, levels: Sequence[float], network: nn.Module, splits: Splits) -> list[Figure]:
    """Means over the test cases: Dice and HD95 of each class, and the Dice on noisy images."""
    cases: list[Case] = [splits.test[number] for number in range(len(splits.test))]
    truths = [labels.unsqueeze(0) for _, labels in cases]
    clean = [as_float(image) for image, _ in cases]

    def predicted(images: Iterable[Tensor]) -> list[Tensor]:
        return [whole(network, image, task.window).argmax(1, keepdim=True) for image in images]

    def mean_dice(found: Sequence[Tensor]) -> Tensor:
        return torch.cat([dice(*each, task.classes) for each in zip(found, truths, strict=True)]).mean(0)

    found = predicted(clean)
    distances = np.mean([hausdorff_95(*each, task.classes) for each in zip(found, truths, strict=True)], axis=0)
    figures = [Figure(HD95, float(distances.mean()))]
    for name, of_class, distance in zip(task.classes, mean_dice(found).tolist(), distances.tolist(), strict=True):
        figures += [Figure(DICE.name, of_class, name), Figure(HD95, distance, name)]
    for noise, level in product(NOISES, levels):
        draws = torch.Generator().manual_seed(_NOISE_SEED)
        noisy = predicted(add_noise(image, noise, level, draws) for image in clean)
        figures.append(Figure(DICE.name, mean_dice(noisy).mean().item(), f"{noise} {level:g}"))
    return figures


@torch.no_grad()
def outlines(task: Task, name: str, networks: Networks, splits: Splits) -> "Drawing":
    """Test cases as each network outlines their classes, and kernels of its first two convolutions."""
    from .figures.unet import Outlined, segmentations

    rows = []
    for number in range(min(_SHOWN_CASES, len(splits.test))):
        image, labels = splits.test[number]
        at = fullest_slice(labels)
        found = {arm: whole(network, as_float(image), task.window) for arm, network in networks.items()}
        maps = {arm: logits.argmax(1, keepdim=True) for arm, logits in found.items()}
        rows.append(
            Outlined(
                image[at].numpy(),
                labels[at].numpy(),
                {arm: each[0][at].numpy() for arm, each in maps.items()},
                {arm: dice(each, labels.unsqueeze(0), task.classes).mean().item() for arm, each in maps.items()},
            )
        )
    kernels = {arm: [_flat(kernel).numpy() for kernel in first_kernels(network)] for arm, network in networks.items()}
    return segmentations(rows, kernels, task.classes, f"{name}: test cases ({splits.name}) and first kernels")


def fullest_slice(labels: Tensor) -> tuple[Any, ...]:
    """Of labels ``(1, H, W)`` where they lie; of volumes ``(1, H, W, D)`` where the slice with most of them lies."""
    return (0,) if labels.dim() == 3 else (0, ..., int((labels > 0).sum((0, 1, 2)).argmax()))


def _flat(kernel: Tensor) -> Tensor:
    """Of a kernel in three dimensions the slice through its middle, as `fullest_slice` lies."""
    return kernel if kernel.dim() == 4 else kernel[..., kernel.shape[-1] // 2]


def first_kernels(network: nn.Module, count: int = 2) -> list[Tensor]:
    """Of the convolutions that come first, ``(O, I, *k)``, generated or stored."""
    kinds = (nn.Conv2d, nn.Conv3d, HyperLayer)
    return [module.weight for module in network.modules() if isinstance(module, kinds)][:count]


def dynunet(dims: Dims, classes: int, width: int) -> nn.Module:
    """MONAI's U-Net after nnU-Net: instance norm, LeakyReLU, strided and transposed convolutions."""
    from monai.networks.nets import DynUNet

    strides = [1] + [2] * (_LEVELS - 1)
    return DynUNet(
        dims, 1, classes, [3] * _LEVELS, strides, strides[1:], filters=[width * 2**level for level in range(_LEVELS)]
    )


def _arms(dims: Dims, options: UnetOptions) -> dict[str, Arm]:
    classes = 1 + len(TASKS[options.task, dims].classes)
    widths = tuple(options.width * 2**level for level in range(_LEVELS))
    networks: dict[str, Callable[[], nn.Module]] = {
        "hyper-4": partial(hyper_unet, dims, classes, widths, 5, features=4),
        "hyper-8": partial(hyper_unet, dims, classes, widths, 5, features=8),
        "normal-3": partial(UNet, dims, classes, widths, 3),
        "normal-5": partial(UNet, dims, classes, widths, 5),
        "dynunet": partial(dynunet, dims, classes, round(options.width * _WIDER[dims])),
    }
    grid = {"learning_rate": _RATES[dims]}
    return {
        name: Arm(
            network,
            replace(RECIPES[dims], learning_rate=CHOSEN[name]) if dims == 2 else None,
            grid,
        )
        for name, network in networks.items()
    }


def _adapted(dims: Dims, experiment: Experiment, options: UnetOptions) -> Experiment:
    task = TASKS[options.task, dims]
    if options.every_fold and options.task == "digits":
        raise InputError("--every_fold is for hippocampus; digits come with a test split")
    return replace(
        experiment,
        arms=_arms(dims, options),
        objective=Objective(partial(segmentation, task), (DICE,), DICE.column, samples=cases_in, loss="Dice + entropy"),
        load=partial(task.load, patients=options.patients),
        folds=FOLDS if options.every_fold else 0,
        measure=partial(figures_on_test, task, NOISE_LEVELS[dims]),
        figure=partial(outlines, task, experiment.name),
    )


def cases_in(batch: Batch) -> int:
    return len(batch[0])


def _declared(dims: Dims, name: str, minutes: int, what: str, **more: Any) -> Experiment:
    plain = Experiment(
        name=name,
        paper="Hyper-convolutions, Ma, Dalca, Sabuncu, WACV 2022",
        task=f"{what} to a class for every pixel (--task): U-Nets of generated 5-wide kernels and of stored ones, "
        "MONAI's DynUNet",
        minutes=minutes,
        arms={},
        recipe=RECIPES[dims],
        options=UnetOptions,
        adapted=partial(_adapted, dims),
        collate=collate,
        extras=("medical",),
        # of one that finds nothing, Dice is 0; of one that misses a class, half at most
        failed_at=0.5,
        **more,
    )
    return plain.with_options(UnetOptions())


EXPERIMENTS = (
    _declared(2, "unet", 6, "images", quick_epochs=10),
    _declared(3, "unet-3d", 60, "volumes", quick_epochs=2, evaluation_batch=4, quick_samples=30),
)
