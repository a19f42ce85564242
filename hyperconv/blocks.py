"""Residual blocks."""

from collections.abc import Callable

from torch import Tensor, nn

from .layers import HyperConv2d


class ResidualBlock(nn.Module):
    """Pre-activation residual block: twice BN, ReLU, convolution, and the input added (He et al., arXiv 1603.05027).

    Args:
        channels: of input and output.
        kernel_size: of both convolutions, which keep the image's size.
        conv_layer: ``HyperConv2d``, ``nn.Conv2d``, a ``functools.partial`` of one, or anything called alike.

    >>> import torch
    >>> ResidualBlock(4)(torch.zeros(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(self, channels: int, kernel_size: int = 5, conv_layer: Callable[..., nn.Module] = HyperConv2d) -> None:
        super().__init__()
        layers = []
        for _ in range(2):
            convolution = conv_layer(channels, channels, kernel_size, padding="same")
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), convolution]
        self.branch = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, channels, H, W)`` to the same."""
        return input + self.branch(input)
