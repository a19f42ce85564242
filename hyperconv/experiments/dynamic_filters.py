"""Frames predicted by filters for every position, and filters steered by an angle, beside networks without such."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn
from torchmetrics.image import StructuralSimilarityIndexMeasure

from ..data import Splits, as_float, batch_loader, turned_digits
from ..data.moving_digits import moving_digits
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Measured, Metric, Objective
from ..zoo.dynamic_filter_network import (
    ConcatenatedAngle,
    ConvLSTM,
    FilterAClipNetwork,
    LocalFilterNetwork,
    OneFilter,
    Persistence,
    SteeredFilter,
    UnfilteredNetwork,
)
from .experiment import Arm, Experiment, Figure, Networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_PAPER = "Dynamic Filter Networks, De Brabandere et al., NIPS 2016"
_SURE = torch.finfo(torch.float32).eps
_EVALUATION_BATCH = 100
_PIXELS = 4
_APART = 6
_FILTER_SIZE = 9
_ANGLES = 8


@dataclass(frozen=True)
class Options:
    """Options of dfn.

    Args:
        paper_size: frames of 64x64, 10 in and 10 out, and networks of the published widths (637,361 parameters), in
            place of 32x32, 5, 5, and a quarter of the widths.
    """

    paper_size: bool = False


def errors(predicted: Tensor, true: Tensor) -> dict[str, Any]:
    """Of frames ``(B, T, H, W)`` in 0 ... 1: cross-entropy, a sum over a frame's pixels; mean squared error; SSIM.

    No prediction is taken to be surer than float32 can tell from 0 or 1, as in the published code.
    """
    sure = predicted.float().clamp(_SURE, 1 - _SURE)
    entropy = -(true * sure.log() + (1 - true) * (1 - sure).log()).sum(dim=(2, 3))
    squared = (predicted.detach() - true).square()
    frames = (predicted.detach().float().flatten(0, 1).unsqueeze(1), true.flatten(0, 1).unsqueeze(1))
    return {LOSS: entropy.mean(), "bce": (entropy.detach(),), "mse": (squared,), "ssim": frames}


def forecast(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    seen, following = batch
    return errors(network(as_float(seen)), as_float(following))


FORECAST = Objective(
    forecast,
    (
        Metric("bce", "BCE a frame", torchmetrics.MeanMetric, "lower"),
        Metric("mse", "MSE", torchmetrics.MeanMetric, "lower"),
        Metric("ssim", "SSIM", partial(StructuralSimilarityIndexMeasure, data_range=1.0), "higher"),
    ),
    loss="cross-entropy of a frame",
)


@torch.no_grad()
def figures_by_frame(network: nn.Module, splits: Splits) -> list[Figure]:
    """Test figures of the first predicted frame, of the second, ..."""
    frames: list[Measured] = []
    for seen, following in batch_loader(splits.test, _EVALUATION_BATCH):
        predicted, true = network(as_float(seen)), as_float(following)
        frames = frames or [Measured(FORECAST) for _ in range(true.shape[1])]
        for measured, *pair in zip(frames, predicted.split(1, dim=1), true.split(1, dim=1), strict=True):
            measured.update(errors(*pair), len(seen))
    return [
        Figure(metric.name, measured.figures()[metric.column], f"frame {number}")
        for number, measured in enumerate(frames, 1)
        for metric in FORECAST.metrics
    ]


@torch.no_grad()
def clips(networks: Networks, splits: Splits) -> "Drawing":
    """A test clip, what each arm predicts of it, and the filters that its first predicted frame was made with."""
    from .figures.dynamic_filters import forecasts

    seen, following = (as_float(frames) for frames in splits.test[:1])
    filters = {
        arm: network.filters(network.remembered(seen))[0].unflatten(0, (network.size, network.size))
        for arm, network in networks.items()
        if isinstance(network, LocalFilterNetwork)
    }
    pixels = brightest(following[0, 0], _PIXELS, _APART)
    return forecasts(
        seen[0].numpy(),
        following[0].numpy(),
        {arm: network(seen)[0].numpy() for arm, network in networks.items()},
        {arm: [of_arm[:, :, row, column].numpy() for row, column in pixels] for arm, of_arm in filters.items()},
        pixels,
        f"Two moving digits ({splits.name}, test): {seen.shape[1]} frames in, {following.shape[1]} out",
    )


def brightest(frame: Tensor, count: int, apart: int) -> list[tuple[int, int]]:
    """Rows and columns of the brightest pixels of ``(H, W)``, none in a square of ``2 apart + 1`` around another.

    >>> brightest(torch.tensor([[0.1, 0.9, 0.8, 0.2], [0.0, 0.0, 0.0, 0.3]]), 2, 1)
    [(0, 1), (1, 3)]
    """
    left, found = frame.clone(), []
    for _ in range(count):
        row, column = divmod(int(left.argmax()), frame.shape[1])
        found.append((row, column))
        left[max(0, row - apart) : row + apart + 1, max(0, column - apart) : column + apart + 1] = -1
    return found


_RECIPE = Recipe("adam", 4e-3, 0.0, "one-cycle", batch_size=16, epochs=2, patience=None, shuffle=True, clip=100.0)
# as many steps as published
_OF_PAPER_SIZE = replace(_RECIPE, learning_rate=1e-3, epochs=32)
_RATES = {"learning_rate": (2e-3, 4e-3, 8e-3)}


def _arms(width: int, predicted: int) -> dict[str, Arm]:
    networks: dict[str, Callable[[], nn.Module]] = {
        "hyper": partial(LocalFilterNetwork, predicted, width),
        "a-filter-a-clip": partial(FilterAClipNetwork, predicted, width),
        "normal": partial(UnfilteredNetwork, predicted, width),
        "convlstm": partial(ConvLSTM, predicted, 19 * width // 8),
    }
    return {
        **{name: Arm(network, grid=_RATES) for name, network in networks.items()},
        "persistence": Arm(partial(Persistence, predicted)),
    }


def _adapted(experiment: Experiment, options: Options) -> Experiment:
    if not options.paper_size:
        return experiment
    return replace(
        experiment,
        arms=_arms(width=32, predicted=10),
        recipe=_OF_PAPER_SIZE,
        load=partial(moving_digits, side=64, seen=10, predicted=10),
    )


DFN = Experiment(
    name="dfn",
    paper=_PAPER,
    task="5 frames of two moving digits to the next 5: a filter for every position of the last frame, or one for "
    "the clip, or none (the same network with a 1x1 convolution; a convolutional LSTM; the last frame again)",
    minutes=20,
    arms=_arms(width=8, predicted=5),
    recipe=_RECIPE,
    objective=FORECAST,
    options=Options,
    adapted=_adapted,
    load=moving_digits,
    evaluation_batch=_EVALUATION_BATCH,
    quick_samples=1_500,
    measure=figures_by_frame,
    figure=clips,
)


def derivative_filters(angles: Tensor, size: int = _FILTER_SIZE, sigma: float = 1.0) -> Tensor:
    """Filters ``(B, size, size)`` whose correlation with an image is a Gaussian's derivative of it along ``angles``.

    Args:
        angles: ``(B,)``, from the direction of columns to that of rows.
        sigma: of the Gaussian, whose taps have the sum 1, in pixels.

    >>> ramp = torch.arange(9.0).expand(9, 9)
    >>> [round((filter * ramp).sum().item(), 3) for filter in derivative_filters(torch.tensor([0.0, torch.pi / 3]))]
    [1.0, 0.5]
    """
    places = torch.arange(size, device=angles.device) - (size - 1) / 2
    gaussian = torch.exp(-0.5 * (places / sigma) ** 2)
    gaussian = gaussian / gaussian.sum()
    slope = gaussian * places
    slope = slope / (slope * places).sum()
    across, down = torch.outer(gaussian, slope), torch.outer(slope, gaussian)
    return angles.cos()[:, None, None] * across + angles.sin()[:, None, None] * down


def derivatives(images: Tensor, angles: Tensor) -> Tensor:
    """Of images ``(B, 1, H, W)``, each along its own angle."""
    along = torch.tensor([0.0, math.pi / 2], device=images.device)
    across, down = F.conv2d(images, derivative_filters(along).unsqueeze(1), padding="same").split(1, dim=1)
    return angles.cos()[:, None, None, None] * across + angles.sin()[:, None, None, None] * down


def steered(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Squared error of images' derivatives along angles: in evaluation the data's, in training drawn ones."""
    images, _, *held = batch
    images = as_float(images)
    (angles,) = held if draws is None else (torch.rand(len(images), generator=draws) * (2 * math.pi),)
    angles = angles.to(images.device)
    squared = (network(images, angles) - derivatives(images, angles)).square()
    return {LOSS: squared.mean(), "mse": (squared.detach(),)}


