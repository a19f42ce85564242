"""Networks of a class on convolutions: a residual classifier of digits, and autoencoders around 16 numbers.

PC lab 13 of https://github.com/gdewael/teaching, whose convolutions may be any here, generated ones too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from torch import Tensor, nn

from ..generators import CoordinateMLP
from ..layers import HyperConv2d, HyperConvTranspose2d
from .digit_classifier import ChannelsLast

Enlarging = Literal["transposed", "upsampling"]
_SIDE = 28
_KERNEL_SIZE = 5


class Layers(NamedTuple):
    """What makes a network's convolutions and transposed convolutions, called as ``torch.nn``'s."""

    convolution: Callable[..., nn.Module]
    transposed: Callable[..., nn.Module]


# 10 numbers a kernel of 25 taps
_generator = partial(CoordinateMLP, hidden=(16, 16, 8))
HYPER = Layers(partial(HyperConv2d, generator=_generator), partial(HyperConvTranspose2d, generator=_generator))
NORMAL = Layers(nn.Conv2d, nn.ConvTranspose2d)


def _activated(channels: int, dropout: float = 0.0) -> list[nn.Module]:
    return [nn.ReLU(), nn.Dropout(dropout), nn.BatchNorm2d(channels)]


class ClassroomBlock(nn.Module):
    """Residual block of the class: convolution, ReLU, dropout, batch norm, and the input added.

    Args:
        channels: of input and output.
        convolution: called as ``nn.Conv2d``; it keeps the image's size.
        dropout: the fraction of activations that training drops.

    >>> import torch
    >>> ClassroomBlock(4)(torch.zeros(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, channels: int, convolution: Callable[..., nn.Module] = nn.Conv2d, dropout: float = 0.0) -> None:
        super().__init__()
        layer = convolution(channels, channels, _KERNEL_SIZE, padding="same")
        self.branch = nn.Sequential(layer, *_activated(channels, dropout))

    def forward(self, input: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to the same."""
        return input + self.branch(input)


def classroom_classifier(layers: Layers = HYPER, channels: int = 12, dropout: float = 0.1) -> ChannelsLast:
    """Four 5x5 convolutions, two of them in residual blocks, and a linear layer.

    Args:
        channels: of images of half the digit's size; twice as many where they are halved again.
        dropout: in the residual blocks.

    Returns:
        Network from ``(B, 1, 28, 28)`` to ten logits, ``(B, 10)``.
    """
    few, many = channels, 2 * channels
    halving = partial(layers.convolution, kernel_size=_KERNEL_SIZE, stride=2, padding=_KERNEL_SIZE // 2)
    return ChannelsLast(
        *(halving(1, few), *_activated(few), ClassroomBlock(few, layers.convolution, dropout)),
        *(halving(few, many), *_activated(many), ClassroomBlock(many, layers.convolution, dropout)),
        nn.Flatten(),
        nn.Linear(many * (_SIDE // 4) ** 2, 10),
    )


class Autoencoder(nn.Module):
    """An encoder to few numbers, and a decoder back.

    Args:
        encoder: from ``(B, 1, 28, 28)`` to codes, ``(B, *)``.
        decoder: from codes to ``(B, 1, 28, 28)``.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1, 28, 28)`` to the same."""
        return self.decoder(self.encoder(images))


def convolutional_autoencoder(
    bottleneck: tuple[int, int] = (16, 1),
    enlarging: Enlarging = "transposed",
    layers: Layers = HYPER,
    channels: int = 8,
) -> Autoencoder:
    """Images are halved twice, and what is left goes through one convolution to the codes; then all of it backwards.

    Args:
        bottleneck: channels and side of the codes, ``(C, S)`` for ``(B, C, S, S)``.
        enlarging: how the decoder doubles images: by transposed convolutions of stride 2, or by repeating every pixel
            twice along both axes before a convolution.
        channels: of images of half the digit's size; twice as many where they are halved again.
    """
    few, many = channels, 2 * channels
    code_channels, side = bottleneck
    quarter = _SIDE // 4
    stride = quarter // side
    around_codes = {"kernel_size": quarter - stride * (side - 1), "stride": stride}

    def halving(inputs: int, outputs: int) -> nn.Module:
        return layers.convolution(inputs, outputs, _KERNEL_SIZE, stride=2, padding=_KERNEL_SIZE // 2)

    def doubling(inputs: int, outputs: int) -> list[nn.Module]:
        if enlarging == "upsampling":
            return [nn.Upsample(scale_factor=2), layers.convolution(inputs, outputs, _KERNEL_SIZE, padding="same")]
        geometry = {"stride": 2, "padding": _KERNEL_SIZE // 2, "output_padding": 1}
        return [layers.transposed(inputs, outputs, _KERNEL_SIZE, **geometry)]

    encoder = nn.Sequential(
        *(halving(1, few), *_activated(few)),
        *(halving(few, many), *_activated(many), ClassroomBlock(many, layers.convolution)),
        layers.convolution(many, code_channels, **around_codes),
    )
    decoder = nn.Sequential(
        *(layers.transposed(code_channels, many, **around_codes), *_activated(many)),
        ClassroomBlock(many, layers.convolution),
        *(*doubling(many, few), *_activated(few)),
        *doubling(few, 1),
        nn.Sigmoid(),
    )
    return Autoencoder(encoder, decoder)


def perceptron_autoencoder(hidden: Sequence[int], codes: int = 16) -> Autoencoder:
    """Linear layers from pixels to codes, and the same backwards; ReLU and batch norm between them.

    Args:
        hidden: widths of the encoder's hidden layers, which the decoder has in the opposite order.
        codes: numbers in a code.
    """
    widths = (_SIDE**2, *hidden, codes)
    return Autoencoder(
        nn.Sequential(nn.Flatten(), *_linear_layers(widths)),
        nn.Sequential(*_linear_layers(widths[::-1]), nn.Sigmoid(), nn.Unflatten(1, (1, _SIDE, _SIDE))),
    )


def _linear_layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs)]
    return layers[:-2]
