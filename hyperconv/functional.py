"""Kernel and input in, output out. No parameters live here."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# AVX-512 works on 16 floats at once, one a channel: with 8 channels or fewer, half of it would idle
_WIDE_VECTORS = torch.backends.cpu.get_cpu_capability() == "AVX512"
_NARROW = 8


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
    plain = _is(stride, 1) and _is(dilation, 1) and groups == 1 and bias is None
    # torch.compile fuses what lies around a convolution, and does that badly across the pairing
    if plain and _WIDE_VECTORS and not torch.compiler.is_compiling() and _pairing_pays(input, kernel, padding):
        return _convolution_of_column_pairs(input, kernel)
    return _CONVOLUTION[dims](input, kernel, bias, stride, padding, dilation, groups)


def _is(setting: int | Sequence[int], value: int) -> bool:
    return setting == value or (not isinstance(setting, int) and set(setting) == {value})


def _pairing_pays(input: Tensor, kernel: Tensor, padding: str | int | Sequence[int]) -> bool:
    return (
        padding == "same"
        and input.dim() == 4
        and input.device.type == "cpu"
        and max(kernel.shape[:2]) <= _NARROW
        and kernel.shape[2] % 2 == kernel.shape[3] % 2 == 1 < kernel.shape[3]
        and input.shape[3] % 2 == 0
        and input.shape[1] == kernel.shape[1] > 1
        and input.is_contiguous(memory_format=torch.channels_last)
    )


def _convolution_of_column_pairs(input: Tensor, kernel: Tensor) -> Tensor:
    """The same convolution on an image half as wide with twice the channels.

    Channels last, two neighbouring columns of C channels are one column of 2C without moving a number. The kernel
    of the paired image holds the original one twice, shifted by a column for the second column of an output pair.
    """
    batch, in_channels, height, width = input.shape
    out_channels, _, rows, columns = kernel.shape
    reach = (columns // 2 + 1) // 2
    taps = 2 * reach + 1
    left = 2 * reach - columns // 2
    right = 2 * taps - columns - left
    shifted = torch.stack([F.pad(kernel, (left + column, right - column)) for column in (0, 1)])
    paired_kernel = (
        shifted.unflatten(-1, (taps, 2))
        .permute(0, 1, 5, 2, 3, 4)
        .reshape(2 * out_channels, 2 * in_channels, rows, taps)
        .contiguous(memory_format=torch.channels_last)
    )
    pairs = input.permute(0, 2, 3, 1).reshape(batch, height, width // 2, 2 * in_channels).permute(0, 3, 1, 2)
    output = F.conv2d(pairs, paired_kernel, padding=(rows // 2, reach))
    return output.permute(0, 2, 3, 1).reshape(batch, height, width, out_channels).permute(0, 3, 1, 2)
