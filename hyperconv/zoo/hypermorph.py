"""Deformable registration by a U-Net whose kernels are a function of how smooth the deformation is to be.

A. Hoopes, M. Hoffmann, B. Fischl, J. Guttag, A. V. Dalca, "HyperMorph: Amortized Hyperparameter Learning for Image
Registration", IPMI 2021, https://arxiv.org/abs/2101.01035

Images and volumes alike: sides are ``(H, W)`` or ``(D, H, W)``, and the components of a displacement are along the last
axis first, as `torch.nn.functional.grid_sample` has them.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditional import Conditional
from ..convert import conditional
from .unet import Dims

_SQUARINGS = 7
_SLOPE = 0.2
_LINEAR: dict[int, str] = {2: "bilinear", 3: "trilinear"}
_CONVOLUTIONS: dict[Dims, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLS: dict[Dims, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Registered(NamedTuple):
    """What a registration network makes of a pair.

    Attributes:
        moved: ``(B, 1, *sides)``, the moving image, deformed.
        displacement: ``(B, dims, *sides)``, how far along the last axis, the one before ... a pixel's source lies, in
            pixels.
        velocity: ``(B, dims, *smaller sides)``, the stationary field that the displacement is the integral of, in its
            own pixels.
    """

    moved: Tensor
    displacement: Tensor
    velocity: Tensor


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """Sample images linearly at displaced positions, the edge's values beyond it (a spatial transformer).

    Args:
        images: ``(B, C, *sides)``.
        displacement: ``(B, dims, *sides)``, along the last axis first, in pixels.

    >>> warp(torch.eye(3)[None, None], torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3))[0, 0].tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    sides = images.shape[2:]
    still = torch.eye(len(sides), len(sides) + 1, device=images.device, dtype=displacement.dtype).unsqueeze(0)
    grid = F.affine_grid(still, [1, 1, *sides], align_corners=False)
    halves = displacement.new_tensor([2 / side for side in reversed(sides)])
    moved = grid + displacement.movedim(1, -1) * halves
    return F.grid_sample(images.to(moved.dtype), moved, padding_mode="border", align_corners=False)


def integrate(velocity: Tensor) -> Tensor:
    """The displacement after unit time in a stationary velocity ``(B, dims, *sides)``, by scaling and squaring."""
    displacement = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        displacement = displacement + warp(displacement, displacement)
    return displacement


def enlarged(displacement: Tensor, sides: Sequence[int]) -> Tensor:
    """As far in the pixels of a larger image with ``sides`` as in those of its own.

    >>> enlarged(torch.ones(1, 2, 4, 4), (8, 4))[0, :, 0, 0].tolist()
    [1.0, 2.0]
    """
    own = displacement.shape[2:]
    if own == tuple(sides):
        return displacement
    factors = [side / smaller for side, smaller in zip(reversed(sides), reversed(own), strict=True)]
    scaled = displacement * displacement.new_tensor(factors).view(-1, *[1] * len(own))
    return F.interpolate(scaled, size=tuple(sides), mode=_LINEAR[len(own)], align_corners=False)


class VoxelMorph(nn.Module):
    """Registration by a U-Net, which gives a velocity field: its deformations are diffeomorphisms.

    Args:
        encoder: widths from full resolution down, halved in between.
        decoder: widths from the lowest resolution up: one more than of the encoder; or as many or fewer, and velocity
            is made, and integrated, at half the resolution, a quarter ...
        dims: 2 or 3.

    The network starts at the identity.

    Raises:
        ValueError: a decoder that is longer than the encoder and one, or empty.

    >>> VoxelMorph()(torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)).displacement.shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(
        self,
        encoder: Sequence[int] = (16, 32, 32),
        decoder: Sequence[int] = (32, 32, 16, 16),
        dims: Dims = 2,
    ) -> None:
        super().__init__()
        if not 0 < len(decoder) <= len(encoder) + 1:
            raise ValueError(f"a decoder of {len(decoder)} widths does not fit an encoder of {len(encoder)}")
        conv3 = partial(_CONVOLUTIONS[dims], kernel_size=3, padding=1)
        skips = (0, *reversed(encoder))
        joined = [encoder[-1], *decoder[:-1]]
        self.pool = _POOLS[dims](2)
        self.encoder = nn.ModuleList(conv3(inputs, outputs) for inputs, outputs in pairwise((2, *encoder)))
        self.decoder = nn.ModuleList(
            conv3(below + skip, outputs) for below, skip, outputs in zip(joined, skips, decoder, strict=False)
        )
        self.velocity = conv3(decoder[-1], dims)
        set_to_zero(self.velocity)

    def forward(self, moving: Tensor, fixed: Tensor) -> Registered:
        """Register images ``(B, 1, *sides)``, with sides that the encoder can halve."""
        features = torch.cat([moving, fixed], dim=1)
        skips = []
        for convolution in self.encoder:
            features = F.leaky_relu(convolution(features), _SLOPE)
            skips.append(features)
            features = self.pool(features)
        for number, convolution in enumerate(self.decoder):
            if number:
                features = torch.cat([F.interpolate(features, scale_factor=2.0), skips.pop()], dim=1)
            features = F.leaky_relu(convolution(features), _SLOPE)
        velocity = self.velocity(features)
        displacement = enlarged(integrate(velocity), moving.shape[2:])
        return Registered(warp(moving, displacement), displacement, velocity)


def hyper_morph(hidden: Sequence[int] = (32, 32, 16), **sizes: Sequence[int] | Dims) -> Conditional:
    """`VoxelMorph` for every weight of smoothness at once: every kernel and bias is a function of the weight.

    Args:
        hidden: widths of the hypernetwork's layers, the last of which the generators read.
        sizes: of `VoxelMorph`.

    Returns:
        Called with ``context=``, `magnitude_invariant` of the weight, 0 ... 1: ``(2,)`` for the batch (much faster),
        or ``(B, 2)`` for each pair. It starts at the identity.

    >>> from hyperconv import magnitude_invariant
    >>> pair = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    >>> hyper_morph()(*pair, context=magnitude_invariant(torch.tensor([0.3]))).displacement.shape
    torch.Size([2, 2, 32, 32])
    """
    network = VoxelMorph(**sizes)  # type: ignore[arg-type]
    hyper = conditional(network, context_dim=2, hidden=hidden)
    set_to_zero(hyper.network.get_submodule("velocity"))
    return hyper


def set_to_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
