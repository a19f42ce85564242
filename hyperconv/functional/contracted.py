"""Kernels that are mixtures of a few, without being built."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..coordinates import Sizes
from .per_sample import add_bias, add_bias_last, check_bias
from .shared import CONVOLUTION, convolution, transposed_convolution


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
    check_bias(bias, input.shape[0], basis.shape[1])
    # the channels of a group must stay together: (groups, J, O / groups)
    grouped = basis.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
    everything = convolution(input, grouped, None, stride, padding, dilation, groups)
    return add_bias(_mixed(everything, coefficients, groups), bias)


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
    check_bias(bias, input.shape[0], basis.shape[2] * groups)
    # (I, J O/groups, *k)
    joined = basis.transpose(0, 1).flatten(1, 2)
    everything = transposed_convolution(input, joined, None, stride, padding, output_padding, groups, dilation)
    return add_bias(_mixed(everything, coefficients, groups), bias)


def _mixed(everything: Tensor, coefficients: Tensor, groups: int) -> Tensor:
    """Results ``(B, groups J O/groups, *S)`` of all the basis to ``(B, O, *S)``."""
    everything = everything.unflatten(1, (groups, coefficients.shape[1], -1))
    return torch.einsum("bj,bgjo...->bgo...", coefficients, everything).flatten(1, 2)


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
    check_bias(bias, input.shape[0], basis.shape[1])
    everything = F.linear(input, basis.flatten(0, 1)).unflatten(-1, basis.shape[:2])
    return add_bias_last(torch.einsum("bj,b...jo->b...o", coefficients, everything), bias)


def _check_factors(input: Tensor, coefficients: Tensor, basis: Tensor, groups: int, input_axis: int) -> None:
    dims = basis.dim() - 3
    if dims not in CONVOLUTION or input.dim() != dims + 2:
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
