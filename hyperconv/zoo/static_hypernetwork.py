"""Convolutional network whose second kernel comes from an embedding.

D. Ha, A. Dai, Q. V. Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from ..generators import EmbeddingGenerator
from ..layers import HyperConv2d

embedded_conv = partial(HyperConv2d, generator=partial(EmbeddingGenerator, embedding_dim=4, tile=(16, 16)))


def static_network(conv_layer: Callable[..., nn.Module] = embedded_conv) -> nn.Sequential:
    """Two 7x7 convolutions of 16 channels; ``conv_layer`` makes the second.

    Returns:
        Network from ``(B, 1, 28, 28)`` to ten logits. The second kernel's 12,544 numbers come from 4,240 parameters
        and an embedding of 4.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 7, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv_layer(16, 16, 7, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )
