"""One kernel for the whole batch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coordinates import Sizes

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve with one kernel that the whole batch shares; the kernel's rank says how many dimensions.

    Args:
        input: ``(B, I, *S)`` or ``(I, *S)``.
        kernel: ``(O, I/groups, *k)``, one to three spatial axes.
        bias: ``(O,)`` or None.

    Returns:
        ``(B, O, *S')`` or ``(O, *S')``, as ``torch.nn.functional.conv*d`` would.

    Raises:
        ValueError: a kernel of another rank, or one that does not fit the input.

    >>> import torch
    >>> convolution(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 5, 5), padding="same").shape
    torch.Size([2, 4, 8, 8])
    """
    dims = kernel.dim() - 2
    if dims not in CONVOLUTION:
        raise ValueError(f"a kernel needs shape (O, I/groups, *k) with 1 to 3 axes in k, got {tuple(kernel.shape)}")
    if input.dim() not in (dims + 1, dims + 2) or input.shape[-1 - dims] != kernel.shape[1] * groups:
        raise ValueError(
            f"a kernel {tuple(kernel.shape)} in {groups} groups does not fit an input {tuple(input.shape)}"
        )
    if (not lies_channels_last(input) or dims != 2) and kernel.stride() != _usual_strides(kernel.shape):
        # torch 2.14 can crash on a small kernel that lies channels last where the input does not
        kernel = kernel.clone(memory_format=torch.contiguous_format)
    return CONVOLUTION[dims](input, kernel, bias, stride, padding, dilation, groups)


def _usual_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a contiguous tensor; ``is_contiguous`` is content with others where a size is 1."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def lies_channels_last(input: Tensor) -> bool:
    """Whether a batch of images lies channels last in memory, and in no other way."""
    # within torch.vmap, a tensor can be asked for no other memory format
    return input.dim() == 4 and not input.is_contiguous() and input.permute(0, 2, 3, 1).is_contiguous()


