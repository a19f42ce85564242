"""Perceptrons whose weights are generated in three ways, beside a plain one."""

from dataclasses import replace
from functools import partial

from torch import nn

from ..training import Recipe
from ..zoo.generated_mlp import PerSampleMLP, chunked_mlp, full_mlp
from .experiment import Experiment

_WIDTHS = (784, 64, 10)
_RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=32, epochs=5, patience=None, shuffle=True)


def plain_mlp() -> nn.Sequential:
    inputs, hidden, outputs = _WIDTHS
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


MLP = Experiment(
    name="mlp",
    paper="torch-hypernetwork-tutorials, Gao, 2020",
    task="digits to classes: weights of a perceptron generated at once, in chunks, for every sample; or stored",
    minutes=2,
    arms={
        "full": partial(full_mlp, _WIDTHS),
        "chunked": partial(chunked_mlp, _WIDTHS),
        "per-sample": partial(PerSampleMLP, (784, 32, 10)),
        "normal": plain_mlp,
    },
    recipe=_RECIPE,
    # each as its validation digits like it
    arm_recipes={
        "chunked": replace(_RECIPE, learning_rate=2e-2),
        "per-sample": replace(_RECIPE, learning_rate=5e-3, batch_size=128),
    },
    quick_epochs=5,
)