@torch.no_grad()
def filter_figures(network: nn.Module, splits: Splits) -> list[Figure]:
    """The error of always predicting 0; and how far the learned filters are from the true ones."""
    zero = torchmetrics.MeanMetric()
    for images, _, angles in batch_loader(splits.test, 500):
        zero.update(derivatives(as_float(images), angles).square())
    found = [Figure("MSE", zero.compute().item(), "predicting 0")]
    if isinstance(network, SteeredFilter):
        angles = torch.linspace(0, 2 * math.pi, 360)
        true = derivative_filters(angles)
        error = (network.filters(angles) - true).square().sum() / true.square().sum()
        found.append(Figure("squared error of the filters, of their own squares", error.item()))
    return found


@torch.no_grad()
def steered_filters(networks: Networks, splits: Splits) -> "Drawing":
    """Learned and true filters at a few angles, and what the arms make of a test digit."""
    from .figures.dynamic_filters import steering

    angles = torch.arange(_ANGLES) * (2 * math.pi / _ANGLES)
    images = as_float(splits.test[:1][0]).expand(_ANGLES, -1, -1, -1)
    filters = {
        f"filter, {arm}": network.filters(angles).numpy()
        for arm, network in networks.items()
        if isinstance(network, SteeredFilter)
    }
    outputs = {f"digit, {arm}": network(images, angles)[:, 0].numpy() for arm, network in networks.items()}
    return steering(
        angles.numpy(),
        {"filter, true": derivative_filters(angles).numpy(), **filters},
        {"digit, true": derivatives(images, angles)[:, 0].numpy(), **outputs},
        f"Derivatives of digits along an angle ({splits.name}, test)",
    )


