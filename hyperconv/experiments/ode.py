"""Pendulums of unknown length and damping: a network for each one's dynamics beside one for all."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn

from ..data import Splits, as_float
from ..data.pendulums import (
    INTERVAL_S,
    OBSERVED,
    PREDICTED,
    angles,
    elsewhere,
    frames,
    load_frames,
    load_points,
    pixels,
)
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Metric, Objective
from ..zoo.neural_ode import FrameReader, GeneratedDynamics, LSTMForecaster, NeuralODE, StoredDynamics
from .experiment import Arm, Experiment, Figure, Networks, rates_around

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_RECIPE = Recipe("adam", 5e-3, 0.0, "one-cycle", batch_size=100, epochs=40, patience=None, shuffle=True, clip=0.1)
# it stays stable at the rate and the clipping at which the solved equations do not, and learns faster
_OF_LSTM = replace(_RECIPE, learning_rate=1e-2, clip=1.0)
_CONTEXT = 4
_SHOWN = 4


class RootOfMean(torchmetrics.MeanMetric):
    """The root of a mean of squares."""

    def compute(self) -> Tensor:
        return super().compute().sqrt()


RMSE = Metric("rmse", "extrapolation RMSE", RootOfMean, "lower")


def forecast_error(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Mean squared distance from the true positions, all of them; and the squares over those that were not observed."""
    observed, positions = batch
    squared = (network(as_float(observed)) - positions).square().sum(dim=-1)
    return {LOSS: squared.mean(), "rmse": (squared.detach()[:, observed.shape[1] :],)}


def generated() -> NeuralODE:
    return NeuralODE(GeneratedDynamics(24, _CONTEXT), OBSERVED, PREDICTED)


def stored(context_dim: int = 0) -> NeuralODE:
    return NeuralODE(StoredDynamics(57, context_dim), OBSERVED, PREDICTED)


def lstm() -> LSTMForecaster:
    return LSTMForecaster(50, PREDICTED)


def from_frames(network: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(FrameReader(), network())


@torch.no_grad()
def figures_elsewhere(network: nn.Module, splits: Splits) -> list[Figure]:
    """Test errors over the second half of a time twice as long as in training, and with rods of other lengths."""
    figures = []
    for name, (observed, positions) in elsewhere().items():
        steps = positions.shape[1]
        squared = (network(observed, steps) - positions)[:, steps // 2 :].square().sum(dim=-1)
        figures.append(Figure(RMSE.name, squared.mean().sqrt().item(), name))
    return figures


@torch.no_grad()
def figure(networks: Networks, splits: Splits) -> "Drawing":
    """The first test trajectories, and what each arm makes of them."""
    from .figures.ode import forecasts

    observed, positions = splits.test[:_SHOWN]
    predicted = {arm: network(as_float(observed)) for arm, network in networks.items()}
    pictured = np.arange(PREDICTED)[2::4]
    seen = torch.arange(PREDICTED)[:, None] < OBSERVED
    places = {arm: pixels(forecast).masked_fill(seen, torch.nan) for arm, forecast in predicted.items()}
    return forecasts(
        np.arange(PREDICTED) * INTERVAL_S,
        OBSERVED,
        angles(positions).numpy(),
        {arm: angles(forecast).numpy() for arm, forecast in predicted.items()},
        f"Pendulums of unknown length and damping ({splits.name}, test)",
        strips=frames(positions)[:, pictured].numpy() if observed.dtype == torch.uint8 else None,
        marks={arm: place[:, pictured].numpy() for arm, place in places.items()},
    )


ODE = Experiment(
    name="ode",
    paper="planned in torch-hypernetwork-tutorials, Gao, 2020; on Neural ODEs, Chen et al., NeurIPS 2018",
    task="3 s of a damped pendulum's positions to 6 s: an acceleration network generated for every trajectory, or "
    "stored, without or with a context among its inputs. Training trajectories are seen in full. Data: simulated",
    minutes=5,
    arms={
        "hyper": Arm(generated, grid=rates_around(_RECIPE)),
        "concatenated": Arm(partial(stored, _CONTEXT), grid=rates_around(_RECIPE)),
        "shared": Arm(stored, grid=rates_around(_RECIPE)),
        "lstm": Arm(lstm, _OF_LSTM, rates_around(_OF_LSTM)),
    },
    recipe=_RECIPE,
    load=load_points,
    objective=Objective(forecast_error, (RMSE,), loss="mean squared distance"),
    quick_epochs=12,
    # as of one that always says the middle of the circle
    failed_at=1.0,
    measure=figures_elsewhere,
    figure=figure,
)
ODE_FRAMES = replace(
    ODE,
    name="ode-frames",
    task="as ode, from 28x28 frames of the bob instead of its positions. Data: simulated",
    arms={name: replace(arm, network=partial(from_frames, arm.network)) for name, arm in ODE.arms.items()},
    load=load_frames,
    measure=lambda network, splits: (),
)
EXPERIMENTS = (ODE, ODE_FRAMES)
