"""A dense layer from a context to the whole kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..calls import a_tensor_of
from .base import (
    ContextCode,
    Generator,
    Init,
    leaky_relu,
    magnitude_invariant,
    perceptron,
    reset_linear_layers,
    with_constant,
)
from .forms import Mixture


class DenseGenerator(Generator):
    """Every number of the kernel is a linear function of a context, or of what hidden layers make of it.

    With a context a sample: the HyperConvFromDense of neurite and HyperMorph (Hoopes et al., IPMI 2021,
    arXiv 2101.01035), ``kernel_b = activation(h_b W + b)``. Without one: a learned embedding stands in for it, as in
    the hypernetworks that make all weights of a layer from one small vector.

    Args:
        kernel_shape: any shape.
        context_dim: width of the context; None for a learned embedding instead.
        embedding_dim: width of that embedding.
        hidden: widths of hidden layers (LeakyReLU 0.1) between context and kernel.
        activation: applied to the kernel, e.g. ``nn.Tanh``; it changes the kernel's scale.

    The parameters are about ``(hidden[-1] + 1)`` times the kernel's own.

    >>> DenseGenerator((8, 4, 3, 3), context_dim=5)(torch.randn(2, 5)).shape
    torch.Size([2, 8, 4, 3, 3])
    """

    def __init__(
        self,
        kernel_shape: Sequence[int],
        context_dim: int | None = None,
        embedding_dim: int = 8,
        hidden: Sequence[int] = (),
        activation: Callable[[], nn.Module] = nn.Identity,
        init: Init = "torch",
        encode_context: ContextCode = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(kernel_shape, context_dim, init, encode_context)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        width = self.context_width
        if context_dim is None:
            width = embedding_dim
            self.embedding = nn.Parameter(torch.empty(embedding_dim, **factory))
        self.trunk = perceptron((width, *hidden), leaky_relu, **factory)
        features = (width, *hidden)[-1]
        self.weight = nn.Parameter(torch.empty(features, *self.kernel_shape, **factory))
        self.bias = nn.Parameter(torch.empty(self.kernel_shape, **factory))
        self.activation = activation()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters; kernels then have standard deviation ``kernel_std`` over contexts of unit variance."""
        reset_linear_layers(self.trunk)
        if self.context_dim is None:
            nn.init.normal_(self.embedding)
            sample = self.embedding.unsqueeze(0)
        else:
            sample = unit_contexts(self)
        energy = self.trunk(sample).abs().square().sum(dim=1).mean().sqrt()
        nn.init.normal_(self.weight).mul_(self.kernel_std / energy)
        nn.init.zeros_(self.bias)

    def zero_output_(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def generate(self, context: Tensor | None) -> Tensor:
        features = self.trunk(self.embedding if context is None else context)
        rows = features if features.dim() > 1 else features.unsqueeze(0)
        numbers = torch.addmm(self.bias.flatten(), rows, self.weight.flatten(1))
        return self.activation(numbers.view(*features.shape[:-1], *self.kernel_shape))

    @property
    def factor_count(self) -> int | None:
        linear = isinstance(self.activation, nn.Identity) and self.context_dim is not None
        return len(self.weight) + 1 if linear else None

    def factors(self, context: Tensor | None) -> Mixture:
        features = self.trunk(context)
        return Mixture(with_constant(features), torch.cat([self.weight, self.bias.unsqueeze(0)]))


def unit_contexts(generator: Generator) -> Tensor:
    """Contexts to measure a trunk's scale with: of unit variance, or spread over 0 ... 1 where these are encoded."""
    parameter = a_tensor_of(generator)
    shape = (256, generator.context_dim or 0)
    factory: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
    if generator.encode_context == "magnitude-invariant":
        return magnitude_invariant(torch.rand(shape, **factory))
    return torch.randn(shape, **factory)
