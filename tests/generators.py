"""Every generator, as layers are given them."""

from functools import partial

import torch
from torch import nn

from hyperconv import (
    ChunkedGenerator,
    CoordinateMLP,
    DenseGenerator,
    EmbeddingGenerator,
    LowRankGenerator,
    StartAtKernel,
)


def _start(shape, generator, **factory):
    return StartAtKernel(generator(shape, **factory), torch.randn(shape, **factory) / 10)


SHARED = {
    "coordinate": partial(CoordinateMLP, hidden=(8, 5)),
    "coordinate, stateless": partial(CoordinateMLP, hidden=(8, 5), norm="stateless"),
    "coordinate, not standardised": partial(CoordinateMLP, hidden=(8, 5), norm="none"),
    "coordinate, Fourier": partial(CoordinateMLP, hidden=(8, 5), encoding="fourier"),
    "coordinate, SIREN": partial(CoordinateMLP, hidden=(8, 5), encoding="siren"),
    "dense": partial(DenseGenerator, hidden=(5,)),
    "chunked": partial(ChunkedGenerator, chunk_size=7),
    "chunked, decorrelated": partial(ChunkedGenerator, chunk_size=7, norm="decorrelated"),
    "embedding": partial(EmbeddingGenerator, tile=(4, 3)),
    "low rank": partial(LowRankGenerator, rank=2),
    "started": partial(_start, generator=partial(CoordinateMLP, hidden=(8, 5))),
}
CONTEXT = 3
PER_SAMPLE = {
    "coordinate": partial(CoordinateMLP, hidden=(8, 5), context_dim=CONTEXT),
    "coordinate, not standardised": partial(CoordinateMLP, hidden=(8, 5), norm="none", context_dim=CONTEXT),
    "coordinate, FiLM": partial(CoordinateMLP, hidden=(8, 5), context_dim=CONTEXT, conditioning="film"),
    "dense": partial(DenseGenerator, context_dim=CONTEXT),
    "dense, hidden": partial(DenseGenerator, context_dim=CONTEXT, hidden=(6,)),
    "dense, tanh": partial(DenseGenerator, context_dim=CONTEXT, activation=nn.Tanh),
    "dense, magnitude-invariant": partial(DenseGenerator, context_dim=CONTEXT, encode_context="magnitude-invariant"),
    "chunked": partial(ChunkedGenerator, chunk_size=7, context_dim=CONTEXT),
    "low rank": partial(LowRankGenerator, rank=2, context_dim=CONTEXT),
    "started": partial(_start, generator=partial(DenseGenerator, context_dim=CONTEXT)),
}
EVERY = {**{f"{name}, shared": made for name, made in SHARED.items()}, **PER_SAMPLE}


def context_for(generator, samples: int | None = None, **factory) -> torch.Tensor | None:
    """A context of unit variance, or in 0 ... 1 where these are encoded; None where none is taken."""
    if generator.context_dim is None:
        return None
    shape = (generator.context_dim,) if samples is None else (samples, generator.context_dim)
    draw = torch.rand if generator.encode_context == "magnitude-invariant" else torch.randn
    return draw(shape, **factory)
