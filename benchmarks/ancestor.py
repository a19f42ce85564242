"""The first release of hyper-convolutions on MNIST, in its own formulation, to measure against.

https://github.com/mkarmann/hyper-conv: kernels come out of 1x1 convolutions and a BatchNorm2d over the kernel's
taps, images lie in torch's default memory format, and Adam runs in its default form.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperconv import kernel_grid
from hyperconv.zoo.digit_classifier import digit_classifier


class AncestorConv2d(nn.Module):
    """A convolution whose kernel is an image of k x k pixels and C_out C_in channels, made by 1x1 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: str) -> None:
        super().__init__()
        self.kernel_shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.padding = padding
        grid = kernel_grid((kernel_size, kernel_size)).T.reshape(1, 2, kernel_size, kernel_size)
        self.register_buffer("grid", grid)
        layers: list[nn.Module] = []
        for inputs in (2, 16, 16):
            layers += [nn.Conv2d(inputs, 16, 1), nn.LeakyReLU(0.1)]
        kernels = in_channels * out_channels
        self.main = nn.Sequential(*layers, nn.Conv2d(16, kernels, 1, bias=False), nn.BatchNorm2d(kernels))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.main(self.grid).reshape(self.kernel_shape), padding=self.padding)


def ancestor() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Its classifier and optimizer, 405,642 parameters."""
    network = digit_classifier(conv_layer=AncestorConv2d)
    return network, torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-6)
