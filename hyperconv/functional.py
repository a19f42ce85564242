"""Kernel and input in, output out. No parameters live here."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def convolution(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
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
        ValueError: a kernel of another rank.

    >>> import torch
    >>> convolution(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 5, 5), padding="same").shape
    torch.Size([2, 4, 8, 8])
    """
    dims = kernel.dim() - 2
    if dims not in _CONVOLUTION:
        raise ValueError(f"a kernel needs shape (O, I/groups, *k) with 1 to 3 axes in k, got {tuple(kernel.shape)}")
    return _CONVOLUTION[dims](input, kernel, bias, stride, padding, dilation, groups)
