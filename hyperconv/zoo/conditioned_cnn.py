"""Convolutional networks that are told something about their input, by way of kernels, features or pixels.

Kernels: A. Hoopes et al., "HyperMorph", IPMI 2021, https://arxiv.org/abs/2101.01035 (HyperConvFromDense of
https://github.com/adalca/neurite). Features: E. Perez et al., "FiLM", AAAI 2018, https://arxiv.org/abs/1709.07871.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.augment import turn
from ..generators import DenseGenerator, Generator
from ..generators.base import leaky_relu, perceptron
from ..layers import HyperConv2d

_TRUNK = (32, 8)


class PlainCNN(nn.Module):
    """Two convolutions, each with ReLU and pooling, and a linear layer. What it is told, it ignores.

    Args:
        channels: of both convolutions.
        inputs: channels of the images.
        conv_layer: makes the convolutions.
    """

    def __init__(self, channels: int, inputs: int = 1, conv_layer: Callable[..., nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            conv_layer(width, channels, 5, padding="same") for width in (inputs, channels)
        )
        self.between = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
        self.classes = nn.Sequential(nn.Flatten(), nn.Linear(channels * 49, 10))

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        """``(B, inputs, 28, 28)`` and ``(B, context_dim)`` to logits ``(B, 10)``."""
        return self._through(self.convolutions, images)

    def _through(self, convolutions: Iterable[Callable[[Tensor], Tensor]], features: Tensor) -> Tensor:
        for convolution in convolutions:
            features = self.between(convolution(features))
        return self.classes(features)


class ConcatenatedCNN(PlainCNN):
    """What it is told are more channels of the image, constant over it.

    >>> ConcatenatedCNN(8, context_dim=2)(torch.zeros(3, 1, 28, 28), torch.zeros(3, 2)).shape
    torch.Size([3, 10])
    """

    def __init__(self, channels: int, context_dim: int) -> None:
        super().__init__(channels, 1 + context_dim)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        planes = context[..., None, None].expand(-1, -1, *images.shape[2:])
        return super().forward(torch.cat([images, planes], dim=1), context)


class TurnedBackCNN(PlainCNN):
    """It is told the cosine and sine of the angle that its image was turned by, and turns it back.

    >>> TurnedBackCNN(8)(torch.zeros(3, 1, 28, 28), torch.eye(2)[[0, 1, 0]]).shape
    torch.Size([3, 10])
    """

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        return super().forward(turn(images, -torch.atan2(context[:, 1], context[:, 0])), context)


class FilmedCNN(PlainCNN):
    """What it is told scales and shifts every channel after each convolution, through a small network.

    >>> FilmedCNN(8, context_dim=2)(torch.zeros(3, 1, 28, 28), torch.zeros(3, 2)).shape
    torch.Size([3, 10])
    """

    def __init__(self, channels: int, context_dim: int) -> None:
        super().__init__(channels)
        self.trunk = perceptron((context_dim, *_TRUNK), leaky_relu)
        self.films = nn.ModuleList(nn.Linear(_TRUNK[-1], 2 * channels) for _ in self.convolutions)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        h = self.trunk(context)
        filmed = [
            partial(_film, convolution, film(h))
            for convolution, film in zip(self.convolutions, self.films, strict=True)
        ]
        return self._through(filmed, images)


def _film(convolution: nn.Module, gains_and_shifts: Tensor, features: Tensor) -> Tensor:
    gains, shifts = gains_and_shifts[..., None, None].chunk(2, dim=1)
    return convolution(features) * (1 + gains) + shifts


class HyperCNN(PlainCNN):
    """What it is told makes, through a small network, both convolutions' kernels and biases, for every sample.

    >>> HyperCNN(8, context_dim=2)(torch.zeros(3, 1, 28, 28), torch.zeros(3, 2)).shape
    torch.Size([3, 10])
    """

    def __init__(self, channels: int, context_dim: int) -> None:
        generator = partial(DenseGenerator, context_dim=_TRUNK[-1])
        super().__init__(channels, conv_layer=partial(HyperConv2d, bias="generated", generator=generator))
        self.trunk = perceptron((context_dim, *_TRUNK), leaky_relu)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        h = self.trunk(context)
        return self._through([partial(convolution, context=h) for convolution in self.convolutions], images)


class DeepHyperCNN(nn.Module):
    """Residual 3x3 convolutions, as many as wanted, all of whose kernels come from what the network is told.

    Args:
        depth: how many.
        context_dim: width of what it is told.
        generator: of the kernels, from 8 numbers that a small network makes of it.
        recurrent: one generator for all layers, which a recurrent network moves on from layer to layer.
        channels: of each convolution.

    >>> from functools import partial
    >>> generator = partial(DenseGenerator, context_dim=8)
    >>> DeepHyperCNN(4, 2, generator)(torch.zeros(3, 1, 28, 28), torch.zeros(3, 2)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        depth: int,
        context_dim: int,
        generator: Callable[..., Generator],
        recurrent: bool = False,
        channels: int = 8,
    ) -> None:
        super().__init__()
        self.kind: dict[str, Any] = {"generator": generator, "recurrent": recurrent, "channels": channels}
        self.trunk = perceptron((context_dim, *_TRUNK), leaky_relu)
        self.first = nn.Conv2d(1, channels, 5, stride=2, padding=2)
        self.recurrent = None
        if recurrent:
            self.recurrent = nn.GRUCell(_TRUNK[-1], _TRUNK[-1])
            generator = partial(_same, generator((channels, channels, 3, 3)))
        # statistics of a batch would be those of as many networks
        self.norms = nn.ModuleList(nn.GroupNorm(2, channels) for _ in range(depth))
        self.convolutions = nn.ModuleList(
            HyperConv2d(channels, channels, 3, padding=1, generator=generator) for _ in range(depth)
        )
        self.classes = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * 49, 10))

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        """``(B, 1, 28, 28)`` and ``(B, context_dim)`` to logits ``(B, 10)``."""
        told = h = self.trunk(context)
        features = self.first(images)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            if self.recurrent is not None:
                h = self.recurrent(told, h)
            features = features + convolution(norm(features).relu(), h)
        return self.classes(features)


def _same(generator: Generator, kernel_shape: Sequence[int], **factory: Any) -> Generator:
    return generator
