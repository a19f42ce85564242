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


class Product(NamedTuple):
    """A kernel, or one a sample, whose matrix of ``kernel_shape[0]`` rows is a product of two thin ones.

    Attributes:
        left: ``(kernel_shape[0], r)`` or ``(B, kernel_shape[0], r)``.
        right: ``(r, *kernel_shape[1:])`` or ``(B, r, *kernel_shape[1:])``.
        start: ``kernel_shape``, to which the product is added; None for nothing.
    """

    left: Tensor
    right: Tensor
    start: Tensor | None = None

    def build(self) -> Tensor:
        """The kernel, ``kernel_shape``, or one a sample."""
        columns = self.right.shape[self.left.dim() - 1 :]
        product = (self.left @ self.right.flatten(self.left.dim() - 1)).unflatten(-1, columns)
        return product if self.start is None else self.start + product


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
