"""Kernel and input in, output out: one kernel for all, one a sample, one a patch, one a position.

Every function is one way to compute; which to take where, `hyperconv.plan` decides for layers. No parameters live here,
and no batch size is fixed anywhere: it is ``shape[0]`` throughout, since torch.export takes ``len`` for a constant.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .coordinates import Sizes, per_axis

Backend = Literal["grouped", "unfold", "loop"]
LinearBackend = Literal["bmm", "grouped", "loop"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
    if dims not in _CONVOLUTION:
        raise ValueError(f"a kernel needs shape (O, I/groups, *k) with 1 to 3 axes in k, got {tuple(kernel.shape)}")
    if input.dim() not in (dims + 1, dims + 2) or input.shape[-1 - dims] != kernel.shape[1] * groups:
        raise ValueError(
            f"a kernel {tuple(kernel.shape)} in {groups} groups does not fit an input {tuple(input.shape)}"
        )
    if (not lies_channels_last(input) or dims != 2) and kernel.stride() != _usual_strides(kernel.shape):
        # torch 2.14 can crash on a small kernel that lies channels last where the input does not
        kernel = kernel.clone(memory_format=torch.contiguous_format)
    return _CONVOLUTION[dims](input, kernel, bias, stride, padding, dilation, groups)


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
    if dims not in _CONVOLUTION or mixing.dim() != 3 or not 0 < len(filters) == mixing.shape[1]:
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
        return _CONVOLUTION[dims](input, kernel, None, stride, padding, dilation, channels)

    pointwise = mixing.flatten(1).unflatten(1, (-1, *(1,) * dims))
    return _CONVOLUTION[dims](torch.cat([filtered_by(each) for each in filters], dim=-1 - dims), pointwise, bias)


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
    responses = _CONVOLUTION[dims](alone, filters.unsqueeze(1), None, stride, padding, dilation)
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
    if dims not in _TRANSPOSED:
        raise ValueError(f"a kernel needs shape (I, O/groups, *k) with 1 to 3 axes in k, got {tuple(kernel.shape)}")
    return _TRANSPOSED[dims](input, kernel, bias, stride, padding, output_padding, groups, dilation)


def convolution_per_sample(
    input: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    backend: Backend = "grouped",
) -> Tensor:
    """Convolve every sample with a kernel of its own.

    Args:
        input: ``(B, I, *S)``.
        kernels: ``(B, O, I/groups, *k)``.
        bias: ``(O,)``, ``(B, O)`` or None.
        backend: ``grouped``: one convolution with a group a sample; ``unfold``: patches times kernels, one batched
            product; ``loop``: sample after sample. The first was the fastest at every size that
            ``benchmarks/per_sample.py`` measured on a CPU, none of which had kernels of one tap.

    Returns:
        ``(B, O, *S')``.

    Raises:
        ValueError: shapes that do not fit together, or an unknown backend; the message names them.

    >>> convolution_per_sample(torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 3, 5, 5), padding="same").shape
    torch.Size([2, 4, 8, 8])
    """
    dims = _check_per_sample(input, kernels, bias, groups, input_axis=2)
    kernel_size = kernels.shape[3:]
    stride, dilation = per_axis(stride, dims), per_axis(dilation, dims)
    input, padding = _padded(input, kernel_size, padding, dilation, stride)
    run = _choose(_CONVOLUTION_BACKENDS, backend)
    if input.shape[0] == 0:
        none = _CONVOLUTION[dims](input, kernels.new_zeros(kernels.shape[1:]), None, stride, padding, dilation, groups)
        return _add_bias(none, bias)
    return _add_bias(run(input, kernels, stride, padding, dilation, groups), bias)


def transposed_convolution_per_sample(
    input: Tensor,
    kernels: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Transposed convolution of every sample with a kernel of its own.

    Args:
        input: ``(B, I, *S)``.
        kernels: ``(B, I, O/groups, *k)``.
        bias: ``(O,)``, ``(B, O)`` or None.

    Returns:
        ``(B, O, *S')``.

    Raises:
        ValueError: shapes that do not fit together; the message names them.

    >>> transposed_convolution_per_sample(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5, 2, 2), stride=2).shape
    torch.Size([2, 5, 8, 8])
    """
    dims = _check_per_sample(input, kernels, None, 1, input_axis=1)
    batch, channels = input.shape[:2]
    if channels % groups:
        raise ValueError(f"groups {groups} do not divide {channels} input channels")
    _check_bias(bias, batch, kernels.shape[2] * groups)
    if batch == 0:
        empty = kernels.new_zeros(kernels.shape[1:])
        settings = (stride, padding, output_padding, groups, dilation)
        return _add_bias(transposed_convolution(input, empty, None, *settings), bias)
    output = _TRANSPOSED[dims](
        input.contiguous().view(1, batch * channels, *input.shape[2:]),
        kernels.flatten(0, 1),
        None,
        stride,
        padding,
        output_padding,
        batch * groups,
        dilation,
    )
    return _add_bias(output.unflatten(1, (batch, kernels.shape[2] * groups)).squeeze(0), bias)


