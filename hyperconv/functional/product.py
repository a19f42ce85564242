"""Kernels that are products of two thin factors, without being built."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coordinates import Sizes
from .per_sample import (
    Backend,
    add_bias,
    add_bias_last,
    check_bias,
    convolution_per_sample,
    linear_per_sample,
    transposed_convolution_per_sample,
)
from .shared import convolution, transposed_convolution


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
    check_bias(bias, input.shape[0], left.shape[-2])
    run = convolution if left.dim() == 2 else partial(convolution_per_sample, backend=backend)
    thin = run(input, _for_each_group(right, left, groups), None, stride, padding, dilation, groups)
    change = _mixed_in_groups(left.unflatten(-2, (groups, -1)), thin)
    if start is None:
        return add_bias(change, bias)
    of_all, of_each = _shared_first(bias)
    return add_bias(convolution(input, start, of_all, stride, padding, dilation, groups) + change, of_each)


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
    check_bias(bias, input.shape[0], right.shape[left.dim() - 1] * groups)
    settings: Any = (stride, padding, output_padding, groups, dilation)
    run = transposed_convolution if left.dim() == 2 else transposed_convolution_per_sample
    thin = _mixed_in_groups(left.unflatten(-2, (groups, -1)).mT, input)
    change = run(thin, _for_each_group(right, left, groups), None, *settings)
    if start is None:
        return add_bias(change, bias)
    of_all, of_each = _shared_first(bias)
    return add_bias(transposed_convolution(input, start, of_all, *settings) + change, of_each)


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
        return add_bias_last(change, bias)
    of_all, of_each = _shared_first(bias)
    return add_bias_last(F.linear(input, start, of_all) + change, of_each)


def _shared_first(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What torch's own operator adds, so that a change of zero changes no rounding, and what is left to add."""
    return (bias, None) if bias is None or bias.dim() == 1 else (None, bias)


def _for_each_group(right: Tensor, left: Tensor, groups: int) -> Tensor:
    return right if groups == 1 else torch.cat([right] * groups, dim=left.dim() - 2)


def _mixed_in_groups(matrices: Tensor, channels: Tensor) -> Tensor:
    """``(groups, O/groups, I/groups)``, or such matrices a sample, times ``(B, I, *S)``."""
    columns = channels.unflatten(1, (matrices.shape[-3], -1)).flatten(3)
    return (matrices @ columns).flatten(1, 2).unflatten(-1, channels.shape[2:])


def _check_product(left: Tensor, right: Tensor, start: Tensor | None) -> None:
    rank_axis = left.dim() - 1
    fits = rank_axis in (1, 2) and left.shape[:-2] == right.shape[: rank_axis - 1]
    if not fits or right.shape[rank_axis - 1 : rank_axis] != left.shape[-1:]:
        raise ValueError(f"factors {tuple(left.shape)} and {tuple(right.shape)} are none of a kernel, or one a sample")
    shape = (left.shape[-2], *right.shape[rank_axis:])
    if start is not None and start.shape != shape:
        raise ValueError(f"a kernel {tuple(start.shape)} to start at, but the product is {shape}")
