"""Super-resolution by an SRCNN whose first filters are a function of the kernel that blurred the image.

G. Riegler, S. Schulter, M. Rüther, H. Bischof, "Conditioned Regression Models for Non-Blind Single Image
Super-Resolution", ICCV 2015. SRCNN: C. Dong et al., ECCV 2014, https://arxiv.org/abs/1501.00092
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators import DenseGenerator
from ..layers import HyperConv2d

# taps along an axis of the first convolution
_FIRST = 9


class Bicubic(nn.Module):
    """Bicubic interpolation (Keys, a = -1/2).

    >>> Bicubic()(torch.zeros(3, 1, 14, 14), torch.zeros(3, 8)).shape
    torch.Size([3, 1, 28, 28])
    """

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, low: Tensor, told: Tensor) -> Tensor:
        """``(B, 1, H, W)`` to ``(B, 1, scale H, scale W)``, whatever it is told."""
        # without antialias, which changes nothing else where an image grows, torch takes a = -3/4
        return F.interpolate(low, scale_factor=float(self.scale), mode="bicubic", antialias=True)


class SRCNN(Bicubic):
    """Three convolutions, 9x9, 1x1 and 5x5, from the interpolated image to what it lacks. What it is told, it ignores.

    The network starts at the interpolated image.

    Args:
        channels: of the first two convolutions.
        inputs: channels of what the first one sees.
        first_layer: makes it.
        scale: how much larger images become.
    """

    def __init__(
        self,
        channels: Sequence[int],
        inputs: int = 1,
        first_layer: Callable[..., nn.Module] = nn.Conv2d,
        scale: int = 2,
    ) -> None:
        super().__init__(scale)
        wide, narrow = channels
        at_edges: dict[str, Any] = {"padding": "same", "padding_mode": "replicate"}
        self.first = first_layer(inputs, wide, _FIRST, **at_edges)
        self.second = nn.Conv2d(wide, narrow, 1)
        self.third = nn.Conv2d(narrow, 1, 5, **at_edges)
        for parameter in self.third.parameters():
            nn.init.zeros_(parameter)

    def forward(self, low: Tensor, told: Tensor) -> Tensor:
        """``(B, 1, H, W)`` and ``(B, context_dim)`` to ``(B, 1, scale H, scale W)``."""
        interpolated = super().forward(low, told)
        features = self.second(self.filtered(interpolated, told).relu()).relu()
        return interpolated + self.third(features)

    def filtered(self, interpolated: Tensor, told: Tensor) -> Tensor:
        """The first convolution of ``(B, 1, H, W)``."""
        return self.first(interpolated)


class ConcatenatedSRCNN(SRCNN):
    """What it is told are more channels of the image, constant over it.

    >>> ConcatenatedSRCNN((8, 4), context_dim=3)(torch.zeros(2, 1, 14, 14), torch.zeros(2, 3)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, channels: Sequence[int], context_dim: int, scale: int = 2) -> None:
        super().__init__(channels, 1 + context_dim, scale=scale)

    def filtered(self, interpolated: Tensor, told: Tensor) -> Tensor:
        # a constant plane adds up over all taps, and an image's pixels, which vary, much less
        planes = (told / _FIRST)[..., None, None].expand(-1, -1, *interpolated.shape[2:])
        return self.first(torch.cat([interpolated, planes], dim=1))


class BiasedSRCNN(SRCNN):
    """What it is told shifts the first convolution's channels.

    Within the image that is what constant planes do, in `ConcatenatedSRCNN`, whose taps over a plane count as one: the
    same functions, with a weight where that has 81.

    >>> BiasedSRCNN((8, 4), context_dim=3)(torch.zeros(2, 1, 14, 14), torch.zeros(2, 3)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, channels: Sequence[int], context_dim: int, scale: int = 2) -> None:
        super().__init__(channels, scale=scale)
        self.shifts = nn.Linear(context_dim, channels[0], bias=False)

    def filtered(self, interpolated: Tensor, told: Tensor) -> Tensor:
        return self.first(interpolated) + self.shifts(told)[..., None, None]


class ConditionedSRCNN(SRCNN):
    """What it is told makes the first convolution's filters, for every sample.

    Args:
        hidden: widths of the layers between what it is told and the filters, which are linear in the last.

    >>> ConditionedSRCNN((8, 4), context_dim=3)(torch.zeros(2, 1, 14, 14), torch.zeros(2, 3)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self, channels: Sequence[int], context_dim: int, hidden: Sequence[int] = (32, 8), scale: int = 2
    ) -> None:
        generator = partial(DenseGenerator, context_dim=context_dim, hidden=hidden)
        super().__init__(channels, first_layer=partial(HyperConv2d, generator=generator), scale=scale)

    def filtered(self, interpolated: Tensor, told: Tensor) -> Tensor:
        return self.first(interpolated, told)
