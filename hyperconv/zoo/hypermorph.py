"""Deformable registration by a U-Net whose kernels are a function of how smooth the deformation is to be.

A. Hoopes, M. Hoffmann, B. Fischl, J. Guttag, A. V. Dalca, "HyperMorph: Amortized Hyperparameter Learning for Image
Registration", IPMI 2021, https://arxiv.org/abs/2101.01035
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators import DenseGenerator, magnitude_invariant
from ..layers import HyperConv2d

_SQUARINGS = 7
_SLOPE = 0.2


class Registered(NamedTuple):
    """What a registration network makes of a pair.

    Attributes:
        moved: ``(B, 1, H, W)``, the moving image, deformed.
        displacement: ``(B, 2, H, W)``, how far to the right and how far down each pixel's source lies, in pixels.
        velocity: ``(B, 2, H, W)``, the stationary field that the displacement is the integral of.
    """

    moved: Tensor
    displacement: Tensor
    velocity: Tensor


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """Sample images bilinearly at displaced positions, the edge's values beyond it (a spatial transformer).

    Args:
        images: ``(B, C, H, W)``.
        displacement: ``(B, 2, H, W)``, to the right and down, in pixels.

    >>> warp(torch.eye(3)[None, None], torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3))[0, 0].tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    height, width = images.shape[2:]
    still = torch.eye(2, 3, device=images.device, dtype=displacement.dtype).unsqueeze(0)
    grid = F.affine_grid(still, [1, 1, height, width], align_corners=False)
    halves = displacement.new_tensor([2 / width, 2 / height])
    moved = grid + displacement.permute(0, 2, 3, 1) * halves
    return F.grid_sample(images.to(moved.dtype), moved, padding_mode="border", align_corners=False)


def integrate(velocity: Tensor) -> Tensor:
    """The displacement after unit time in a stationary velocity field, by scaling and squaring.

    Args:
        velocity: ``(B, 2, H, W)``, to the right and down, in pixels.
    """
    displacement = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        displacement = displacement + warp(displacement, displacement)
    return displacement


class VoxelMorph(nn.Module):
    """Registration by a U-Net, which gives a velocity field: its deformations are diffeomorphisms.

    Args:
        encoder: widths from full resolution down, halved in between.
        decoder: widths from the lowest resolution up, one more than of the encoder.
        conv_layer: makes the 3x3 convolutions.

    The network starts at the identity.

    >>> VoxelMorph()(torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)).displacement.shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(
        self,
        encoder: Sequence[int] = (16, 32, 32),
        decoder: Sequence[int] = (32, 32, 16, 16),
        conv_layer: Callable[..., nn.Module] = nn.Conv2d,
    ) -> None:
        super().__init__()
        conv3x3 = partial(conv_layer, kernel_size=3, padding=1)
        skips = (0, *reversed(encoder))
        joined = [encoder[-1], *decoder[:-1]]
        self.encoder = nn.ModuleList(conv3x3(inputs, outputs) for inputs, outputs in pairwise((2, *encoder)))
        self.decoder = nn.ModuleList(
            conv3x3(below + skip, outputs) for below, skip, outputs in zip(joined, skips, decoder, strict=True)
        )
        self.velocity = conv3x3(decoder[-1], 2)
        for parameter in self.velocity.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor, *context: Tensor) -> Registered:
        """Register images ``(B, 1, H, W)``, with sides that the encoder can halve; the context is the convolutions'."""
        features = torch.cat([moving, fixed], dim=1)
        skips = []
        for convolution in self.encoder:
            features = F.leaky_relu(convolution(features, *context), _SLOPE)
            skips.append(features)
            features = F.max_pool2d(features, 2)
        for convolution in self.decoder:
            features = F.leaky_relu(convolution(features, *context), _SLOPE)
            if skips:
                features = torch.cat([F.interpolate(features, scale_factor=2.0), skips.pop()], dim=1)
        velocity = self.velocity(features, *context)
        displacement = integrate(velocity)
        return Registered(warp(moving, displacement), displacement, velocity)


class HyperMorph(VoxelMorph):
    """`VoxelMorph` for every weight of smoothness at once.

    A hypernetwork makes a vector of the weight, and each convolution's kernel and bias are linear functions of it.

    Args:
        hidden: widths of the hypernetwork's layers, the last of which is the vector's.
        widths: ``encoder`` and ``decoder`` of `VoxelMorph`.

    >>> pair = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    >>> HyperMorph()(*pair, torch.tensor([0.3])).displacement.shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(self, hidden: Sequence[int] = (32, 32, 16), **widths: Sequence[int]) -> None:
        generator = partial(DenseGenerator, context_dim=hidden[-1])
        super().__init__(**widths, conv_layer=partial(HyperConv2d, bias="generated", generator=generator))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((2, *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        # the generators' initial scale is right for a vector of unit variance
        self.hypernetwork = nn.Sequential(*layers, nn.LayerNorm(hidden[-1], elementwise_affine=False))

    def forward(self, moving: Tensor, fixed: Tensor, weight: Tensor) -> Registered:  # type: ignore[override]
        """Register images ``(B, 1, H, W)``.

        Args:
            weight: of smoothness, 0 ... 1; ``(1,)`` for the batch (and much faster), or ``(B, 1)`` for each pair.
        """
        return super().forward(moving, fixed, self.hypernetwork(magnitude_invariant(weight)))