def contracted_convolution(
    input: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve every sample b with ``sum_j coefficients[b, j] basis[j]`` without ever building that kernel.

    All samples are convolved with all of the basis, and the results mixed.

    Args:
        input: ``(B, I, *S)``.
        coefficients: ``(B, J)``.
        basis: ``(J, O, I/groups, *k)``.
        bias: ``(O,)``, ``(B, O)`` or None.

    Returns:
        ``(B, O, *S')``, equal to `convolution_per_sample` with the kernels built.

    Raises:
        ValueError: shapes that do not fit together.

    >>> contracted_convolution(torch.zeros(2, 3, 8, 8), torch.zeros(2, 4), torch.zeros(4, 5, 3, 3, 3)).shape
    torch.Size([2, 5, 6, 6])
    """
    _check_factors(input, coefficients, basis, groups, input_axis=2)
    _check_bias(bias, input.shape[0], basis.shape[1])
    # the channels of a group must stay together: (groups, J, O / groups)
    grouped = basis.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    everything = convolution(input, grouped, None, stride, padding, dilation, groups)
    return _add_bias(_mixed(everything, coefficients, groups), bias)


def contracted_transposed_convolution(
    input: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """`contracted_convolution`, transposed.

    Args:
        input: ``(B, I, *S)``.
        coefficients: ``(B, J)``.
        basis: ``(J, I, O/groups, *k)``.
        bias: ``(O,)``, ``(B, O)`` or None.

    Returns:
        ``(B, O, *S')``, equal to `transposed_convolution_per_sample` with the kernels built.

    Raises:
        ValueError: shapes that do not fit together.

    >>> contracted_transposed_convolution(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), torch.zeros(4, 3, 5, 2, 2)).shape
    torch.Size([2, 5, 5, 5])
    """
    _check_factors(input, coefficients, basis, groups, input_axis=1)
    _check_bias(bias, input.shape[0], basis.shape[2] * groups)
    # (I, J O/groups, *k)
    joined = basis.transpose(0, 1).flatten(1, 2)
    everything = transposed_convolution(input, joined, None, stride, padding, output_padding, groups, dilation)
    return _add_bias(_mixed(everything, coefficients, groups), bias)


def _mixed(everything: Tensor, coefficients: Tensor, groups: int) -> Tensor:
    """Results ``(B, groups J O/groups, *S)`` of all the basis to ``(B, O, *S)``."""
    everything = everything.unflatten(1, (groups, coefficients.shape[1], -1))
    return torch.einsum("bj,bgjo...->bgo...", coefficients, everything).flatten(1, 2)


def linear_per_sample(
    input: Tensor, weights: Tensor, bias: Tensor | None = None, *, backend: LinearBackend = "bmm"
) -> Tensor:
    """Apply to every sample a linear map of its own.

    Args:
        input: ``(B, *, I)``.
        weights: ``(B, O, I)``.
        bias: ``(O,)``, ``(B, O)`` or None.
        backend: ``bmm``: one batched product; ``grouped``: one convolution of one tap with a group a sample;
            ``loop``: sample after sample. The first was the fastest at every size that
            ``benchmarks/per_sample.py`` measured on a CPU.

    Returns:
        ``(B, *, O)``.

    Raises:
        ValueError: shapes that do not fit together, or an unknown backend.

    >>> linear_per_sample(torch.zeros(2, 3), torch.zeros(2, 4, 3)).shape
    torch.Size([2, 4])
    """
    if input.dim() < 2 or weights.dim() != 3 or weights.shape[::2] != (input.shape[0], input.shape[-1]):
        raise ValueError(
            f"weights need shape (B, O, I) for an input (B, *, I); got {tuple(weights.shape)} for {tuple(input.shape)}"
        )
    _check_bias(bias, input.shape[0], weights.shape[1])
    run = _choose(_LINEAR_BACKENDS, backend)
    if 0 in input.shape[:-1]:
        run = _linear_bmm
    output = run(input.flatten(1, -2) if input.dim() > 2 else input.unsqueeze(1), weights)
    return _add_bias_last(output.reshape(*input.shape[:-1], weights.shape[1]), bias)


def contracted_linear(input: Tensor, coefficients: Tensor, basis: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply to every sample b the map ``sum_j coefficients[b, j] basis[j]`` without ever building it.

    Args:
        input: ``(B, *, I)``.
        coefficients: ``(B, J)``.
        basis: ``(J, O, I)``.
        bias: ``(O,)``, ``(B, O)`` or None.

    Returns:
        ``(B, *, O)``, equal to `linear_per_sample` with the weights built.

    Raises:
        ValueError: shapes that do not fit together.

    >>> contracted_linear(torch.zeros(2, 3), torch.zeros(2, 5), torch.zeros(5, 4, 3)).shape
    torch.Size([2, 4])
    """
    if basis.dim() != 3 or basis.shape[2] != input.shape[-1]:
        raise ValueError(f"a basis (J, O, I) of {tuple(basis.shape)} does not fit an input {tuple(input.shape)}")
    if coefficients.shape != (input.shape[0], len(basis)):
        raise ValueError(
            f"{input.shape[0]} samples and {len(basis)} maps need coefficients of that shape, got "
            f"{tuple(coefficients.shape)}"
        )
    _check_bias(bias, input.shape[0], basis.shape[1])
    everything = F.linear(input, basis.flatten(0, 1)).unflatten(-1, basis.shape[:2])
    return _add_bias_last(torch.einsum("bj,b...jo->b...o", coefficients, everything), bias)


def product_convolution(
    input: Tensor,
    left: Tensor,
    right: Tensor,
    start: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    backend: Backend = "grouped",
) -> Tensor:
    """Convolve with ``start + left right``, or a product a sample, without ever building that kernel.

    The input is convolved with ``right``, and ``left`` mixes the results.

    Args:
        input: ``(B, I, *S)``.
        left: ``(O, r)`` or ``(B, O, r)``.
        right: ``(r, I/groups, *k)`` or ``(B, r, I/groups, *k)``.
        start: ``(O, I/groups, *k)``, or None for zero.
        bias: ``(O,)``, ``(B, O)`` or None.
        backend: as in `convolution_per_sample`.

    Returns:
        ``(B, O, *S')``, equal to `convolution` or `convolution_per_sample` with the kernels built.

    Raises:
        ValueError: shapes that do not fit together.

    >>> left, right = torch.zeros(2, 5, 1), torch.zeros(2, 1, 3, 3, 3)
    >>> product_convolution(torch.zeros(2, 3, 8, 8), left, right, torch.zeros(5, 3, 3, 3)).shape
    torch.Size([2, 5, 6, 6])
    """
    _check_product(left, right, start)
    _check_bias(bias, input.shape[0], left.shape[-2])
    run = convolution if left.dim() == 2 else partial(convolution_per_sample, backend=backend)
    thin = run(input, _for_each_group(right, left, groups), None, stride, padding, dilation, groups)
    change = _mixed_in_groups(left.unflatten(-2, (groups, -1)), thin)
    if start is None:
        return _add_bias(change, bias)
    of_all, of_each = _shared_first(bias)
    return _add_bias(convolution(input, start, of_all, stride, padding, dilation, groups) + change, of_each)


def product_transposed_convolution(
    input: Tensor,
    left: Tensor,
    right: Tensor,
    start: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """`product_convolution`, transposed: ``left`` mixes the input, which is convolved with ``right``.

    Args:
        input: ``(B, I, *S)``.
        left: ``(I, r)`` or ``(B, I, r)``.
        right: ``(r, O/groups, *k)`` or ``(B, r, O/groups, *k)``.
        start: ``(I, O/groups, *k)``, or None for zero.
        bias: ``(O,)``, ``(B, O)`` or None.

    Returns:
        ``(B, O, *S')``, equal to `transposed_convolution` or its way a sample with the kernels built.

    Raises:
        ValueError: shapes that do not fit together.

    >>> left, right = torch.zeros(2, 3, 1), torch.zeros(2, 1, 5, 2, 2)
    >>> product_transposed_convolution(torch.zeros(2, 3, 4, 4), left, right).shape
    torch.Size([2, 5, 5, 5])
    """
    _check_product(left, right, start)
    _check_bias(bias, input.shape[0], right.shape[left.dim() - 1] * groups)
    settings: Any = (stride, padding, output_padding, groups, dilation)
    run = transposed_convolution if left.dim() == 2 else transposed_convolution_per_sample
    thin = _mixed_in_groups(left.unflatten(-2, (groups, -1)).mT, input)
    change = run(thin, _for_each_group(right, left, groups), None, *settings)
    if start is None:
        return _add_bias(change, bias)
    of_all, of_each = _shared_first(bias)
    return _add_bias(transposed_convolution(input, start, of_all, *settings) + change, of_each)


def product_linear(
    input: Tensor, left: Tensor, right: Tensor, start: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Apply ``start + left right``, or a product a sample, without ever building that map.

    Args:
        input: ``(*, I)``, or ``(B, *, I)`` with a product a sample.
        left: ``(O, r)`` or ``(B, O, r)``.
        right: ``(r, I)`` or ``(B, r, I)``.
        start: ``(O, I)``, or None for zero.
        bias: ``(O,)``, ``(B, O)`` or None.

    Returns:
        ``(*, O)`` or ``(B, *, O)``, equal to ``F.linear`` or `linear_per_sample` with the weights built.

    Raises:
        ValueError: shapes that do not fit together.

    >>> product_linear(torch.zeros(2, 7, 3), torch.zeros(2, 4, 1), torch.zeros(2, 1, 3)).shape
    torch.Size([2, 7, 4])
    """
    _check_product(left, right, start)
    run = F.linear if left.dim() == 2 else linear_per_sample
    change = run(run(input, right), left)
    if start is None:
        return _add_bias_last(change, bias)
    of_all, of_each = _shared_first(bias)
    return _add_bias_last(F.linear(input, start, of_all) + change, of_each)


def _shared_first(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What torch's own operator adds, so that a change of zero changes no rounding, and what is left to add."""
    return (bias, None) if bias is None or bias.dim() == 1 else (None, bias)


def _for_each_group(right: Tensor, left: Tensor, groups: int) -> Tensor:
    return right if groups == 1 else torch.cat([right] * groups, dim=left.dim() - 2)


def _mixed_in_groups(matrices: Tensor, channels: Tensor) -> Tensor:
    """``(groups, O/groups, I/groups)``, or such matrices a sample, times ``(B, I, *S)``."""
    columns = channels.unflatten(1, (matrices.shape[-3], -1)).flatten(3)
    return (matrices @ columns).flatten(1, 2).unflatten(-1, channels.shape[2:])


def local_filter(input: Tensor, filters: Tensor, kernel_size: Sizes, stride: Sizes = 1, dilation: Sizes = 1) -> Tensor:
    """Filter with another filter at every position (De Brabandere et al., NIPS 2016, arXiv 1605.09673).

    ``y(p) = sum_q filters_q(p) x(stride p + dilation q)``, q running over the taps around 0, zero beyond the edges; an
    even number of them has one more after 0 than before it, as with padding ``same`` of a convolution.

    With filters for several groups of channels, that is involution (Li et al., CVPR 2021, arXiv 2103.06255); if the
    input is also one that was enlarged s times by nearest neighbours, and s the dilation, CARAFE (Wang et al., ICCV
    2019, arXiv 1905.02188).

    Args:
        input: ``(B, C, *S)``, one to three axes in S.
        filters: ``(B, G K, *S')``, ``S' = ceil(S / stride)``: the K taps, the last axis varying fastest, for the first
            of G groups of channels, then for the next one. Where G is 1, all channels share them.
        kernel_size: numbers whose product is K.

    Returns:
        ``(B, C, *S')``, of the wider of the two types.

    Raises:
        ValueError: shapes that do not fit together.

    >>> local_filter(torch.ones(1, 1, 4, 4), torch.ones(1, 9, 4, 4), 3)[0, 0, 0]
    tensor([4., 6., 6., 4.])
    >>> local_filter(torch.ones(1, 8, 6), torch.ones(1, 2 * 3, 3), 3, stride=2).shape
    torch.Size([1, 8, 3])
    """
    if input.dim() - 2 not in _CONVOLUTION or filters.dim() != input.dim():
        raise ValueError(
            "local filters need an input (B, C, *S) and filters (B, G K, *S') with 1 to 3 axes in S, got "
            f"{tuple(input.shape)} and {tuple(filters.shape)}"
        )
    batch, channels, *sizes = input.shape
    kernel, strides, dilations = (per_axis(each, len(sizes)) for each in (kernel_size, stride, dilation))
    if min(*kernel, *strides, *dilations) < 1:
        raise ValueError(f"kernel size, stride and dilation must be 1 or more, got {kernel}, {strides} and {dilations}")
    taps, places = math.prod(kernel), [-(-size // step) for size, step in zip(sizes, strides, strict=True)]
    groups = max(1, filters.shape[1] // taps)
    if filters.shape != (batch, groups * taps, *places) or channels % groups:
        raise ValueError(
            f"an input {tuple(input.shape)} and taps {'x'.join(map(str, kernel))} need filters "
            f"{(batch, taps, *places)}, or that for each of several groups that divide {channels} channels, got "
            f"{tuple(filters.shape)}"
        )
    reaches = [each * (size - 1) for each, size in zip(dilations, kernel, strict=True)]
    padded = F.pad(input, [edge for reach in reversed(reaches) for edge in (reach // 2, reach - reach // 2)])
    steps = [range(0, each * size, each) for each, size in zip(dilations, kernel, strict=True)]
    windows = [
        (..., *(slice(at, at + step * count, step) for at, step, count in zip(tap, strides, places, strict=True)))
        for tap in itertools.product(*steps)
    ]
    output = _LocalFilter.apply(
        _OUTPUT,
        padded.reshape(batch * groups, channels // groups, *padded.shape[2:]),
        filters.reshape(batch * groups, taps, *places),
        padded.shape[2:],
        windows,
    )
    return output.reshape(batch, channels, *places)


_INPUT, _FILTERS, _OUTPUT = range(3)


class _LocalFilter(torch.autograd.Function):
    """Derivative of ``sum_pq input(p + q) filters_q(p) output(p)`` by one of the three, which the other two give.

    By the output, that is the filtered input. Each is linear in both that give it, so that its own derivatives are of
    the same three kinds. Tap after tap, so that the input's K shifted copies never exist together.
    """

    @staticmethod
    def forward(by: int, first: Tensor, second: Tensor, sizes: Sequence[int], windows: Sequence[Any]) -> Tensor:
        dtype = torch.promote_types(first.dtype, second.dtype)
        if by == _INPUT:
            filters, output = first, second
            input = output.new_zeros((*output.shape[:2], *sizes), dtype=dtype)
            for window, tap in zip(windows, filters.split(1, dim=1), strict=True):
                input[window].addcmul_(output, tap)
            return input
        if by == _FILTERS:
            input, output = first, second
            filters = output.new_empty((output.shape[0], len(windows), *output.shape[2:]), dtype=dtype)
            for number, window in enumerate(windows):
                filters[:, number] = (input[window] * output).sum(dim=1)
            return filters
        input, filters = first, second
        output = input.new_zeros((*input.shape[:2], *filters.shape[2:]), dtype=dtype)
        for window, tap in zip(windows, filters.split(1, dim=1), strict=True):
            output.addcmul_(input[window], tap)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.by, first, second, *ctx.geometry = inputs
        ctx.save_for_backward(first, second)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        all_three = list(ctx.saved_tensors)
        all_three.insert(ctx.by, grad)

        def derivative(by: int) -> Tensor:
            return _LocalFilter.apply(by, *all_three[:by], *all_three[by + 1 :], *ctx.geometry)

        others = [by for by in (_INPUT, _FILTERS, _OUTPUT) if by != ctx.by]
        needed = zip(others, ctx.needs_input_grad[1:3], strict=True)
        return None, *(derivative(by) if is_needed else None for by, is_needed in needed), None, None

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], by: int, *given: Any) -> tuple[Tensor, int]:
        """A mapped axis is joined with that of the samples."""
        *tensors, sizes, windows = given
        first, second = (
            (each.expand(info.batch_size, *each.shape) if axis is None else each.movedim(axis, 0)).flatten(0, 1)
            for each, axis in zip(tensors, axes[1:3], strict=True)
        )
        output = _LocalFilter.apply(by, first, second, sizes, windows)
        return output.unflatten(0, (info.batch_size, -1)), 0


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


def _check_per_sample(input: Tensor, kernels: Tensor, bias: Tensor | None, groups: int, input_axis: int) -> int:
    dims = kernels.dim() - 3
    if dims not in _CONVOLUTION or input.dim() != dims + 2:
        raise ValueError(
            f"a kernel a sample needs kernels (B, O, I/groups, *k) with 1 to 3 axes in k and an input (B, I, *S), got "
            f"{tuple(kernels.shape)} and {tuple(input.shape)}"
        )
    if kernels.shape[0] != input.shape[0]:
        raise ValueError(f"{kernels.shape[0]} kernels for {input.shape[0]} samples")
    if kernels.shape[input_axis] * groups != input.shape[1]:
        raise ValueError(
            f"kernels for {kernels.shape[input_axis] * groups} input channels "
            f"({groups} groups) but an input of {input.shape[1]}"
        )
    if input_axis == 2 and kernels.shape[1] % groups:
        raise ValueError(f"groups {groups} do not divide {kernels.shape[1]} output channels")
    _check_bias(bias, input.shape[0], kernels.shape[1])
    return dims


def _check_bias(bias: Tensor | None, batch: int, outputs: int) -> None:
    if bias is not None and bias.shape != ((outputs,) if bias.dim() == 1 else (batch, outputs)):
        raise ValueError(f"a bias of shape {tuple(bias.shape)} for {batch} samples and {outputs} output channels")


def _check_factors(input: Tensor, coefficients: Tensor, basis: Tensor, groups: int, input_axis: int) -> None:
    dims = basis.dim() - 3
    if dims not in _CONVOLUTION or input.dim() != dims + 2:
        axes = "O, I/groups" if input_axis == 2 else "I, O/groups"
        raise ValueError(
            f"a basis needs shape (J, {axes}, *k) and an input (B, I, *S), got {tuple(basis.shape)} and "
            f"{tuple(input.shape)}"
        )
    inputs = basis.shape[1] if input_axis == 1 else basis.shape[2] * groups
    if inputs != input.shape[1] or basis.shape[1] % groups:
        raise ValueError(f"a basis {tuple(basis.shape)} in {groups} groups does not fit an input {tuple(input.shape)}")
    if coefficients.shape != (input.shape[0], len(basis)):
        raise ValueError(
            f"{input.shape[0]} samples and {len(basis)} kernels need coefficients of that shape, got "
            f"{tuple(coefficients.shape)}"
        )


def _check_product(left: Tensor, right: Tensor, start: Tensor | None) -> None:
    rank_axis = left.dim() - 1
    fits = rank_axis in (1, 2) and left.shape[:-2] == right.shape[: rank_axis - 1]
    if not fits or right.shape[rank_axis - 1 : rank_axis] != left.shape[-1:]:
        raise ValueError(f"factors {tuple(left.shape)} and {tuple(right.shape)} are none of a kernel, or one a sample")
    shape = (left.shape[-2], *right.shape[rank_axis:])
    if start is not None and start.shape != shape:
        raise ValueError(f"a kernel {tuple(start.shape)} to start at, but the product is {shape}")


def _padded(
    input: Tensor, kernel_size: Sequence[int], padding: str | Sizes, dilation: Sequence[int], stride: Sequence[int]
) -> tuple[Tensor, tuple[int, ...]]:
    """The input with what the convolutions cannot pad themselves, and the padding that is left to them."""
    dims = len(kernel_size)
    if not isinstance(padding, str):
        return input, per_axis(padding, dims)
    if padding == "valid":
        return input, (0,) * dims
    if padding != "same":
        raise ValueError(f"padding must be a number, 'same' or 'valid'; got {padding!r}")
    if set(stride) != {1}:
        raise ValueError(f"padding 'same' needs stride 1, got {tuple(stride)}")
    totals = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    # an odd total: torch pads one more at the end
    extra = [edge for total in reversed(totals) for edge in (0, total % 2)]
    return (F.pad(input, extra) if any(extra) else input), tuple(total // 2 for total in totals)


def _grouped(input: Tensor, kernels: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    batch, channels = input.shape[:2]
    # with a single sample, an image that lies channels last stays so, which torch's grouped weight gradient misreads
    joined = input.contiguous().view(1, batch * channels, *input.shape[2:])
    run = _CONVOLUTION[input.dim() - 2]
    output = run(joined, kernels.flatten(0, 1), None, stride, padding, dilation, batch * groups)
    return output.unflatten(1, (batch, kernels.shape[1])).squeeze(0)


def _loop(input: Tensor, kernels: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    run = _CONVOLUTION[input.dim() - 2]
    samples = zip(input.split(1), kernels, strict=True)
    return torch.cat([run(sample, kernel, None, stride, padding, dilation, groups) for sample, kernel in samples])


def _unfold(input: Tensor, kernels: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    dims = input.dim() - 2
    edges = [edge for amount in reversed(padding) for edge in (amount, amount)]
    patches = F.pad(input, edges) if any(edges) else input
    for axis, size in enumerate(kernels.shape[3:]):
        reach = dilation[axis] * (size - 1) + 1
        if patches.shape[2 + axis] < reach:
            raise ValueError(f"a kernel that reaches over {reach} does not fit {patches.shape[2 + axis]} padded pixels")
        if reach == stride[axis] == 1:
            patches = patches.unsqueeze(-1)  # as unfold would, but for the zeros that its gradient is added to
        else:
            patches = patches.unfold(2 + axis, reach, stride[axis])[..., :: dilation[axis]]
    # (B, I, *S', *k) to (B, groups, I/groups * taps, positions)
    places = patches.shape[2 : 2 + dims]
    taps_first = [0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims)]
    columns = patches.permute(taps_first).reshape(input.shape[0] * groups, -1, math.prod(places))
    rows = kernels.reshape(input.shape[0] * groups, kernels.shape[1] // groups, -1)
    return torch.bmm(rows, columns).view(input.shape[0], kernels.shape[1], *places)


def _linear_grouped(rows: Tensor, weights: Tensor) -> Tensor:
    joined = rows.mT.reshape(1, -1, rows.shape[1])
    output = F.conv1d(joined, weights.flatten(0, 1).unsqueeze(-1), groups=rows.shape[0])
    return output.unflatten(1, weights.shape[:2]).squeeze(0).mT


def _linear_bmm(rows: Tensor, weights: Tensor) -> Tensor:
    # in this order the weights' gradients come out in the weights' own layout
    return torch.bmm(weights, rows.mT).mT


def _linear_loop(rows: Tensor, weights: Tensor) -> Tensor:
    return torch.stack([F.linear(own, weight) for own, weight in zip(rows, weights, strict=True)])


_CONVOLUTION_BACKENDS = {"grouped": _grouped, "unfold": _unfold, "loop": _loop}
_LINEAR_BACKENDS = {"bmm": _linear_bmm, "grouped": _linear_grouped, "loop": _linear_loop}


def _choose(backends: dict[str, Callable[..., Tensor]], backend: str) -> Callable[..., Tensor]:
    if backend not in backends:
        raise ValueError(f"backend must be one of {', '.join(backends)}; got {backend!r}")
    return backends[backend]


def _add_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias ``(O,)`` or ``(B, O)`` to ``(B, O, *S)``."""
    if bias is None:
        return output
    return output + bias.to(output.dtype).reshape(*bias.shape, *(1,) * (output.dim() - 2))


def _add_bias_last(output: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias ``(O,)`` or ``(B, O)`` to ``(B, *, O)``."""
    if bias is None:
        return output
    each = bias if bias.dim() == 1 else bias.view(bias.shape[0], *(1,) * (output.dim() - 2), bias.shape[1])
    return output + each.to(output.dtype)
