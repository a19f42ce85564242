"""Digits at other resolutions than in training: kernels sampled anew, or interpolated, or left as they are."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..convert import resize
from ..data import Splits, as_float, batch_loader
from ..layers import HyperConv2d
from .digits import RECIPES, TURNED_CLASSIFICATION, digit_network
from .experiment import TWICE_CHANCE, Arm, Experiment, Figure, Networks, rates_around

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SIDES: Mapping[int, int] = {42: 7, 56: 9}
"""Of the images, and taps that reach about as far across them as 5 do across 28 pixels."""
_BATCH = 250
_STEPS, _STEP_BATCH, _STEP_RATE = 60, 64, 1e-3
_SEED = 0
_AS_TRAINED, _RESIZED, _TUNED = "kernels as trained", "kernels resized", "resized, 60 steps on"


def any_size(classifier: nn.Module) -> nn.Module:
    """The classifier with its last pooling over whatever is left, which at 28x28 is what it was."""
    for name, layer in classifier.named_children():
        if isinstance(layer, nn.MaxPool2d) and layer.kernel_size == 3:
            setattr(classifier, name, nn.AdaptiveMaxPool2d(1))
    return classifier


def resized(network: nn.Module, kernel_size: int) -> nn.Module:
    """A copy whose convolutions of several taps have so many over the same extent; generated ones are sampled anew."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, HyperConv2d):
                setattr(module, name, resize(layer, kernel_size))
            elif isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                setattr(module, name, interpolated(layer, kernel_size))
    return network


def interpolated(layer: nn.Conv2d, kernel_size: int) -> nn.Conv2d:
    """A copy, its kernel interpolated bilinearly and multiplied by the ratio of the numbers of taps, old to new."""
    twin = nn.Conv2d(layer.in_channels, layer.out_channels, kernel_size, padding="same", bias=layer.bias is not None)
    kernel = F.interpolate(layer.weight.detach(), (kernel_size, kernel_size), mode="bilinear")
    twin.load_state_dict({**layer.state_dict(), "weight": kernel * (layer.weight[0, 0].numel() / kernel_size**2)})
    return twin.to(memory_format=torch.channels_last)


def enlarged(images: Tensor, side: int) -> Tensor:
    """``(B, 1, 28, 28)``, uint8, to ``(B, 1, side, side)``, float."""
    return F.interpolate(as_float(images), (side, side), mode="bilinear")


def tuned(network: nn.Module, splits: Splits, side: int) -> nn.Module:
    """A copy after a few steps on enlarged training digits, the same ones for every network."""
    network = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(network.parameters(), _STEP_RATE)
    batches = batch_loader(splits.train, _STEP_BATCH, shuffle=True, seed=_SEED)
    for images, labels in (batch for _, batch in zip(range(_STEPS), batches, strict=False)):
        optimizer.zero_grad()
        F.cross_entropy(network(enlarged(images, side)), labels).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, splits: Splits, side: int) -> float:
    right = [(network(enlarged(images, side)).argmax(1) == labels).float() for images, labels in _test(splits)]
    return torch.cat(right).mean().item()


def _test(splits: Splits) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batch_loader(splits.test, _BATCH)


def figures_by_side(network: nn.Module, splits: Splits) -> list[Figure]:
    """Test accuracies at each side, in each of three ways."""
    figures = []
    for side, taps in SIDES.items():
        anew = resized(network, taps)
        with torch.enable_grad():
            ways = {_AS_TRAINED: network, _RESIZED: anew, _TUNED: tuned(anew, splits, side)}
        figures += [
            Figure("accuracy", accuracy(each, splits, side), f"{side}x{side}, {way}") for way, each in ways.items()
        ]
    return figures


@torch.no_grad()
def figure(networks: Networks, splits: Splits) -> "Drawing":
    """A kernel of each arm at 5, 7 and 9 taps, and the accuracies without further steps."""
    from .figures.resolutions import kernels_and_accuracies

    kernels, rows = {}, []
    for arm, network in networks.items():
        at_taps = {5: network, **{taps: resized(network, taps) for taps in SIDES.values()}}
        kernels[arm] = {taps: _first_kernel(each).numpy() for taps, each in at_taps.items()}
        for side, taps in {28: 5, **SIDES}.items():
            for way, each in {_AS_TRAINED: network, _RESIZED: at_taps[taps]}.items():
                rows.append({"arm": arm, "side": side, "way": way, "accuracy": accuracy(each, splits, side)})
    return kernels_and_accuracies(kernels, pd.DataFrame(rows), f"Trained at 28x28, tested larger ({splits.name}, test)")


def _first_kernel(network: nn.Module) -> Tensor:
    layers = (each for each in network.modules() if isinstance(each, HyperConv2d | nn.Conv2d))
    return next(layer.weight[0, 0] for layer in layers if layer.kernel_size != (1, 1))


def _network(arm: str) -> nn.Module:
    return any_size(digit_network(arm, kernel_size=5, hidden=(16, 16, 16), norm="decorrelated"))  # type: ignore[arg-type]


_ARMS: Mapping[str, Callable[[], nn.Module]] = {arm: partial(_network, arm) for arm in ("hyper", "normal")}
EXPERIMENTS = (
    Experiment(
        name="resolutions",
        paper="CKConv, Romero et al., ICLR 2022, on sampling kernels anew; hyper-convolutions, Ma et al., WACV 2022",
        task="digits at 28x28 to classes, tested at 42x42 and 56x56: generated 5x5 kernels sampled at 7x7 and 9x9 "
        "taps, stored ones interpolated",
        minutes=20,
        arms={arm: Arm(network, grid=rates_around(RECIPES["fast"])) for arm, network in _ARMS.items()},
        recipe=RECIPES["fast"],
        objective=TURNED_CLASSIFICATION,
        quick_epochs=2,
        failed_at=TWICE_CHANCE,
        measure=figures_by_side,
        figure=figure,
    ),
)
