"""Segmentation whose decoder has other weights in every patch of the image.

Y. Nirkin, L. Wolf, T. Hassner, "HyperSeg: Patch-wise Hypernetwork for Real-time Semantic Segmentation", CVPR 2021,
https://arxiv.org/abs/2012.11582
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import from_patches, to_patches
from ..generators import DenseGenerator
from ..layers import HyperConv2d

_EXPANSION = 2


class HyperSeg(nn.Module):
    """An encoder, a context head that makes a signal for every patch of the image, and a decoder that it steers.

    Args:
        decoder: made of the channels of the image and of the encoder's features, from fine to coarse, those of the
            signal, and the number of classes: `MetaDecoder` or `StaticDecoder`.
        widths: of the encoder's stages, each of which halves the image.
        signal_channels: numbers that each patch's weights are made from.

    A patch is as large as a pixel of the encoder's last features: 16x16 pixels after four stages. Images of any size
    are extended by their last row and column to whole patches, and what is predicted there is cut off.

    >>> HyperSeg(MetaDecoder, classes=11)(torch.zeros(2, 1, 64, 50)).shape
    torch.Size([2, 11, 64, 50])
    """

    def __init__(
        self,
        decoder: Callable[[Sequence[int], int, int], nn.Module],
        classes: int,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16, 32, 48),
        signal_channels: int = 48,
    ) -> None:
        super().__init__()
        self.patch = 2 ** len(widths)
        self.in_channels = in_channels
        self.encoder = nn.ModuleList(
            nn.Sequential(_convolution(inputs, outputs, 3, stride=2), _convolution(outputs, outputs, 3))
            for inputs, outputs in pairwise((in_channels, *widths))
        )
        self.head = ContextHead(widths[-1], signal_channels)
        self.decoder = decoder((in_channels, *widths), signal_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, classes, H, W)`` of images ``(B, I, H, W)``.

        Raises:
            ValueError: images of other channels, or of no pixels.
        """
        features = self._features(images)
        return self.decoder(features, self.head(features[-1]))[:, :, : images.shape[2], : images.shape[3]]

    def signal(self, images: Tensor) -> Tensor:
        """What the weights of every patch are made from, ``(B, signal_channels, R, C)``.

        Raises:
            ValueError: images of other channels, or of no pixels.
        """
        return self.head(self._features(images)[-1])

    def _features(self, images: Tensor) -> list[Tensor]:
        """The extended images, and what each stage of the encoder makes of them."""
        if images.dim() != 4 or images.shape[1] != self.in_channels or 0 in images.shape[2:]:
            raise ValueError(
                f"images to segment are (B, {self.in_channels}, H, W) of at least a pixel, got {tuple(images.shape)}"
            )
        down, across = (-side % self.patch for side in images.shape[2:])
        features = [F.pad(images, (0, across, 0, down), mode="replicate") if down or across else images]
        for stage in self.encoder:
            features.append(stage(features[-1]))
        return features


