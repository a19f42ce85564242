"""Digit classifiers on digits that are spoilt: generated and stored kernels, smoothed, decayed, trained on noise."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data import Splits, as_float, load_digits
from ..data.augment import turn_and_zoom
from ..data.noise import NOISES, add_noise
from ..data.spoilt import CORRUPTIONS, corrupted, under_every_noise
from ..layers import HyperConv2d
from ..training.objectives import ACCURACY, CLASSIFICATION, Batch, Objective, scores
from .digits import RECIPES, ROTATION_DEGREES, ZOOM, digit_network
from .experiment import TWICE_CHANCE, Arm, Experiment, Figure, Networks
from .noise import median_filtered

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_VALIDATION_SEED, _TEST_SEED, _CORRUPTION_SEED = 1, 2, 3
_BATCH = 500
_STRONGEST = 4.0  # which leaves little but a kernel's mean
_SEEN_TO_NORMALISE = 2_000
_SHOWN = 7  # at the level 7/19
MEDIAN = "median 3x3"
HIGH_FREQUENCIES = "high frequencies"
SHARES = (0.2, 0.3, 0.4, 0.5, 1.0)
"""Of high frequencies in the kernels, that stored ones are smoothed to; at the last, they stay as they are."""


class TrainedOnNoise(nn.Sequential):
    """A network that is to see noisy images in training."""


def noisy_digits(source: str = "auto") -> Splits:
    """`load_digits`, with all noises on those to choose by and to test on, as of `under_every_noise`."""
    digits = load_digits(source)
    held_out: dict[str, Any] = {
        "validation": under_every_noise(digits.validation, _VALIDATION_SEED),
        "test": under_every_noise(digits.test, _TEST_SEED),
    }
    return replace(digits, **held_out, note=f"{digits.note}; the latter two under each of {len(NOISES)} noises")


def classification(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """In training, digits are turned and scaled, and noisy for a network that is `TrainedOnNoise`."""
    images, labels = as_float(batch[0]), batch[1]
    return scores(network(images if draws is None else as_in_training(network, images, draws)), labels)


def as_in_training(network: nn.Module, images: Tensor, draws: torch.Generator) -> Tensor:
    images = turn_and_zoom(images, ROTATION_DEGREES, ZOOM, draws)
    if not isinstance(network, TrainedOnNoise):
        return images
    noise = NOISES[int(torch.randint(len(NOISES), (1,), generator=draws))]
    return add_noise(images, noise, torch.rand(len(images), 1, 1, 1, generator=draws), draws)


@torch.no_grad()
def figures_of_spoilt(network: nn.Module, splits: Splits) -> list[Figure]:
    """Test accuracies by noise and corruption, with a median filter before the network and without; kernels' spectra.

    Stored kernels are smoothed, too, to each of `SHARES`.
    """
    views = spoilt(splits)
    ways: dict[str, Callable[[Tensor], Tensor]] = {"": network, f", {MEDIAN}": median_filtered(network)}
    figures = [
        Figure(ACCURACY.name, accuracy(run, *view), f"{name}{way}")
        for name, view in views.items()
        for way, run in ways.items()
    ]
    of_layers = [high_frequencies(layer.weight) for layer in spatial_layers(network)]
    figures += [Figure(HIGH_FREQUENCIES, share, f"layer {number}") for number, share in enumerate(of_layers, 1)]
    figures.append(Figure(HIGH_FREQUENCIES, mean(of_layers)))
    if not any(isinstance(layer, HyperConv2d) for layer in spatial_layers(network)):
        for share in SHARES:
            smooth = smoothed(network, share, splits)
            of_smooth = {name: accuracy(smooth, *views[name]) for name in ("clean", *NOISES) if name in views}
            figures += [
                Figure(ACCURACY.name, each, f"{name}, smoothed to {share:g}") for name, each in of_smooth.items()
            ]
    return figures


def spoilt(splits: Splits) -> dict[str, tuple[Tensor, Tensor]]:
    """Images ``(B, 1, 28, 28)``, uint8, and labels of all test digits: clean, under each noise, and each corruption."""
    noisy, labels, kinds, clean = splits.test[torch.arange(len(splits.test))]
    alone = kinds == kinds[0]
    views = {"clean": (clean[alone], labels[alone])}
    views |= {name: (noisy[kinds == kind], labels[kinds == kind]) for kind, name in enumerate(NOISES)}
    views |= {name: (corrupted(clean[alone], name, _CORRUPTION_SEED), labels[alone]) for name in CORRUPTIONS}
    return {name: view for name, view in views.items() if len(view[1])}


def accuracy(run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    batches = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    hits = sum((run(as_float(each)).argmax(1) == of_each).sum().item() for each, of_each in batches)
    return hits / len(labels)


def spatial_layers(network: nn.Module) -> list[Any]:
    """Those of more than one tap, in order."""
    layers = (part for part in network.modules() if isinstance(part, HyperConv2d | nn.Conv2d))
    return [layer for layer in layers if layer.kernel_size != (1, 1)]


def high_frequencies(kernel: Tensor) -> float:
    """The share of a kernel's energy beyond half of the highest frequency, along either axis, that pixels can have.

    Of white noise it is three quarters.

    Args:
        kernel: ``(O, I, h, w)``.

    >>> round(high_frequencies(torch.ones(1, 1, 5, 5)), 3), high_frequencies(torch.ones(1, 1, 1, 1))
    (0.145, 0.75)
    """
    rows, columns = (_low_pass(side) for side in kernel.shape[2:])
    low = (rows @ kernel @ columns * kernel).sum()
    return 1 - (low / kernel.square().sum()).item()


def _low_pass(side: int) -> Tensor:
    """What a filter that passes half of all frequencies leaves of ``side`` numbers among zeros, at their places."""
    places = torch.arange(side)
    return torch.sinc((places - places.unsqueeze(1)) / 2) / 2


def smoothed(network: nn.Module, share: float, splits: Splits) -> nn.Module:
    """A copy whose kernels have no larger share of `high_frequencies`, and as much energy as before.

    Statistics of normalisation are taken anew, on digits as the network saw them in training.
    """
    network = copy.deepcopy(network)
    for layer in spatial_layers(network):
        layer.weight.copy_(smooth_kernel(layer.weight, share))
    images, _ = splits.train[torch.arange(min(_SEEN_TO_NORMALISE, len(splits.train)))]
    draws = torch.Generator().manual_seed(0)
    seen = (as_in_training(network, as_float(each), draws) for each in images.split(_BATCH))
    torch.optim.swa_utils.update_bn(seen, network)
    return network.eval()


def smooth_kernel(kernel: Tensor, share: float) -> Tensor:
    """Its cosine terms made smaller, those of higher order more, until `high_frequencies` are no larger a share.

    Args:
        kernel: ``(O, I, k, k)``.
    """
    side = kernel.shape[-1]
    orders = torch.arange(side)
    basis = torch.cos(torch.pi / side * (orders + 0.5) * orders.unsqueeze(1))
    basis = basis / basis.norm(dim=1, keepdim=True)
    terms = basis @ kernel @ basis.T
    squares = orders.square() + orders.square().unsqueeze(1)

    def damped(by: float) -> Tensor:
        made = basis.T @ (terms * torch.exp(-by * squares)) @ basis
        return made * (kernel.norm() / made.norm())

    if high_frequencies(kernel) <= share:
        return kernel
    low, high = 0.0, _STRONGEST
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if high_frequencies(damped(middle)) > share else (low, middle)
    return damped(high)


@torch.no_grad()
def kernels_and_digits(networks: Networks, splits: Splits) -> "Drawing":
    """How digits are spoilt, and the share of high frequencies in each arm's kernels, layer by layer."""
    from .figures.robustness import digits_and_spectra

    shown = {name: images[min(_SHOWN, len(images) - 1), 0].numpy() for name, (images, _) in spoilt(splits).items()}
    shares = {arm: [high_frequencies(layer.weight) for layer in spatial_layers(each)] for arm, each in networks.items()}
    return digits_and_spectra(shown, shares, f"Spoilt digits ({splits.name}, test), and how fine kernels are")


