"""Kernel generators: context in, kernel out.

The contract that every generator keeps:

- it is built from the kernel's shape, ``(O, I/groups, *k)``, and ``forward(context=None)`` returns such a kernel;
- ``context_dim`` is the width of the context that it takes, None where it takes none;
- at initialisation its kernels have the standard deviation of ``nn.Conv*d``'s, ``1 / sqrt(3 fan_in)``;
- the kernel is the same in training and in evaluation, unless an option's description says otherwise;
- its state dict holds parameters only (again unless the option says otherwise).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .coordinates import kernel_grid

Norm = Literal["stateless", "batchnorm", "none"]
_VARIANCE_EPS = 1e-5


class CoordinateMLP(nn.Module):
    """A kernel as a function of its own coordinates (Ma et al., WACV 2022, arXiv 2105.10559).

    A trunk of small layers turns each tap's position into features, which all C_out x C_in kernels share; a linear
    head mixes them into one value a kernel. Every kernel is then standardised over its taps, and given a learned
    scale and mean, in units of the standard deviation that ``nn.Conv*d`` would start with.

    Args:
        kernel_shape: ``(O, I/groups, *k)``, any number of spatial axes.
        hidden: widths of the trunk's layers. The parameters are ``(hidden[-1] + 2) O I`` and the trunk's:
            with ``hidden[-1] + 2`` above the number of taps, more than the kernel itself has.
        negative_slope: of the LeakyReLU after each hidden layer.
        norm: how a kernel is standardised over its taps.
            ``stateless``: by its own mean and variance, always. With a single tap there is nothing to
            standardise, and it means ``none``.
            ``batchnorm``: by running statistics in evaluation, as the first release on MNIST did
            (github.com/mkarmann/hyper-conv): the kernels then differ between training and evaluation.
            ``none``: not at all, as in the paper.

    Raises:
        ValueError: a shape, width or norm that makes no generator.

    >>> CoordinateMLP((8, 4, 5, 5))().shape
    torch.Size([8, 4, 5, 5])
    """

    context_dim: int | None = None

    def __init__(
        self,
        kernel_shape: Sequence[int],
        hidden: Sequence[int] = (16, 16, 16),
        negative_slope: float = 0.1,
        norm: Norm = "stateless",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_shape = tuple(kernel_shape)
        if len(self.kernel_shape) < 3 or min(self.kernel_shape) < 1:
            raise ValueError(f"a kernel's shape is (O, I/groups, *k), all 1 or more; got {self.kernel_shape}")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden widths must be 1 or more, got {tuple(hidden)}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}; got {norm!r}")
        out_channels, in_channels, *kernel_size = self.kernel_shape
        taps = math.prod(kernel_size)
        if norm == "batchnorm" and taps == 1:
            raise ValueError("norm 'batchnorm' needs more than one tap to take statistics of; use 'stateless'")
        self.norm = "none" if taps == 1 else norm
        self.negative_slope = negative_slope
        self.kernel_std = 1 / math.sqrt(3 * in_channels * taps)

        factory = {"device": device, "dtype": dtype}
        self.register_buffer("grid", kernel_grid(kernel_size, **factory), persistent=False)
        widths = (len(kernel_size), *hidden)
        self.trunk = nn.Sequential()
        for inputs, outputs in pairwise(widths):
            self.trunk.append(nn.Linear(inputs, outputs, **factory))
            self.trunk.append(nn.LeakyReLU(negative_slope))
        # (O, features, I): its product with the features comes out as (O, taps, I), which is a kernel in
        # channels-last memory without a copy
        self.head = nn.Parameter(torch.empty(out_channels, hidden[-1], in_channels, **factory))
        self.scale = nn.Parameter(torch.empty(out_channels, 1, in_channels, **factory))
        self.mean = nn.Parameter(torch.empty(out_channels, 1, in_channels, **factory))
        if self.norm == "batchnorm":
            self.running_norm = nn.BatchNorm1d(out_channels * in_channels, affine=False, **factory)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters; kernels then have mean 0 and the standard deviation ``1 / sqrt(3 fan_in)``."""
        self.grid.copy_(kernel_grid(self.kernel_shape[2:]))
        for layer in self.trunk:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        # standardised kernels do not depend on the head's scale, but it sets how fast the head learns
        spread = self.head.shape[1] ** 0.5
        if self.norm == "none":
            spread = self.trunk(self.grid).square().sum(dim=1).mean().sqrt()
        nn.init.normal_(self.head).div_(spread)
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.mean)
        if self.norm == "batchnorm":
            self.running_norm.reset_running_stats()

    def forward(self, context: Tensor | None = None) -> Tensor:
        """The kernel, ``(O, I/groups, *k)``, channels last in memory.

        Raises:
            ValueError: a context, which this generator does not take.
        """
        if context is not None:
            raise ValueError(f"CoordinateMLP takes no context, got one of shape {tuple(context.shape)}")
        # a kernel is the network's weight: mixed precision may round it, but not what it is computed from
        with torch.autocast(self.grid.device.type, enabled=False):
            kernels = self.sample(self.grid)
        return kernels.unflatten(1, self.kernel_shape[2:]).movedim(-1, 1)

    def sample(self, positions: Tensor) -> Tensor:
        """The kernels as the continuous functions that they are.

        Args:
            positions: ``(P, d)``, in taps from the kernel's centre.

        Returns:
            ``(O, P, I)``. The statistics for standardising are those of the kernel's own taps, so that a position
            on a tap gives the tap's weight (with ``batchnorm`` in training mode: pass the taps themselves).
        """
        features = self.trunk(positions)
        if self.norm == "none":
            return torch.matmul(features, self.head * (self.scale * self.kernel_std)) + self.mean * self.kernel_std
        if self.norm == "batchnorm":
            raw = torch.matmul(features, self.head).transpose(0, 1)
            standardized = self.running_norm(raw.flatten(1)).view_as(raw).transpose(0, 1)
            return (standardized * self.scale + self.mean) * self.kernel_std
        at_taps = features if positions is self.grid else self.trunk(self.grid)
        centre = at_taps.mean(dim=0)
        return self._standardized(features - centre, at_taps - centre)

    def _standardized(self, features: Tensor, at_taps: Tensor) -> Tensor:
        """Kernels ``(O, P, I)`` from centred features ``(P, F)``, standardised over the taps.

        A kernel's variance over the taps is a quadratic form of its row of the head, so that the standardised head
        gives standardised kernels in one product, without a second pass over them.
        """
        per_kernel = (len(self.head), -1, -1)
        unit = self.kernel_std**2
        covariance = at_taps.T @ at_taps / (len(at_taps) * unit)
        variance = (torch.bmm(covariance.expand(per_kernel), self.head) * self.head).sum(dim=1, keepdim=True)
        gain = self.scale * (variance + _VARIANCE_EPS / unit).rsqrt()
        kernels = torch.bmm(features.expand(per_kernel), self.head * gain)
        return torch.add(kernels, self.mean, alpha=self.kernel_std)

    def extra_repr(self) -> str:
        return f"kernel_shape={self.kernel_shape}, norm={self.norm!r}"