class ContextHead(nn.Module):
    """A small U-Net whose bottom is its mean over the image: features ``(B, I, R, C)`` to a signal ``(B, O, R, C)``.

    The signal is standardised over its channels: the scale that generators are initialised for.

    >>> ContextHead(64, 32)(torch.zeros(2, 64, 3, 5)).shape
    torch.Size([2, 32, 3, 5])
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int = 1) -> None:
        super().__init__()
        width = in_channels // 2
        self.reduce = _convolution(in_channels, width, 1)
        self.down = nn.ModuleList(_convolution(width, width, 2, stride=2) for _ in range(depth))
        self.up = nn.ModuleList(_convolution(2 * width, width, 1) for _ in range(depth))
        self.signal = nn.Conv2d(width, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        features = self.reduce(features)
        skips = []
        for down in self.down:
            skips.append(features)
            odd_row, odd_column = (side % 2 for side in features.shape[2:])
            features = down(F.pad(features, (0, odd_column, 0, odd_row), mode="replicate"))
        features = features.mean((2, 3), keepdim=True)
        for up in self.up:
            skip = skips.pop()
            features = up(torch.cat([skip, F.interpolate(features, size=skip.shape[2:])], dim=1))
        signal = self.signal(features).movedim(1, -1)
        return F.layer_norm(signal, signal.shape[-1:]).movedim(-1, 1)


class MetaDecoder(nn.Module):
    """Meta blocks from coarse to fine, every patch's weights made from its part of the signal.

    A block sees coordinates, the encoder's features and what the block before it made, twice as large. The signal's
    channels are divided among the blocks' kernels in proportion to their weights.

    Args:
        in_channels: of the image and of the encoder's features, from fine to coarse.
        widths: of the blocks from coarse to fine, but for the last, which gives the classes.
        kernel_sizes: of the blocks; 1 is one convolution, more an inverted residual block.
        one_kernel: whether all patches have the weights that the mean of their signals makes.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        signal_channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (32, 16, 12, 12),
        kernel_sizes: Sequence[int] = (1, 1, 3, 3, 1),
        one_kernel: bool = False,
    ) -> None:
        super().__init__()
        self.one_kernel = one_kernel
        skips = list(reversed(in_channels))
        inputs = [2 + skip + below for skip, below in zip(skips, (0, *widths), strict=True)]
        sizes = list(zip(inputs, (*widths, classes), kernel_sizes, strict=True))
        weights = [math.prod(shape) for size in sizes for shape in _kernel_shapes(*size)]
        shares = divided(signal_channels, weights)
        kernels = [0, *accumulate(len(_kernel_shapes(*size)) for size in sizes)]
        self.shares = [shares[first:last] for first, last in pairwise(kernels)]
        self.blocks = nn.ModuleList(
            MetaBlock(*size, share, last=number == len(sizes))
            for number, (size, share) in enumerate(zip(sizes, self.shares, strict=True), 1)
        )

    def forward(self, features: Sequence[Tensor], signal: Tensor) -> Tensor:
        if self.one_kernel:
            signal = signal.mean((2, 3), keepdim=True)
        slices = signal.split(list(map(sum, self.shares)), dim=1)
        made: tuple[Tensor, ...] = ()
        for block, skip, own in zip(self.blocks, reversed(features), slices, strict=True):
            made = (block(_joined(skip, *made), own),)
        return made[0]


class MetaBlock(nn.Module):
    """One convolution, or an inverted residual block, with weights of its own in every patch.

    Patches overlap as far as the block's kernel reaches, so that all of a patch is computed by its own weights.

    Args:
        kernel_size: 1, or that of the depthwise convolution between two of 1x1.
        signal_channels: for each of the one or three kernels, the numbers that it is made from.
        last: without normalisation and activation, with a bias.

    >>> block = MetaBlock(6, 8, 3, signal_channels=(4, 2, 3))
    >>> block(torch.zeros(2, 6, 12, 8), torch.zeros(2, 9, 3, 2)).shape
    torch.Size([2, 8, 12, 8])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, signal_channels: Sequence[int], last: bool = False
    ) -> None:
        super().__init__()
        self.reach = kernel_size // 2
        self.signal_channels = list(signal_channels)
        shapes = _kernel_shapes(in_channels, out_channels, kernel_size)
        self.convolutions = nn.ModuleList(
            _generated_convolution(shape, channels, bias=last and shape is shapes[-1])
            for shape, channels in zip(shapes, signal_channels, strict=True)
        )
        layers = [nn.Sequential(nn.BatchNorm2d(shape[0]), nn.ReLU6()) for shape in shapes]
        # the projection of an inverted residual block is linear
        layers[-1] = nn.Sequential() if last else layers[-1][:1] if len(shapes) > 1 else layers[-1]
        self.after = nn.ModuleList(layers)

    def forward(self, input: Tensor, signal: Tensor) -> Tensor:
        """``(B, I, H, W)`` to ``(B, O, H, W)``, in R rows of C patches if the signal is ``(B, S, R, C)``."""
        rows, columns = signal.shape[2:]
        contexts = signal.permute(0, 2, 3, 1).flatten(0, 2).split(self.signal_channels, dim=1)
        patches = to_patches(input, rows, columns, self.reach, "reflect")
        for convolution, after, context in zip(self.convolutions, self.after, contexts, strict=True):
            patches = after(convolution(patches, context))
        return from_patches(patches, rows, columns)


class StaticDecoder(nn.Module):
    """Stored 3x3 convolutions from coarse to fine; the signal is one more input of the first.

    Args:
        in_channels: of the image and of the encoder's features, from fine to coarse.
        widths: of the convolutions from coarse to fine, but for the last, which gives the classes.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        signal_channels: int,
        classes: int,
        *,
        widths: Sequence[int] = (96, 64, 48, 32),
    ) -> None:
        super().__init__()
        skips = list(reversed(in_channels))
        inputs = [2 + skip + below for skip, below in zip(skips, (signal_channels, *widths), strict=True)]
        self.layers = nn.ModuleList(_convolution(*size, 3) for size in zip(inputs, widths, strict=False))
        self.layers.append(nn.Conv2d(inputs[-1], classes, 1))

    def forward(self, features: Sequence[Tensor], signal: Tensor) -> Tensor:
        made = signal
        for layer, skip in zip(self.layers, reversed(features), strict=True):
            made = layer(_joined(skip, made))
        return made


