"""Perceptrons whose weights are generated in three ways, beside a plain one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from ..training import Recipe
from ..zoo.generated_mlp import PerSampleMLP, chunked_mlp, full_mlp
from .experiment import TWICE_CHANCE, Arm, Experiment, rates_around

_WIDTHS = (784, 64, 10)
_RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=32, epochs=5, patience=None, shuffle=True)


def plain_mlp(hidden: int = _WIDTHS[1]) -> nn.Sequential:
    inputs, _, outputs = _WIDTHS
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _arm(network: Callable[[], nn.Module], **own: Any) -> Arm:
    """With what its validation digits like better than the common recipe."""
    recipe = replace(_RECIPE, **own)
    return Arm(network, recipe, rates_around(recipe))


EXPERIMENTS = (
    Experiment(
        name="mlp",
        paper="torch-hypernetwork-tutorials, Gao, 2020",
        task="digits to classes: weights of a perceptron generated at once, in chunks, for every sample; or stored",
        minutes=2,
        arms={
            "full": _arm(partial(full_mlp, _WIDTHS)),
            "chunked": _arm(partial(chunked_mlp, _WIDTHS), learning_rate=2e-2),
            "per-sample": _arm(partial(PerSampleMLP, (784, 32, 10)), learning_rate=5e-3, batch_size=128),
            "normal": _arm(plain_mlp),
            # about as many parameters as chunked has
            "normal-12-hidden": _arm(partial(plain_mlp, 12)),
        },
        recipe=_RECIPE,
        quick_epochs=5,
        failed_at=TWICE_CHANCE,
    ),
)
