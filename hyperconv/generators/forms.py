"""What a kernel can be made of, where an operator can apply that without building the kernel."""

from typing import NamedTuple

import torch
from torch import Tensor


class Mixture(NamedTuple):
    """A kernel a sample, each a mixture of the same J kernels.

    Attributes:
        coefficients: ``(B, J)``.
        basis: ``(J, *kernel_shape)``.
    """

    coefficients: Tensor
    basis: Tensor

    def build(self) -> Tensor:
        """The kernels, ``(B, *kernel_shape)``."""
        return torch.tensordot(self.coefficients, self.basis, dims=1)


class Filters(NamedTuple):
    """O I kernels, each a mixture of the same F filters.

    Attributes:
        filters: ``(F, *k)``.
        mixing: ``(O, F, I/groups)``.
    """

    filters: Tensor
    mixing: Tensor

    def build(self) -> Tensor:
        """The kernel, ``(O, I/groups, *k)``."""
        return torch.einsum("ofi,f...->oi...", self.mixing, self.filters)
