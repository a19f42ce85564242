"""One filter a position."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coordinates import Sizes, per_axis
from .shared import CONVOLUTION

_INPUT, _FILTERS, _OUTPUT = range(3)


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
    if input.dim() - 2 not in CONVOLUTION or filters.dim() != input.dim():
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