_OF_STEERED = Recipe("adam", 4e-3, 0.0, "one-cycle", batch_size=128, epochs=2, patience=None, shuffle=True)
# each arm's rate is the best of these on validation digits
_STEERED_RATES = {"learning_rate": (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)}
STEERABLE = Experiment(
    name="dfn-steerable",
    paper=_PAPER,
    task="a digit and an angle to the digit's derivative along it: a filter that is a function of the angle; an "
    "ordinary network that has the angle as a channel; one filter for all angles",
    minutes=5,
    arms={
        "hyper": Arm(SteeredFilter, grid=_STEERED_RATES),
        "concatenated": Arm(
            ConcatenatedAngle,
            replace(_OF_STEERED, learning_rate=3.2e-2),
            _STEERED_RATES,
            {"learning_rate": "half of it has an error a seventh larger, and that of a filter a thirtieth of both"},
        ),
        "normal": Arm(OneFilter, replace(_OF_STEERED, learning_rate=1.6e-2), _STEERED_RATES),
    },
    recipe=_OF_STEERED,
    objective=Objective(steered, (Metric("mse", "MSE", torchmetrics.MeanMetric, "lower"),), loss="mean squared error"),
    load=turned_digits,
    # as of always predicting 0
    failed_at=0.01,
    measure=filter_figures,
    figure=steered_filters,
)
EXPERIMENTS = (DFN, STEERABLE)
