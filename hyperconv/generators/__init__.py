"""Kernel generators: context in, kernel out. The contract is `Generator`'s."""

from .base import Generator, Init, StartAtKernel, magnitude_invariant
from .chunked import ChunkedGenerator
from .coordinate_mlp import CoordinateMLP, Norm
from .dense import DenseGenerator
from .embedding import EmbeddingGenerator, TileNetwork
from .forms import Filters, Mixture, Product
from .low_rank import LowRankGenerator

__all__ = [
    "ChunkedGenerator",
    "CoordinateMLP",
    "DenseGenerator",
    "EmbeddingGenerator",
    "Filters",
    "Generator",
    "Init",
    "LowRankGenerator",
    "Mixture",
    "Norm",
    "Product",
    "StartAtKernel",
    "TileNetwork",
    "magnitude_invariant",
]
