"""Classifiers of digits whose kernels are generated, as first published for MNIST, beside stored kernels."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from ..cli import Size
from ..data.augment import turn_and_zoom
from ..data.images import as_float
from ..errors import InputError
from ..generators import CoordinateMLP, Norm
from ..layers import HyperConv2d
from ..training import Recipe
from ..training.objectives import ACCURACY, CLASSIFICATION, Batch, Objective, scores
from ..zoo.digit_classifier import digit_classifier
from .experiment import TWICE_CHANCE, Arm, Experiment, rates_around

ArmName = Literal["hyper", "normal"]
ROTATION_DEGREES = 10.0
ZOOM = 0.1

_FAST = Recipe(
    "adamw", 1e-2, 1e-2, "one-cycle", batch_size=128, epochs=5, patience=None, shuffle=True, steps_an_epoch=120
)
RECIPES = {
    "fast": _FAST,
    # github.com/mkarmann/hyper-conv, commit 6d3ea74
    "seed": Recipe("adam", 1e-4, 1e-6, "constant", batch_size=64, epochs=100, patience=10, shuffle=False),
    "robust": replace(_FAST, learning_rate=3e-3, epochs=2),
}


@dataclass(frozen=True)
class DigitsOptions:
    """Options of digits.

    Args:
        conv: which arms to train: hyper (generated kernels), normal (stored ones), or both.
        recipe: fast (AdamW, one-cycle, 5 epochs, digits turned by up to 10 degrees and scaled by up to 10 %), robust
            (the same for 2 epochs at a lower rate, and generated kernels of norm stateless) or seed (Adam at 1e-4 until
            the validation loss stops falling, as in the first release of hyper-convolutions on MNIST).
        kernel_size: of the convolutions in the residual blocks.
        hidden: widths of the kernel generators' hidden layers, e.g. 16 16 4.
        norm: how generated kernels are standardised: decorrelated (by their own statistics, made of decorrelated
            features), stateless (by their own statistics), batchnorm (running statistics, so that training and
            evaluation use different kernels), or none. Default: decorrelated, in recipe robust stateless.
    """

    conv: Literal["hyper", "normal", "both"] = "both"
    recipe: Literal["fast", "seed", "robust"] = "fast"
    kernel_size: Size = 5
    hidden: tuple[Size, ...] = (16, 16, 16)
    norm: Norm | None = None


def digit_network(arm: ArmName, kernel_size: int, hidden: tuple[int, ...], norm: Norm) -> nn.Module:
    """The classifier with generated kernels or with stored ones; the two differ in nothing else.

    Raises:
        InputError: another arm, or a kernel without taps.
    """
    if kernel_size < 1:
        raise InputError(f"the kernel size must be 1 or more, got {kernel_size}")
    if arm == "normal":
        return digit_classifier(kernel_size, conv_layer=nn.Conv2d)
    if arm == "hyper":
        generator = partial(CoordinateMLP, hidden=hidden, norm=norm)
        # as published: a bias beside stored kernels, none beside generated ones
        return digit_classifier(kernel_size, conv_layer=partial(HyperConv2d, bias=False, generator=generator))
    raise InputError(f"conv must be 'hyper' or 'normal', got {arm!r}")


def _turned_classification(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    images, labels = batch
    images = as_float(images)
    moved = images if draws is None else turn_and_zoom(images, ROTATION_DEGREES, ZOOM, draws)
    return scores(network(moved), labels)


# digits turned and scaled in training
TURNED_CLASSIFICATION = Objective(_turned_classification, (ACCURACY,), loss=CLASSIFICATION.loss)


def norm_of(options: DigitsOptions) -> Norm:
    return options.norm or ("stateless" if options.recipe == "robust" else "decorrelated")


def _arms(options: DigitsOptions) -> dict[str, Arm]:
    network = partial(digit_network, kernel_size=options.kernel_size, hidden=options.hidden, norm=norm_of(options))
    grid = rates_around(RECIPES[options.recipe])
    every = {
        "hyper": Arm(partial(network, "hyper"), grid=grid, ignores=("conv",)),
        "normal": Arm(partial(network, "normal"), grid=grid, ignores=("conv", "hidden", "norm")),
    }
    return every if options.conv == "both" else {options.conv: every[options.conv]}


def _adapted(digits: Experiment, options: DigitsOptions) -> Experiment:
    return replace(
        digits,
        arms=_arms(options),
        recipe=RECIPES[options.recipe],
        objective=CLASSIFICATION if options.recipe == "seed" else TURNED_CLASSIFICATION,
    )


EXPERIMENTS = (
    Experiment(
        name="digits",
        paper="Ma, Dalca, Sabuncu, WACV 2022; github.com/mkarmann/hyper-conv",
        task="digits to classes: residual network, generated 5x5 kernels beside stored ones",
        minutes=10,
        arms=_arms(DigitsOptions()),
        recipe=RECIPES["fast"],
        objective=TURNED_CLASSIFICATION,
        options=DigitsOptions,
        adapted=_adapted,
        quick_epochs=2,
        failed_at=TWICE_CHANCE,
    ),
)
