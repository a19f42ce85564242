"""Convolution layers whose weight is computed instead of stored: ``torch.nn``'s signatures plus ``generator=``."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional import convolution
from .generators import CoordinateMLP

Sizes = int | Sequence[int]
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _HyperConv(nn.Module):
    """What the convolutions of every dimension share."""

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        generator: Callable[..., nn.Module] = CoordinateMLP,
    ) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels must be 1 or more, got {in_channels} in, {out_channels} out")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups {groups} do not divide {in_channels} input and {out_channels} output channels")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(_PADDING_MODES)}; got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._per_axis("kernel_size", kernel_size, at_least=1)
        self.stride = self._per_axis("stride", stride, at_least=1)
        self.dilation = self._per_axis("dilation", dilation, at_least=1)
        self.groups = groups
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding must be a number, 'same' or 'valid'; got {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError(f"padding 'same' needs stride 1, got {self.stride}")
            self.padding: str | tuple[int, ...] = padding
        else:
            self.padding = self._per_axis("padding", padding, at_least=0)
        kernel_shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.generator = generator(kernel_shape, device=device, dtype=dtype)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._reset_bias()

    def _per_axis(self, name: str, value: Sizes, at_least: int) -> tuple[int, ...]:
        values = (value,) * self.dims if isinstance(value, int) else tuple(value)
        if len(values) != self.dims or min(values) < at_least:
            raise ValueError(f"{name} must be {self.dims} numbers of {at_least} or more, got {value}")
        return values

    def reset_parameters(self) -> None:
        """Draw new parameters for generator and bias, at the scale of ``nn.Conv*d``'s."""
        self.generator.reset_parameters()
        self._reset_bias()

    def _reset_bias(self) -> None:
        if self.bias is not None:
            fan_in = self.in_channels // self.groups * torch.Size(self.kernel_size).numel()
            nn.init.uniform_(self.bias, -(fan_in**-0.5), fan_in**-0.5)

    @property
    def weight(self) -> Tensor:
        """The generated kernel, ``(O, I/groups, *k)``; computed anew at each access, differentiable."""
        return self.generator()

    def _edges(self) -> list[int]:
        """``F.pad``'s order (last axis first, before and after) for modes that the convolution itself cannot pad."""
        pads = []
        for axis in reversed(range(self.dims)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                pads += [total // 2, total - total // 2]
            else:
                pads += [0, 0] if self.padding == "valid" else [self.padding[axis]] * 2
        return pads

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        """Convolve ``(B, I, *S)`` or ``(I, *S)`` with the kernel generated from ``context``."""
        kernel = self.generator(context)
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._edges(), mode=self.padding_mode)
            padding = 0
        return convolution(input, kernel, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, padding_mode={self.padding_mode}"
        )


class HyperConv1d(_HyperConv):
    """``nn.Conv1d`` with a generated kernel; see `HyperConv2d`.

    >>> HyperConv1d(3, 8, 5, padding="same")(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 16])
    """

    dims = 1


class HyperConv2d(_HyperConv):
    """``nn.Conv2d`` with a generated kernel.

    Args:
        generator: given the kernel's shape ``(O, I/groups, *k)``, ``device`` and ``dtype``, returns the module whose
            output is the kernel: a generator class or a ``functools.partial`` of one, as torchvision's
            ``norm_layer``. All other arguments are those of ``nn.Conv2d``.

    Raises:
        ValueError: arguments that make no convolution; the message names the numbers.

    >>> layer = HyperConv2d(3, 8, 5, padding="same")
    >>> layer(torch.zeros(2, 3, 28, 28)).shape, layer.weight.shape
    (torch.Size([2, 8, 28, 28]), torch.Size([8, 3, 5, 5]))
    """

    dims = 2


class HyperConv3d(_HyperConv):
    """``nn.Conv3d`` with a generated kernel; see `HyperConv2d`.

    >>> HyperConv3d(1, 4, 3)(torch.zeros(2, 1, 8, 8, 8)).shape
    torch.Size([2, 4, 6, 6, 6])
    """

    dims = 3
