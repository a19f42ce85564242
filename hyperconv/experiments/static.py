"""A kernel from an embedding (HyperNetworks) beside a stored one."""

from functools import partial
from typing import Any

from torch import nn

from ..data import Splits
from ..layers import HyperLayer
from ..training import Recipe
from ..training.objectives import MOVED_CLASSIFICATION
from ..zoo.static_hypernetwork import static_network
from .experiment import TWICE_CHANCE, Arm, Experiment, Figure, rates_around


def second_kernel(network: nn.Module, splits: Splits) -> list[Figure]:
    """Parameters that the second kernel is stored in."""
    second: Any = list(network.children())[3]
    kernel = second.generator.parameters() if isinstance(second, HyperLayer) else [second.weight]
    return [Figure("kernel parameters", sum(parameter.numel() for parameter in kernel))]


_RECIPE = Recipe("adam", 5e-3, 0.0, "one-cycle", batch_size=250, epochs=30, patience=None, shuffle=True)

EXPERIMENTS = (
    Experiment(
        name="static",
        paper="HyperNetworks, Ha et al., ICLR 2017",
        task="digits to classes: 7x7 kernel of 16x16 channels generated from 4 numbers, or stored",
        minutes=15,
        arms={
            "hyper": Arm(static_network, grid=rates_around(_RECIPE)),
            "normal": Arm(partial(static_network, nn.Conv2d), grid=rates_around(_RECIPE)),
        },
        recipe=_RECIPE,
        objective=MOVED_CLASSIFICATION,
        quick_epochs=5,
        failed_at=TWICE_CHANCE,
        measure=second_kernel,
    ),
)