def paired_convolution(input: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """`convolution` with padding ``same``, on an image half as wide with twice the channels.

    Channels last, two neighbouring columns of C channels are one column of 2C without moving a number: vector units
    that are wider than C channels are then filled. The kernel of the paired image holds the original one twice, shifted
    by a column for the second column of an output pair.

    Args:
        input: ``(B, I, H, W)``, W even.
        kernel: ``(O, I, *k)``, k odd.
        bias: ``(O,)`` or None.

    Returns:
        ``(B, O, H, W)``, channels last in memory.

    Raises:
        ValueError: an odd width or an even kernel.

    >>> paired_convolution(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 5, 5)).shape
    torch.Size([2, 4, 8, 8])
    """
    if input.shape[3] % 2 or not all(size % 2 for size in kernel.shape[2:]):
        raise ValueError(
            f"pairs need an image of even width and a kernel of odd size, got {tuple(input.shape)} and "
            f"{tuple(kernel.shape)}"
        )
    batch, in_channels, height, width = input.shape
    out_channels, _, rows, columns = kernel.shape
    reach = (columns // 2 + 1) // 2
    taps = 2 * reach + 1
    left = 2 * reach - columns // 2
    right = 2 * taps - columns - left
    shifted = torch.stack([F.pad(kernel, (left + column, right - column)) for column in (0, 1)])
    paired_kernel = (
        shifted.unflatten(-1, (taps, 2))
        .permute(0, 1, 3, 4, 5, 2)
        .reshape(2 * out_channels, rows, taps, 2 * in_channels)
        .permute(0, 3, 1, 2)
    )
    pairs = input.permute(0, 2, 3, 1).reshape(batch, height, width // 2, 2 * in_channels).permute(0, 3, 1, 2)
    paired_bias = None if bias is None else bias.repeat(2)
    output = F.conv2d(pairs, paired_kernel, paired_bias, padding=(rows // 2, reach))
    return output.permute(0, 2, 3, 1).reshape(batch, height, width, out_channels).permute(0, 3, 1, 2)


def decomposed_convolution(
    input: Tensor,
    filters: Tensor,
    mixing: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    *,
    in_one_product: bool = False,
) -> Tensor:
    """Convolve with ``sum_f mixing[o, f, i] filters[f]`` without ever building that kernel.

    Every channel is filtered by each of the filters, then a 1x1 convolution mixes the results (as with the fixed
    filters of DCFNet, Qiu et al., ICML 2018, arXiv 1802.04145). With fewer filters than taps, that is less work.

    Args:
        input: ``(B, I, *S)`` or ``(I, *S)``.
        filters: ``(F, *k)``.
        mixing: ``(O, F, I)``.
        bias: ``(O,)`` or None.
        in_one_product: filter by a product with a matrix of the image's size in and out, which is faster for images of
            few pixels, in place of a convolution for each filter.

    Returns:
        ``(B, O, *S')`` or ``(O, *S')``, equal to `convolution` with the kernel built, if the images are finite. It may
        lie channels last in memory where the input does not.

    Raises:
        ValueError: shapes that do not fit together.

    >>> decomposed_convolution(torch.zeros(2, 3, 8, 8), torch.zeros(4, 5, 5), torch.zeros(6, 4, 3)).shape
    torch.Size([2, 6, 4, 4])
    """
    dims = filters.dim() - 1
    if dims not in CONVOLUTION or mixing.dim() != 3 or not 0 < len(filters) == mixing.shape[1]:
        raise ValueError(
            f"filters (F, *k) with 1 to 3 axes in k are mixed by (O, F, I), got {tuple(filters.shape)} and "
            f"{tuple(mixing.shape)}"
        )
    outputs, _, channels = mixing.shape
    if input.dim() not in (dims + 1, dims + 2) or input.shape[-1 - dims] != channels:
        raise ValueError(f"mixing weights {tuple(mixing.shape)} do not fit an input {tuple(input.shape)}")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"a bias of shape {tuple(bias.shape)} for {outputs} output channels")

    if in_one_product:
        filtered = _filtered_in_one_product(input, filters, stride, padding, dilation)
        return F.linear(filtered, mixing.flatten(1), bias).movedim(-1, -1 - dims)

    def filtered_by(each: Tensor) -> Tensor:
        kernel = each.expand(channels, 1, *each.shape)
        return CONVOLUTION[dims](input, kernel, None, stride, padding, dilation, channels)

    pointwise = mixing.flatten(1).unflatten(1, (-1, *(1,) * dims))
    return CONVOLUTION[dims](torch.cat([filtered_by(each) for each in filters], dim=-1 - dims), pointwise, bias)


def _filtered_in_one_product(
    input: Tensor, filters: Tensor, stride: Sizes, padding: str | Sizes, dilation: Sizes
) -> Tensor:
    """Every channel filtered by each filter, ``(B, *S', F I)`` or ``(*S', F I)``.

    The filters' responses to each pixel alone are the columns of a matrix: for few pixels, one large product is faster
    than many small convolutions.
    """
    dims = filters.dim() - 1
    sizes = input.shape[-dims:]
    pixels = math.prod(sizes)
    alone = torch.eye(pixels, dtype=filters.dtype, device=filters.device).view(pixels, 1, *sizes)
    responses = CONVOLUTION[dims](alone, filters.unsqueeze(1), None, stride, padding, dilation)
    matrix = responses.flatten(2).permute(2, 1, 0).flatten(0, 1)
    images = input.flatten(-dims).mT
    # (S' F, I): the order in which channels of filters lie side by side
    product = torch.bmm(matrix.expand(images.shape[0], -1, -1), images) if images.dim() > 2 else matrix @ images
    return product.unflatten(-2, (*responses.shape[2:], -1)).flatten(-2)


def transposed_convolution(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose*d`` of the dimension that the kernel, ``(I, O/groups, *k)``, has.

    Raises:
        ValueError: a kernel of another rank.

    >>> transposed_convolution(torch.zeros(2, 3, 4, 4), torch.zeros(3, 5, 2, 2), stride=2).shape
    torch.Size([2, 5, 8, 8])
    """
    dims = kernel.dim() - 2
    if dims not in TRANSPOSED:
        raise ValueError(f"a kernel needs shape (I, O/groups, *k) with 1 to 3 axes in k, got {tuple(kernel.shape)}")
    return TRANSPOSED[dims](input, kernel, bias, stride, padding, output_padding, groups, dilation)