def _noisy(network: Callable[[], nn.Module]) -> TrainedOnNoise:
    return TrainedOnNoise(network())


_RECIPE = RECIPES["robust"]
_GRID: dict[str, Any] = {"learning_rate": (1e-3, 3e-3, 1e-2), "epochs": (2, 5)}
_DECAYS: dict[str, Any] = {"learning_rate": (3e-3, 1e-2), "weight_decay": (0.01, 0.1, 1.0)}
_ENDS = dict.fromkeys((*_GRID, *_DECAYS), "as many trials as hours allow")
_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "hyper": partial(digit_network, "hyper", 5, (16, 16, 16), "decorrelated"),
    "hyper-stateless": partial(digit_network, "hyper", 5, (16, 16, 16), "stateless"),
    "normal": partial(digit_network, "normal", 5, (), "none"),
}
_ARMS = {
    **{name: Arm(network, grid=_GRID, at_range_end=_ENDS) for name, network in _NETWORKS.items()},
    "normal-decayed": Arm(
        _NETWORKS["normal"], replace(_RECIPE, weight_decay=0.1, epochs=5), _DECAYS, at_range_end=_ENDS
    ),
    **{
        f"{name}-trained-on-noise": Arm(partial(_noisy, _NETWORKS[name]), grid=_GRID, at_range_end=_ENDS)
        for name in ("hyper", "normal")
    },
}
EXPERIMENTS = (
    Experiment(
        name="robustness",
        paper="Ma, Dalca, Sabuncu, WACV 2022; github.com/mkarmann/hyper-conv",
        task="spoilt digits to classes, by networks that saw clean ones in training: generated kernels, stored ones, "
        "decayed more; and by two that saw noise. Chosen by accuracy on noisy validation digits",
        minutes=60,
        arms=_ARMS,
        recipe=_RECIPE,
        objective=Objective(classification, (ACCURACY,), ACCURACY.column, loss=CLASSIFICATION.loss),
        load=noisy_digits,
        measure=figures_of_spoilt,
        figure=kernels_and_digits,
        failed_at=TWICE_CHANCE,
    ),
)
