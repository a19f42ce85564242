"""A kernel from an embedding (HyperNetworks) beside a stored one."""

from functools import partial

from torch import nn

from ..data import Splits
from ..layers import HyperLayer
from ..training import Recipe
from ..training.objectives import digit_classification
from ..zoo.static_hypernetwork import static_network
from .experiment import Experiment


def second_kernel(network: nn.Module, splits: Splits) -> dict[str, float]:
    """Parameters that the second kernel is stored in."""
    second = network[3]
    kernel = second.generator.parameters() if isinstance(second, HyperLayer) else [second.weight]
    return {"kernel parameters": sum(parameter.numel() for parameter in kernel)}


STATIC = Experiment(
    name="static",
    paper="HyperNetworks, Ha et al., ICLR 2017",
    task="digits to classes: 7x7 kernel of 16x16 channels generated from 4 numbers, or stored",
    minutes=15,
    arms={"hyper": static_network, "normal": partial(static_network, nn.Conv2d)},
    recipe=Recipe("adam", 5e-3, 0.0, "one-cycle", batch_size=250, epochs=30, patience=None, shuffle=True),
    objective=digit_classification,
    quick_epochs=5,
    measure=second_kernel,
)