def divided(units: int, weights: Sequence[int]) -> list[int]:
    """So many units divided in proportion to weights, each getting at least one.

    Raises:
        ValueError: fewer units than weights.

    >>> divided(10, [700, 200, 99, 1])
    [6, 2, 1, 1]
    """
    if units < len(weights):
        raise ValueError(f"a signal of {units} channels makes at most so many kernels, not {len(weights)}")
    shares = [units * weight / sum(weights) for weight in weights]
    whole = [max(1, math.floor(share)) for share in shares]
    while sum(whole) != units:
        missing = 1 if sum(whole) < units else -1
        open_to_change = [number for number, has in enumerate(whole) if has + missing >= 1]
        chosen = max(open_to_change, key=lambda number: missing * (shares[number] - whole[number]))
        whole[chosen] += missing
    return whole


def _kernel_shapes(in_channels: int, out_channels: int, kernel_size: int) -> list[tuple[int, int, int, int]]:
    if kernel_size == 1:
        return [(out_channels, in_channels, 1, 1)]
    width = _EXPANSION * in_channels
    return [(width, in_channels, 1, 1), (width, 1, kernel_size, kernel_size), (out_channels, width, 1, 1)]


def _generated_convolution(shape: tuple[int, int, int, int], signal_channels: int, bias: bool) -> HyperConv2d:
    outputs, _, size, _ = shape
    depthwise = size > 1
    inputs, groups = (outputs, outputs) if depthwise else (shape[1], 1)
    generator = partial(_from_one_kernel, signal_channels)
    return HyperConv2d(inputs, outputs, size, groups=groups, bias=bias, generator=generator)


def _from_one_kernel(signal_channels: int, shape: Sequence[int], **factory: Any) -> DenseGenerator:
    """At first all patches have the same kernel: from there, training goes on much faster."""
    generator = DenseGenerator(shape, signal_channels, **factory)
    nn.init.normal_(generator.bias, std=generator.kernel_std)
    nn.init.zeros_(generator.weight)
    return generator


def _convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    padding = (kernel_size - 1) // 2
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _joined(skip: Tensor, *below: Tensor) -> Tensor:
    """Coordinates in -1 ... 1, features, and what was made of coarser ones, in their size."""
    batch, _, height, width = skip.shape
    down, across = (torch.linspace(-1, 1, side, dtype=skip.dtype, device=skip.device) for side in (height, width))
    coordinates = torch.stack([down.unsqueeze(1).expand(height, width), across.expand(height, width)])
    grown = [F.interpolate(each, size=(height, width), mode="bilinear") for each in below]
    return torch.cat([coordinates.expand(batch, -1, -1, -1), skip, *grown], dim=1)
