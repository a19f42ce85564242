"""Residual digit classifier of the first hyper-convolutions on MNIST.

M. Karmann, "hyper-conv", 2022, https://github.com/mkarmann/hyper-conv
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..blocks import ResidualBlock
from ..layers import HyperConv2d
from ..together import GeneratedTogether


class ChannelsLast(GeneratedTogether):
    """Layers in sequence on images whose channels lie together, which most convolutions are fastest on."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to what the last layer returns."""
        return super().forward(_channels_last(images))


def _channels_last(images: Tensor) -> Tensor:
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    # one channel fits both formats as it is; only these strides tell torch which is meant
    height, width = images.shape[2:]
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))


def digit_classifier(
    kernel_size: int = 5, channels: int = 8, conv_layer: Callable[..., nn.Module] = HyperConv2d
) -> ChannelsLast:
    """Eight residual blocks in four stages, the width doubling and the image halving from each to the next.

    Args:
        kernel_size: of the residual blocks' convolutions, the only ones that ``conv_layer`` makes.
        channels: of the first stage.

    Returns:
        Network from ``(B, 1, 28, 28)`` to ten logits, ``(B, 10)``. With 8 channels and 5x5 kernels 548,970
        parameters plain, 405,642 with default hyper-convolutions without bias.
    """
    widths = [channels * 2**stage for stage in range(4)]

    def stage(width: int) -> list[nn.Module]:
        return [ResidualBlock(width, kernel_size, conv_layer) for _ in range(2)]

    def normalize(width: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(width), nn.ReLU()]

    def widen(width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, 2 * width, 1, bias=False), nn.MaxPool2d(2)]

    first, second, third, fourth = widths
    return ChannelsLast(
        nn.Conv2d(1, first, 1),
        *(*stage(first), *normalize(first), *widen(first)),
        *(*stage(second), *normalize(second), *widen(second)),
        *(*stage(third), *widen(third)),  # the published network has no normalisation here
        *(*stage(fourth), *normalize(fourth)),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(fourth, 10),
    )
