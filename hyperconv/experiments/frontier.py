"""Digit classifiers of many sizes, trained on few digits or all: what accuracy costs in parameters and operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from ..data import Splits, load_digits
from ..data.digits import DigitDataset
from ..errors import InputError
from ..zoo.digit_classifier import digit_classifier
from .digits import RECIPES, TURNED_CLASSIFICATION, digit_network
from .experiment import TWICE_CHANCE, Arm, Experiment, rates_around

Count = Literal[100, 1000, 10000]
DRAWS = 5
TAPS, FEATURES = (3, 5, 7), (2, 4, 8)
_PUBLISHED_FEATURES = 16
_OTHER_NORMS = ("stateless", "batchnorm", "none")
# 5x5: about the parameters of generated kernels of 4 and of 16 features; 3x3: half of those of 2 features, and more
_NARROWER = {"5x5": (4, 7), "3x3": (4, 6)}
_RECIPE = RECIPES["fast"]
_OF_FEW = replace(_RECIPE, batch_size=64, steps_an_epoch=0)
_STEPS_AN_EPOCH = 120
_GRID = rates_around(_RECIPE)
# the best of these on validation digits, where an arm was tuned; on few, in a draw that is not reported
CHOSEN: Mapping[Count | None, Mapping[str, float]] = {}


@dataclass(frozen=True)
class FrontierOptions:
    """Options of frontier.

    Args:
        few: train on so many digits only, in 120 steps an epoch, however often each is seen; five times, on others each
            time. Default: on all.
    """

    few: Count | None = None


def few_digits(source: str = "auto", fold: int = 0, *, few: Count) -> Splits:
    """`load_digits`, with so many training digits, drawn anew for each fold, and again as often as an epoch needs.

    The validation digits, which choose rates and checkpoints, are as many as ever.

    Raises:
        InputError: as `load_digits`; or there are fewer.
    """
    digits = load_digits(source)
    if few > len(digits.train):
        raise InputError(f"{digits.name} has {len(digits.train)} training digits, fewer than --few {few}")
    drawn = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(fold))[:few]
    again = max(few, _STEPS_AN_EPOCH * _OF_FEW.batch_size)
    images, labels = digits.train[drawn[torch.arange(again) % few]]
    note = f"{digits.note}; of the training digits {few} are used, draw {fold + 1}"
    return replace(digits, train=DigitDataset(images.squeeze(1), labels), note=note)


def _networks() -> dict[str, Callable[[], nn.Module]]:
    generated = partial(digit_network, "hyper", norm="decorrelated")
    stored = partial(digit_network, "normal", hidden=(), norm="none")
    published = partial(digit_network, "hyper", 5, (16, 16, _PUBLISHED_FEATURES))
    return {
        **{
            f"hyper-{taps}x{taps}-{last}": partial(generated, taps, (16, 16, last))
            for taps in TAPS
            for last in FEATURES
        },
        f"hyper-5x5-{_PUBLISHED_FEATURES}": partial(published, "decorrelated"),
        **{f"hyper-5x5-{_PUBLISHED_FEATURES}-{norm}": partial(published, norm) for norm in _OTHER_NORMS},
        **{f"normal-{k}x{k}": partial(stored, k) for k in TAPS},
        **{
            f"normal-{size}-width-{width}": partial(digit_classifier, int(size[0]), width, nn.Conv2d)
            for size, widths in _NARROWER.items()
            for width in widths
        },
    }


def _arms(few: Count | None) -> dict[str, Arm]:
    recipe, chosen = _RECIPE if few is None else _OF_FEW, CHOSEN.get(few, {})
    return {
        name: Arm(network, replace(recipe, learning_rate=chosen.get(name, recipe.learning_rate)), _GRID)
        for name, network in _networks().items()
    }


def _adapted(experiment: Experiment, options: FrontierOptions) -> Experiment:
    if options.few is None:
        return experiment
    return replace(
        experiment,
        arms=_arms(options.few),
        recipe=_OF_FEW,
        load=partial(few_digits, few=options.few),
        folds=DRAWS,
        tuning_fold=DRAWS,
        begun_by_fold=True,
    )


EXPERIMENTS = (
    Experiment(
        name="frontier",
        paper="Ma, Dalca, Sabuncu, WACV 2022",
        task="digits to classes, trained on all or on few (--few): generated kernels of 3 to 7 taps from 2 to 16 "
        "features, and stored ones, narrower networks of them too",
        minutes=60,
        arms=_arms(None),
        recipe=_RECIPE,
        objective=TURNED_CLASSIFICATION,
        options=FrontierOptions,
        adapted=_adapted,
        quick_epochs=1,
        failed_at=TWICE_CHANCE,
    ),
)
