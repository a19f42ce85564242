"""Neural ODE whose dynamics are generated for every trajectory, from its first observations.

Neural ODEs: R. T. Q. Chen et al., NeurIPS 2018, https://arxiv.org/abs/1806.07366. A network a trajectory is the
time-series example that Q. Gao, "torch-hypernetwork-tutorials", 2020,
https://github.com/qu-gg/torch-hypernetwork-tutorials, planned and did not write.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..extras import needing
from ..functional import LinearBackend, linear_per_sample
from ..generators import DenseGenerator
from ..layers import HyperLinear

with needing("experiments", __name__):
    from torchdiffeq import odeint

Acceleration = Callable[[Tensor], Tensor]
_FEATURES = 3


class GeneratedDynamics(nn.Module):
    """A tanh perceptron for every trajectory, its weights and biases linear in the trajectory's context.

    Args:
        width: of its two hidden layers.
        context_dim: width of the context.
        backend: of `linear_per_sample`.
    """

    def __init__(self, width: int, context_dim: int, backend: LinearBackend = "bmm") -> None:
        super().__init__()
        self.context_dim = context_dim
        self.backend = backend
        generator = partial(DenseGenerator, context_dim=context_dim)
        self.layers = nn.ModuleList(
            HyperLinear(inputs, outputs, bias="generated", generator=generator)
            for inputs, outputs in pairwise((_FEATURES, width, width, 1))
        )

    def forward(self, context: Tensor) -> Acceleration:
        """From ``(B, context_dim)`` to a function from ``(B, 3)`` to ``(B, 1)``."""
        layers: Iterable[Any] = self.layers
        # a solver calls the function hundreds of times, for one set of weights
        weights = [(layer.generator(context), layer.bias_generator(context)) for layer in layers]

        def acceleration(features: Tensor) -> Tensor:
            for number, (weight, bias) in enumerate(weights):
                features = features.tanh() if number else features
                features = linear_per_sample(features, weight, bias, backend=self.backend)
            return features

        return acceleration


class StoredDynamics(nn.Module):
    """One tanh perceptron for all trajectories, with the context, if there is one, as further inputs."""

    def __init__(self, width: int, context_dim: int = 0) -> None:
        super().__init__()
        self.context_dim = context_dim
        self.network = nn.Sequential(
            nn.Linear(_FEATURES + context_dim, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, 1),
        )

    def forward(self, context: Tensor) -> Acceleration:
        """From ``(B, context_dim)`` to a function from ``(B, 3)`` to ``(B, 1)``."""
        return lambda features: self.network(torch.cat([features, context], dim=-1))


class NeuralODE(nn.Module):
    """Motion on a circle: an encoder finds angle, velocity and context; a network gives the acceleration.

    Args:
        dynamics: from contexts ``(B, context_dim)`` to a function from sine and cosine of the angle and velocity,
            ``(B, 3)``, to the acceleration, ``(B, 1)``.
        observed: how many positions are seen.
        predicted: how many are returned, from the first one seen on.
        interval: time between positions, in the dynamics' own unit.
        width: of the encoder's two hidden layers.

    >>> NeuralODE(GeneratedDynamics(8, context_dim=4), observed=5, predicted=10)(torch.zeros(2, 5, 2)).shape
    torch.Size([2, 10, 2])
    """

    def __init__(
        self,
        dynamics: GeneratedDynamics | StoredDynamics,
        observed: int,
        predicted: int,
        interval: float = 0.5,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * observed, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 2 + dynamics.context_dim),
        )
        self.dynamics = dynamics
        self.times: Tensor
        self.register_buffer("times", torch.arange(predicted) * interval, persistent=False)

    def forward(self, positions: Tensor, predicted: int | None = None) -> Tensor:
        """``(B, observed, 2)`` to ``(B, predicted, 2)``, to the right and upwards, on the unit circle.

        Args:
            predicted: how many, if not as many as in training.
        """
        times = self.times
        if predicted is not None:
            times = times[1] * torch.arange(predicted, device=times.device)
        start, context = self.encoder(positions).tensor_split([2], dim=1)
        acceleration = self.dynamics(context)

        def derivative(time: Tensor, state: Tensor) -> Tensor:
            angle, velocity = state.split(1, dim=1)
            return torch.cat([velocity, acceleration(torch.cat([angle.sin(), angle.cos(), velocity], dim=1))], dim=1)

        angle = odeint(derivative, start, times, method="rk4")[..., 0].mT
        return torch.stack([angle.sin(), -angle.cos()], dim=-1)


class LSTMForecaster(nn.Module):
    """An LSTM that adds to each position what leads to the next: first to those observed, then to its own.

    >>> LSTMForecaster(8, predicted=10)(torch.zeros(2, 5, 2)).shape
    torch.Size([2, 10, 2])
    """

    def __init__(self, width: int, predicted: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, width, batch_first=True)
        self.step = nn.Linear(width, 2)
        self.predicted = predicted

    def forward(self, positions: Tensor, predicted: int | None = None) -> Tensor:
        """``(B, observed, 2)`` to ``(B, predicted, 2)``, the first of which is the first observed.

        Args:
            predicted: how many, if not as many as in training.
        """
        hidden, state = self.lstm(positions)
        ahead = positions + self.step(hidden)
        predictions = [positions[:, :1], ahead]
        latest = ahead[:, -1:]
        for _ in range((predicted or self.predicted) - positions.shape[1] - 1):
            hidden, state = self.lstm(latest, state)
            latest = latest + self.step(hidden)
            predictions.append(latest)
        return torch.cat(predictions, dim=1)


class FrameReader(nn.Module):
    """Two numbers for each frame of a clip.

    >>> FrameReader()(torch.zeros(2, 5, 28, 28)).shape
    torch.Size([2, 5, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.AvgPool2d(2), nn.Flatten(2), nn.Linear(14 * 14, 32), nn.ReLU(), nn.Linear(32, 2)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, T, 28, 28)`` to ``(B, T, 2)``."""
        return self.network(frames)
