"""One kernel a patch."""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from ..coordinates import Sizes, per_axis
from .per_sample import Backend, convolution_per_sample

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def patch_convolution(
    input: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    backend: Backend = "grouped",
) -> Tensor:
    """Convolve every patch with a kernel of its own (Nirkin et al., HyperSeg, CVPR 2021, arXiv 2012.11582).

    A patch sees its neighbours' pixels where its kernel reaches over the edge.

    Args:
        input: ``(B, I, H, W)``.
        kernels: ``(B, R, C, O, I/groups, k, k)``: R rows of C patches, which divide the image evenly; odd k.
        bias: ``(O,)``, ``(B, R, C, O)`` or None.
        padding_mode: what lies beyond the image, as of ``nn.Conv2d``.
        backend: as of `convolution_per_sample`.

    Returns:
        ``(B, O, H, W)``.

    Raises:
        ValueError: patches that do not divide the image, even kernels, or other channels.

    >>> import torch
    >>> patch_convolution(torch.zeros(1, 2, 8, 12), torch.zeros(1, 2, 3, 5, 2, 3, 3)).shape
    torch.Size([1, 5, 8, 12])
    """
    if input.dim() != 4 or kernels.dim() != 7:
        raise ValueError(
            f"needs an input (B, I, H, W) and kernels (B, R, C, O, I/groups, k, k), got {tuple(input.shape)} and "
            f"{tuple(kernels.shape)}"
        )
    batch, rows, columns, _, inputs, *size = kernels.shape
    if size[0] % 2 == 0 or size[1] % 2 == 0:
        raise ValueError(f"kernel sizes must be odd, got {tuple(size)}")
    if (batch, inputs * groups) != tuple(input.shape[:2]):
        of_groups = f" in {groups} groups" if groups > 1 else ""
        raise ValueError(f"kernels {tuple(kernels.shape)}{of_groups} do not fit an input {tuple(input.shape)}")
    patches = to_patches(input, rows, columns, [taps // 2 for taps in size], padding_mode)
    if bias is not None and bias.dim() > 1:
        bias = bias.flatten(0, 2)
    output = convolution_per_sample(patches, kernels.flatten(0, 2), bias, groups=groups, backend=backend)
    return from_patches(output, rows, columns)


def to_patches(input: Tensor, rows: int, columns: int, reach: Sizes = 0, padding_mode: PaddingMode = "zeros") -> Tensor:
    """Cut images into patches that overlap: each also holds the pixels around it, as far as ``reach``.

    Whatever is then made of each patch alone, by convolutions that use up its surroundings, `from_patches` joins.

    Args:
        input: ``(B, I, H, W)``.
        rows: of patches, R; ``columns``: C. They divide the image evenly.
        reach: pixels on every side.
        padding_mode: what lies beyond the image, as of ``nn.Conv2d``.

    Returns:
        ``(B R C, I, H/R + 2 reach, W/C + 2 reach)``, the last column varying fastest.

    Raises:
        ValueError: patches that do not divide the image, or a reach that it is too small to be reflected by.

    >>> import torch
    >>> to_patches(torch.arange(16.0).view(1, 1, 4, 4), 2, 2, reach=1)[0, 0]
    tensor([[ 0.,  0.,  0.,  0.],
            [ 0.,  0.,  1.,  2.],
            [ 0.,  4.,  5.,  6.],
            [ 0.,  8.,  9., 10.]])
    """
    if input.dim() != 4:
        raise ValueError(f"images to cut into patches are (B, I, H, W), got {tuple(input.shape)}")
    height, width = input.shape[2:]
    if rows < 1 or columns < 1 or height % rows or width % columns:
        raise ValueError(f"{rows}x{columns} patches do not divide an image of {height}x{width} pixels")
    if padding_mode not in get_args(PaddingMode):
        raise ValueError(f"padding_mode must be one of {', '.join(get_args(PaddingMode))}; got {padding_mode!r}")
    down, across = per_axis(reach, 2)
    beyond = {"reflect": 1, "circular": 0}.get(padding_mode)
    if beyond is not None and (height < down + beyond or width < across + beyond):
        raise ValueError(f"padding_mode {padding_mode!r} has no {down}x{across} pixels beyond {height}x{width} ones")
    if down or across:
        mode = "constant" if padding_mode == "zeros" else padding_mode
        input = F.pad(input, (across, across, down, down), mode=mode)
    tall, wide = height // rows, width // columns
    patches = input.unfold(2, tall + 2 * down, tall).unfold(3, wide + 2 * across, wide)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def from_patches(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Join patches that do not overlap into images.

    Args:
        patches: ``(B R C, O, h, w)``, in the order of `to_patches`.
        rows: of patches, R; ``columns``: C.

    Returns:
        ``(B, O, R h, C w)``.

    Raises:
        ValueError: a number of patches that makes no whole images.

    >>> import torch
    >>> from_patches(torch.arange(4.0).view(4, 1, 1, 1), 2, 2)[0, 0]
    tensor([[0., 1.],
            [2., 3.]])
    """
    if patches.dim() != 4 or rows < 1 or columns < 1 or patches.shape[0] % (rows * columns):
        raise ValueError(f"patches {tuple(patches.shape)} make no images of {rows}x{columns} patches")
    _, channels, tall, wide = patches.shape
    batch = patches.shape[0] // (rows * columns)
    images = patches.unflatten(0, (batch, rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(batch, channels, rows * tall, columns * wide)
