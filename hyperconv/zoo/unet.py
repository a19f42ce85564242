"""U-Net whose kernels are generated from their own coordinates, or stored, on images or volumes.

T. Ma, A. V. Dalca, M. R. Sabuncu, "Hyper-Convolution Networks for Biomedical Image Segmentation", WACV 2022,
https://arxiv.org/abs/2105.10559
O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, https://arxiv.org/abs/1505.04597
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators import CoordinateMLP, Norm
from ..layers import HyperConv2d, HyperConv3d
from ..together import GeneratedTogether

Dims = Literal[2, 3]
Convolution = Callable[..., nn.Module]
_SLOPE = 0.01
_GENERATOR = (16, 16)
_CONVOLUTIONS: dict[Dims, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_HYPER_CONVOLUTIONS: dict[Dims, type[nn.Module]] = {2: HyperConv2d, 3: HyperConv3d}
_NORMS: dict[Dims, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_POOLS: dict[Dims, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class UNet(nn.Module):
    """Two convolutions a level, each with instance norm and LeakyReLU; levels are halved and joined again.

    Args:
        dims: 2 for images, 3 for volumes.
        classes: of a pixel, background among them.
        widths: channels of the levels, from full resolution down.
        kernel_size: of all convolutions but the last, which is 1.
        conv_layer: makes these, called like ``nn.Conv2d``. Default: ``nn.Conv2d`` or ``nn.Conv3d``.

    >>> UNet(2, 3)(torch.zeros(2, 1, 35, 50)).shape
    torch.Size([2, 3, 35, 50])
    >>> hyper_unet(3, 3, features=4)(torch.zeros(1, 1, 17, 20, 16)).shape
    torch.Size([1, 3, 17, 20, 16])
    """

    def __init__(
        self,
        dims: Dims,
        classes: int,
        widths: Sequence[int] = (8, 16, 32, 64),
        kernel_size: int = 5,
        conv_layer: Convolution | None = None,
    ) -> None:
        super().__init__()
        self.smallest = 2 ** len(widths)

        def twice(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (inputs, outputs):
                convolution = (conv_layer or _CONVOLUTIONS[dims])(
                    channels, outputs, kernel_size, padding="same", bias=False
                )
                layers += [convolution, _NORMS[dims](outputs, affine=True), nn.LeakyReLU(_SLOPE)]
            return nn.Sequential(*layers)

        self.down = nn.ModuleList(twice(inputs, outputs) for inputs, outputs in pairwise((1, *widths)))
        self.up = nn.ModuleList(twice(below + skip, skip) for skip, below in pairwise(widths))
        self.pool = _POOLS[dims](2)
        self.classify = _CONVOLUTIONS[dims](widths[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 1, *sides)``, of any sides that can be halved, to logits ``(B, classes, *sides)``.

        Raises:
            ValueError: a side that is too short.
        """
        if min(images.shape[2:]) < self.smallest:
            raise ValueError(f"every side must be {self.smallest} or longer, got {tuple(images.shape[2:])}")
        features, skips = images, []
        for level, convolve in enumerate(self.down):
            features = convolve(self.pool(features) if level else features)
            skips.append(features)
        skips.pop()
        for convolve in reversed(self.up):
            skip = skips.pop()
            features = convolve(torch.cat([F.interpolate(features, size=skip.shape[2:]), skip], dim=1))
        return self.classify(features)


def hyper_unet(
    dims: Dims,
    classes: int,
    widths: Sequence[int] = (8, 16, 32, 64),
    kernel_size: int = 5,
    features: int = 4,
    norm: Norm = "decorrelated",
) -> nn.Module:
    """`UNet` with hyper-convolutions, whose kernels are generated together.

    Not as published, kernels are standardised over their taps: without, networks learn more slowly by far.

    Args:
        features: N_L, the width of the generators' last hidden layer; the two before it are 16 wide. A layer's kernels
            take ``features + 2`` parameters for each pair of channels, whatever their size.
        norm: of the generators.
    """
    generator = partial(CoordinateMLP, hidden=(*_GENERATOR, features), norm=norm)
    convolution = partial(_HYPER_CONVOLUTIONS[dims], generator=generator)
    network = UNet(dims, classes, widths, kernel_size, convolution)
    for module in network.modules():
        if isinstance(module, CoordinateMLP):
            # as stored kernels have, whose taps do not cancel; without, training starts slowly
            nn.init.normal_(module.mean, std=len(module.grid) ** -0.5)
    return GeneratedTogether(network)
