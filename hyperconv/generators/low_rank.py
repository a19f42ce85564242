"""Factors generated instead of the whole kernel."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import ContextCode, Generator, Init
from .dense import DenseGenerator, unit_contexts
from .forms import Product


class LowRankGenerator(Generator):
    """The kernel, read as a matrix of O rows, is a product of two thin matrices, which a dense layer generates.

    Args:
        kernel_shape: of two axes or more.
        context_dim: width of the context; None for a learned embedding instead.
        rank: columns of the first factor and rows of the second.
        embedding_dim: width of that embedding.
        hidden: widths of hidden layers (LeakyReLU 0.1) between context and factors.

    The parameters are ``(hidden[-1] + 1) rank (O + I/groups prod(k))``.

    >>> LowRankGenerator((8, 4, 3, 3), context_dim=5, rank=2)(torch.randn(5)).shape
    torch.Size([8, 4, 3, 3])
    """

    def __init__(
        self,
        kernel_shape: Sequence[int],
        context_dim: int | None = None,
        rank: int = 4,
        embedding_dim: int = 8,
        hidden: Sequence[int] = (),
        init: Init = "torch",
        encode_context: ContextCode = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(kernel_shape, context_dim, init, encode_context)
        if len(self.kernel_shape) < 2:
            raise ValueError(f"a kernel of shape {self.kernel_shape} has no low-rank form; it needs two axes or more")
        if rank < 1:
            raise ValueError(f"rank must be 1 or more, got {rank}")
        self.rank = rank
        rows, columns = self.kernel_shape[0], math.prod(self.kernel_shape[1:])
        self.sizes = (rows * rank, rank * columns)
        options: dict[str, Any] = {"hidden": hidden, "encode_context": encode_context, "device": device, "dtype": dtype}
        self.dense = DenseGenerator((sum(self.sizes),), context_dim, embedding_dim, **options)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters; kernels then have standard deviation ``kernel_std`` over contexts of unit variance."""
        self.dense.kernel_std = 1.0
        self.dense.reset_parameters()
        # a context's length scales both factors, and the kernel by its square: measure rather than assume
        contexts = None if self.context_dim is None else unit_contexts(self)
        left, right, _ = self.product(contexts)
        right = right.flatten(left.dim() - 1)
        # the squares of a product's numbers add up to the trace of its factors' Gram matrices, multiplied
        squares = ((left.mH @ left) * (right @ right.mH).mT).sum((-1, -2)).real.mean()
        self._right(self.dense.weight).mul_(self.kernel_std / (squares / math.prod(self.kernel_shape)).sqrt())

    def zero_output_(self) -> None:
        """The second factor becomes zero, the first stays, so that there is a gradient."""
        with torch.no_grad():
            self._right(self.dense.weight).zero_()
            self._right(self.dense.bias).zero_()

    def _right(self, of_dense: Tensor) -> Tensor:
        return of_dense[..., self.sizes[0] :]

    @property
    def product_rank(self) -> int | None:
        return self.rank

    def product(self, context: Tensor | None) -> Product:
        left, right = self.dense.generate(context).split(self.sizes, dim=-1)
        columns = self.rank, *self.kernel_shape[1:]
        return Product(left.unflatten(-1, (self.kernel_shape[0], self.rank)), right.unflatten(-1, columns))

    def generate(self, context: Tensor | None) -> Tensor:
        return self.product(context).build()
