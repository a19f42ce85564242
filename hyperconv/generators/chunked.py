"""A small network that makes the kernel chunk by chunk."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .base import ContextCode, Generator, Init, decorrelation, leaky_relu, perceptron, reset_linear_layers
from .dense import unit_contexts

Norm = Literal["decorrelated", "none"]


class ChunkedGenerator(Generator):
    """One network for all chunks of the kernel; an embedding tells it which chunk to make.

    (von Oswald et al., ICLR 2020, arXiv 1906.00695.) The kernel is filled chunk after chunk and what is left of the
    last one is cut off, so that any shape is made exactly.

    Args:
        kernel_shape: any shape.
        context_dim: width of a context that all chunks are given beside their embeddings, or None.
        chunk_size: numbers in a chunk.
        embedding_dim: width of a chunk's embedding.
        hidden: widths of the network's hidden layers (LeakyReLU 0.1).
        norm: what is done to the features that chunks are mixed from. ``none``: nothing, as published;
            ``decorrelated``: they are centred and decorrelated over the chunks (with a single one, that means
            ``none``). The kernels that there are stay the same, but faint differences between chunks are learned about
            as fast as strong ones. Not with a context, of which it would drop what it says to all chunks alike.

    Raises:
        ValueError: a shape, width or option that makes no generator.

    The parameters are ``embedding_dim`` a chunk, and the network's, whatever the kernel's size.

    >>> ChunkedGenerator((8, 4, 3, 3), chunk_size=100)().shape
    torch.Size([8, 4, 3, 3])
    """

    def __init__(
        self,
        kernel_shape: Sequence[int],
        context_dim: int | None = None,
        chunk_size: int = 256,
        embedding_dim: int = 8,
        hidden: Sequence[int] = (16,),
        init: Init = "torch",
        encode_context: ContextCode = "none",
        norm: Norm = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(kernel_shape, context_dim, init, encode_context)
        if chunk_size < 1 or embedding_dim < 1:
            raise ValueError(f"chunk_size and embedding_dim must be 1 or more, got {chunk_size} and {embedding_dim}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}; got {norm!r}")
        if norm == "decorrelated" and context_dim is not None:
            raise ValueError("norm 'decorrelated' would drop what a context says to all chunks alike; use 'none'")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.numbers = math.prod(self.kernel_shape)
        chunk_size = min(chunk_size, self.numbers)
        chunks = -(-self.numbers // chunk_size)
        self.norm = "none" if chunks == 1 else norm
        widths = (embedding_dim + self.context_width, *hidden)
        self.embeddings = nn.Parameter(torch.empty(chunks, embedding_dim, **factory))
        self.trunk = perceptron(widths, leaky_relu, **factory)
        self.weight = nn.Parameter(torch.empty(widths[-1], chunk_size, **factory))
        self.bias = nn.Parameter(torch.empty(chunk_size, **factory))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters; kernels then have standard deviation ``kernel_std`` over contexts of unit variance."""
        nn.init.normal_(self.embeddings)
        reset_linear_layers(self.trunk)
        contexts = None if self.context_dim is None else unit_contexts(self)
        energy = self._features(contexts).square().sum(dim=-1).mean().sqrt()
        nn.init.normal_(self.weight).mul_(self.kernel_std / energy)
        nn.init.zeros_(self.bias)

    def zero_output_(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def _features(self, context: Tensor | None) -> Tensor:
        """``(chunks, F)`` or ``(B, chunks, F)``."""
        inputs: Tensor = self.embeddings
        if context is not None:
            chunks = len(inputs)
            inputs = inputs.expand(*context.shape[:-1], -1, -1)
            inputs = torch.cat([inputs, context.unsqueeze(-2).expand(*context.shape[:-1], chunks, -1)], dim=-1)
        features = self.trunk(inputs)
        if self.norm == "none":
            return features
        centred = features - features.mean(dim=0)
        return centred @ decorrelation(centred)

    def generate(self, context: Tensor | None) -> Tensor:
        chunks = self._features(context) @ self.weight + self.bias
        return chunks.flatten(-2)[..., : self.numbers].unflatten(-1, self.kernel_shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, norm={self.norm!r}"
