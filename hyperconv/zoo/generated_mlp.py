"""Multilayer perceptrons whose weights are generated: all at once, chunk by chunk, or for every sample.

Q. Gao, "torch-hypernetwork-tutorials", 2020, https://github.com/qu-gg/torch-hypernetwork-tutorials
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators import ChunkedGenerator, DenseGenerator, Generator
from ..layers import HyperLinear


class GeneratedMLP(nn.Module):
    """A perceptron, ReLU between its layers, all of whose weights are one generated vector; biases are stored.

    Args:
        widths: of the input, the hidden layers and the output.
        generator: given the vector's shape, ``(N,)``, returns what makes it.

    >>> full_mlp((784, 64, 10))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, widths: Sequence[int], generator: Callable[[tuple[int]], Generator]) -> None:
        super().__init__()
        self.shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
        self.sizes = [outputs * inputs for outputs, inputs in self.shapes]
        self.generator = generator((sum(self.sizes),))
        self.biases = nn.ParameterList(nn.init.zeros_(nn.Parameter(torch.empty(width))) for width in widths[1:])

    def forward(self, input: Tensor) -> Tensor:
        """``(B, *)`` to ``(B, outputs)``."""
        features = input.flatten(1)
        vectors = self.generator().split(self.sizes)
        for number, (vector, shape, bias) in enumerate(zip(vectors, self.shapes, self.biases, strict=True)):
            # one vector, but every layer's weights at the scale that its inputs ask for
            weight = vector.view(shape) / math.sqrt(shape[1])
            features = F.linear(features.relu() if number else features, weight, bias)
        return features


def full_mlp(widths: Sequence[int]) -> GeneratedMLP:
    """All weights are a linear function of 16 numbers, made of an embedding of 5."""
    return GeneratedMLP(widths, partial(DenseGenerator, embedding_dim=5, hidden=(16,)))


def chunked_mlp(widths: Sequence[int], chunks: int = 100) -> GeneratedMLP:
    """Every chunk of the weights comes from an embedding of 10, through 16 numbers and the same linear function."""
    weights = sum(inputs * outputs for inputs, outputs in pairwise(widths))
    chunk_size = math.ceil(weights / chunks)
    generator = partial(ChunkedGenerator, chunk_size=chunk_size, embedding_dim=10, hidden=(16,), norm="decorrelated")
    return GeneratedMLP(widths, generator)


class PerSampleMLP(nn.Module):
    """A perceptron with weights for every sample, which are a linear function of 16 numbers made of that sample.

    Args:
        widths: of the input, the hidden layers and the output.
        context_dim: how many numbers.

    >>> PerSampleMLP((784, 32, 10))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, widths: Sequence[int], context_dim: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(widths[0], context_dim), nn.ReLU())
        generator = partial(DenseGenerator, context_dim=context_dim)
        self.layers = nn.ModuleList(
            HyperLinear(inputs, outputs, bias="generated", generator=generator) for inputs, outputs in pairwise(widths)
        )

    def forward(self, input: Tensor) -> Tensor:
        """``(B, *)`` to ``(B, outputs)``."""
        features = input.flatten(1)
        context = self.encoder(features)
        for number, layer in enumerate(self.layers):
            features = layer(features.relu() if number else features, context)
        return features
