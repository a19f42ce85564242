"""Damped pendulums of unknown length and damping, simulated: what is seen of them first, and where they go."""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.utils.data import TensorDataset

from ..errors import InputError
from .batches import Splits

INTERVAL_S = 0.15
OBSERVED = 20
PREDICTED = 2 * OBSERVED
SIDE = 28
ROD_PIXELS = 10
_BOB_PIXELS = 1.5
_GRAVITY = 9.81
_LENGTHS_M = 0.5, 2.0
_OTHER_LENGTHS_M = (0.3, 0.5), (2.0, 3.0)
_DAMPINGS_PER_S = 0.0, 0.5
_ANGLES = -2.0, 2.0
_VELOCITIES_PER_S = -1.0, 1.0
_NOISE = 0.02
_SEED = 1
_COUNTS = 2000, 500, 500


def simulate(
    length: np.ndarray, damping: np.ndarray, angle: np.ndarray, velocity: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Angles ``(N, T)`` of pendulums ``a'' = -(g / length) sin a - damping a'``, which hang down at 0.

    Args:
        length: ``(N,)`` in m.
        damping: ``(N,)`` in 1/s.
        angle: ``(N,)`` at time 0.
        velocity: ``(N,)`` at time 0, in 1/s.
        times: ``(T,)`` in s, from 0 on.
    """

    def derivative(time: float, state: np.ndarray) -> np.ndarray:
        angle, velocity = state.reshape(2, -1)
        return np.concatenate([velocity, -_GRAVITY / length * np.sin(angle) - damping * velocity])

    start = np.concatenate([angle, velocity])
    solution = solve_ivp(derivative, (0, times[-1]), start, "DOP853", times, rtol=1e-9, atol=1e-9)
    return solution.y[: len(angle)]


def frames(positions: Tensor) -> Tensor:
    """Images ``(*, 28, 28)``, uint8, of a bob at ``(*, 2)``, to the right and upwards in rods from the middle.

    >>> image = frames(torch.tensor([0.6, -0.8])) / 255.0
    >>> columns = torch.arange(28) - 13.5
    >>> round(float((image * columns).sum() / image.sum() / ROD_PIXELS), 2)
    0.6
    """
    every = torch.arange(SIDE, device=positions.device)
    across, down = torch.exp(-0.5 * ((every - pixels(positions).unsqueeze(-1)) / _BOB_PIXELS) ** 2).unbind(-2)
    return (255 * down.unsqueeze(-1) * across.unsqueeze(-2)).round().to(torch.uint8)


def pixels(positions: Tensor) -> Tensor:
    """Columns and rows, ``(*, 2)``, of a frame where positions ``(*, 2)`` lie."""
    return (SIDE - 1) / 2 + ROD_PIXELS * positions * torch.tensor([1.0, -1.0], device=positions.device)


def load_points(source: str = "auto") -> Splits:
    """Noisy positions of the bob, seen for 3 s, and the true ones of 6 s.

    Args:
        source: ``auto``; there is nothing to choose.

    Returns:
        2,000, 500 and 500 trajectories: observed ``(20, 2)``, true ``(40, 2)``, both every 0.15 s, to the right and
        upwards in rod lengths. The rod's length in m shows in nothing but the motion.

    Raises:
        InputError: another source.
    """
    positions = _positions(source)
    return _splits("pendulums", _observed(positions, _SEED), positions)


def load_frames(source: str = "auto") -> Splits:
    """`load_points`, observed as images ``(20, 28, 28)``, uint8, whose bright spot is the bob."""
    positions = _positions(source)
    observed = torch.cat([frames(some) for some in positions[:, :OBSERVED].split(500)])
    return _splits("pendulum-frames", observed, positions)


def angles(positions: Tensor) -> Tensor:
    """Angles ``(N, T)`` of positions ``(N, T, 2)``, without jumps of a whole turn."""
    right, up = positions.double().unbind(-1)
    return torch.from_numpy(np.unwrap(torch.atan2(right, -up).numpy(), axis=1))


def elsewhere() -> dict[str, tuple[Tensor, Tensor]]:
    """Trajectories beyond those of training: observed and true positions, as of `load_points`.

    Returns:
        The test trajectories for 12 s; as many for 6 s of rods shorter than any in training, and of longer ones.
    """
    observed, _ = load_points().test[:]
    found = {"6 to 12 s": (observed, _positions("auto", 2 * PREDICTED)[-_COUNTS[-1] :])}
    for seed, lengths in enumerate(_OTHER_LENGTHS_M, _SEED + 1):
        positions = _simulated(_COUNTS[-1], seed, lengths, PREDICTED)
        found[f"rods of {lengths[0]:g} to {lengths[1]:g} m"] = _observed(positions, seed), positions
    return found


def _positions(source: str, steps: int = PREDICTED) -> Tensor:
    if source != "auto":
        raise InputError(f"--data {source}: pendulums are simulated, they are not read; leave --data out")
    return _simulated(sum(_COUNTS), _SEED, _LENGTHS_M, steps)


def _simulated(count: int, seed: int, lengths: tuple[float, float], steps: int) -> Tensor:
    draw = np.random.default_rng(seed).uniform
    ranges = lengths, _DAMPINGS_PER_S, _ANGLES, _VELOCITIES_PER_S
    length, damping, angle, velocity = (draw(*bounds, count) for bounds in ranges)
    simulated = simulate(length, damping, angle, velocity, np.arange(steps) * INTERVAL_S)
    return torch.from_numpy(np.stack([np.sin(simulated), -np.cos(simulated)], axis=-1)).float()


def _observed(positions: Tensor, seed: int) -> Tensor:
    noise = torch.randn(len(positions), OBSERVED, 2, generator=torch.Generator().manual_seed(seed))
    return positions[:, :OBSERVED] + _NOISE * noise


def _splits(name: str, observed: Tensor, positions: Tensor) -> Splits:
    train, validation, test = map(TensorDataset, observed.split(_COUNTS), positions.split(_COUNTS))
    training, validating, testing = _COUNTS
    note = f"{name}, simulated: {training} training, {validating} validation, {testing} test trajectories"
    return Splits(name, train, validation, test, note)
