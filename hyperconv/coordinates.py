"""Where a kernel's taps lie: grids of kernel coordinates, in any number of dimensions."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Sizes = int | Sequence[int]


def per_axis(value: Sizes, axes: int) -> tuple[int, ...]:
    """One number for each axis, from these numbers or from the one that they all have."""
    return tuple(value) if isinstance(value, Iterable) else (value,) * axes


def kernel_grid(
    kernel_size: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Centred tap coordinates of a kernel, in units of taps (Ma et al. 2022, section 3.1).

    A size k gives the offsets -(k-1)/2 ... (k-1)/2: integers for odd k, half-integers for even k.

    Args:
        kernel_size: taps along each of the d axes.

    Returns:
        ``(P, d)``, P the number of taps, the last axis varying fastest; the columns are in the order of the
        axes (y, x in 2-D).

    Raises:
        ValueError: a size below 1.

    >>> kernel_grid((1, 3)).tolist()
    [[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    if not kernel_size or min(kernel_size) < 1:
        raise ValueError(f"kernel sizes must be 1 or more, got {tuple(kernel_size)}")
    axes = [torch.arange(k, device=device, dtype=dtype or torch.get_default_dtype()) - (k - 1) / 2 for k in kernel_size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
