"""A layer's embedding, and a network that makes kernels of embeddings, for one layer or for many."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Generator, Init


class TileNetwork(nn.Module):
    """The static hypernetwork (Ha, Dai, Le, ICLR 2017, arXiv 1609.09106): an embedding in, one tile of kernels out.

    ``a_i = W_i z + B_i`` for each input channel i, ``K_i = W_out a_i + B_out``. One network can serve many layers.

    Args:
        tile: ``(O, I)`` channels of a tile.
        kernel_size: of its kernels.
        embedding_dim: width of an embedding z and of the a_i.

    >>> sum(p.numel() for p in TileNetwork((16, 16), (7, 7), 4).parameters())
    4240
    """

    def __init__(
        self,
        tile: tuple[int, int],
        kernel_size: Sequence[int],
        embedding_dim: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(*tile, *kernel_size, embedding_dim) < 1:
            raise ValueError(
                f"tile, kernel size and embedding_dim must be 1 or more, got {tuple(tile)}, {tuple(kernel_size)} and "
                f"{embedding_dim}"
            )
        outputs, inputs = tile
        self.tile, self.kernel_size, self.embedding_dim = tuple(tile), tuple(kernel_size), embedding_dim
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.inner_weight = nn.Parameter(torch.empty(inputs, embedding_dim, embedding_dim, **factory))
        self.inner_bias = nn.Parameter(torch.empty(inputs, embedding_dim, **factory))
        self.outer_weight = nn.Parameter(torch.empty(embedding_dim, outputs, *self.kernel_size, **factory))
        self.outer_bias = nn.Parameter(torch.empty(outputs, *self.kernel_size, **factory))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters; tiles then have unit variance for embeddings of unit variance."""
        nn.init.normal_(self.inner_weight, std=self.embedding_dim**-0.5)
        nn.init.zeros_(self.inner_bias)
        nn.init.normal_(self.outer_weight, std=self.embedding_dim**-0.5)
        nn.init.zeros_(self.outer_bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``(..., embedding_dim)`` to tiles ``(..., O, I, *k)``."""
        inner = torch.einsum("...z,izd->...id", embeddings, self.inner_weight) + self.inner_bias
        tiles = torch.tensordot(inner, self.outer_weight, dims=1) + self.outer_bias
        return tiles.transpose(embeddings.dim() - 1, embeddings.dim())


class EmbeddingGenerator(Generator):
    """A kernel made of tiles, each from a learned embedding of its own through a `TileNetwork`.

    Args:
        kernel_shape: ``(O, I/groups, *k)``.
        embedding_dim: width of an embedding, where the generator has a network of its own.
        tile: ``(O, I)`` channels of a tile; what tiles exceed the kernel by is cut off.
        network: a `TileNetwork` shared with other layers, in place of ``embedding_dim`` and ``tile``:
            ``functools.partial(EmbeddingGenerator, network=network)``. A module that is used in several places is
            counted, moved and saved as torch does it: trained once, listed under every name in the state dict.

    Raises:
        ValueError: a network for kernels of another size.

    >>> EmbeddingGenerator((20, 40, 3, 3))().shape
    torch.Size([20, 40, 3, 3])
    """

    def __init__(
        self,
        kernel_shape: Sequence[int],
        embedding_dim: int = 4,
        tile: tuple[int, int] = (16, 16),
        network: TileNetwork | None = None,
        init: Init = "torch",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(kernel_shape, None, init)
        if len(self.kernel_shape) < 2:
            raise ValueError(f"tiles need input and output channels; a kernel of shape {self.kernel_shape} has none")
        outputs, inputs, *kernel_size = self.kernel_shape
        if network is None:
            tile = (min(tile[0], outputs), min(tile[1], inputs))
            network = TileNetwork(tile, kernel_size, embedding_dim, device=device, dtype=dtype)
        if network.kernel_size != tuple(kernel_size):
            raise ValueError(f"a network for kernels of size {network.kernel_size}, but {tuple(kernel_size)} is needed")
        self.network = network
        rows, columns = (-(-count // of) for count, of in zip((outputs, inputs), network.tile, strict=True))
        embeddings = torch.empty(rows, columns, network.embedding_dim, device=device, dtype=dtype)
        self.embeddings = nn.Parameter(embeddings)
        nn.init.normal_(self.embeddings)

    def reset_parameters(self) -> None:
        """Draw new embeddings, and new parameters for the network (for all layers that share it)."""
        nn.init.normal_(self.embeddings)
        self.network.reset_parameters()

    def zero_output_(self) -> None:
        """Make the network's tiles zero (for all layers that share it)."""
        nn.init.zeros_(self.network.outer_weight)
        nn.init.zeros_(self.network.outer_bias)

    def generate(self, context: Tensor | None) -> Tensor:
        outputs, inputs = self.kernel_shape[:2]
        tiles = self.network(self.embeddings)  # (rows, columns, tile O, tile I, *k)
        kernel = tiles.transpose(1, 2).flatten(0, 1).flatten(1, 2)
        return kernel[:outputs, :inputs] * self.kernel_std
