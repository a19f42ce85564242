"""One kernel a sample."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coordinates import Sizes, per_axis
from .shared import CONVOLUTION, TRANSPOSED, transposed_convolution

Backend = Literal["grouped", "unfold", "loop"]
LinearBackend = Literal["bmm", "grouped", "loop"]


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
        none = CONVOLUTION[dims](input, kernels.new_zeros(kernels.shape[1:]), None, stride, padding, dilation, groups)
        return add_bias(none, bias)
    return add_bias(run(input, kernels, stride, padding, dilation, groups), bias)


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
    check_bias(bias, batch, kernels.shape[2] * groups)
    if batch == 0:
        empty = kernels.new_zeros(kernels.shape[1:])
        settings = (stride, padding, output_padding, groups, dilation)
        return add_bias(transposed_convolution(input, empty, None, *settings), bias)
    output = TRANSPOSED[dims](
        input.contiguous().view(1, batch * channels, *input.shape[2:]),
        kernels.flatten(0, 1),
        None,
        stride,
        padding,
        output_padding,
        batch * groups,
        dilation,
    )
    return add_bias(output.unflatten(1, (batch, kernels.shape[2] * groups)).squeeze(0), bias)


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
    check_bias(bias, input.shape[0], weights.shape[1])
    run = _choose(_LINEAR_BACKENDS, backend)
    if 0 in input.shape[:-1]:
        run = _linear_bmm
    output = run(input.flatten(1, -2) if input.dim() > 2 else input.unsqueeze(1), weights)
    return add_bias_last(output.reshape(*input.shape[:-1], weights.shape[1]), bias)


def _check_per_sample(input: Tensor, kernels: Tensor, bias: Tensor | None, groups: int, input_axis: int) -> int:
    dims = kernels.dim() - 3
    if dims not in CONVOLUTION or input.dim() != dims + 2:
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
    check_bias(bias, input.shape[0], kernels.shape[1])
    return dims


def check_bias(bias: Tensor | None, batch: int, outputs: int) -> None:
    if bias is not None and bias.shape != ((outputs,) if bias.dim() == 1 else (batch, outputs)):
        raise ValueError(f"a bias of shape {tuple(bias.shape)} for {batch} samples and {outputs} output channels")


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
    run = CONVOLUTION[input.dim() - 2]
    output = run(joined, kernels.flatten(0, 1), None, stride, padding, dilation, batch * groups)
    return output.unflatten(1, (batch, kernels.shape[1])).squeeze(0)


def _loop(input: Tensor, kernels: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    run = CONVOLUTION[input.dim() - 2]
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


def add_bias(output: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias ``(O,)`` or ``(B, O)`` to ``(B, O, *S)``."""
    if bias is None:
        return output
    return output + bias.to(output.dtype).reshape(*bias.shape, *(1,) * (output.dim() - 2))


def add_bias_last(output: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias ``(O,)`` or ``(B, O)`` to ``(B, *, O)``."""
    if bias is None:
        return output
    each = bias if bias.dim() == 1 else bias.view(bias.shape[0], *(1,) * (output.dim() - 2), bias.shape[1])
    return output + each.to(output.dtype)
