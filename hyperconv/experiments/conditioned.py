"""Digits turned by any angle, and networks that are told the angle."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from ..data import Splits
from ..data.augment import turn
from ..generators import ChunkedGenerator, CoordinateMLP, DenseGenerator, LowRankGenerator
from ..training import Recipe
from ..training.learner import Batch
from ..training.objectives import as_float, scores
from ..zoo.conditioned_cnn import ConcatenatedCNN, DeepHyperCNN, FilmedCNN, HyperCNN, PlainCNN
from .experiment import Experiment

_TOLD = 2
_DEPTHS = (2, 4, 8, 16)
_TRAINED_DEPTH = 4
_RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=128, epochs=5, patience=None, shuffle=True)


def turned_classification(network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Tensor]:
    """Cross-entropy and accuracy on digits turned by any angle, whose cosine and sine the network is told."""
    images, labels = batch
    angles = torch.rand(len(images), generator=draws) * (2 * math.pi)
    told = torch.stack([angles.cos(), angles.sin()], dim=1).to(images.device)
    return scores(network(turn(as_float(images), angles), told), labels)


CONDITIONED = Experiment(
    name="conditioned",
    paper="HyperConvFromDense, Hoopes et al., IPMI 2021; FiLM, Perez et al., AAAI 2018",
    task="digits turned by any angle to classes: the angle makes the kernels, FiLM, more channels; or is not told",
    minutes=10,
    # channels such that all have about the same number of parameters
    arms={
        "hyper": partial(HyperCNN, 8, _TOLD),
        "film": partial(FilmedCNN, 20, _TOLD),
        "concatenated": partial(ConcatenatedCNN, 20, _TOLD),
        "not-told": partial(PlainCNN, 20),
    },
    recipe=_RECIPE,
    objective=turned_classification,
    quick_epochs=5,
)


# of sizes that come out about equally accurate
_KINDS = {
    "dense": partial(DeepHyperCNN, generator=partial(DenseGenerator, context_dim=8, hidden=(2,))),
    "chunked": partial(DeepHyperCNN, generator=partial(ChunkedGenerator, context_dim=8, chunk_size=64)),
    "low-rank": partial(DeepHyperCNN, generator=partial(LowRankGenerator, context_dim=8, rank=4)),
    "recurrent": partial(DeepHyperCNN, generator=partial(DenseGenerator, context_dim=8), recurrent=True),
    "coordinate": partial(DeepHyperCNN, generator=partial(CoordinateMLP, context_dim=8, hidden=(32, 32, 9))),
}


def parameters_by_depth(network: DeepHyperCNN, splits: Splits) -> dict[str, float]:
    """Parameters that the kernels of shallower and deeper networks of this kind come from."""
    alike = partial(DeepHyperCNN, context_dim=_TOLD, **network.kind)
    return {f"parameters of {depth} kernels": kernel_parameters(alike(depth)) for depth in _DEPTHS}


def kernel_parameters(network: DeepHyperCNN) -> int:
    """Parameters of what makes the kernels, from what the network is told on."""
    makers = [network.trunk, network.recurrent, *(layer.generator for layer in network.convolutions)]
    return sum(p.numel() for p in {p for maker in makers if maker is not None for p in maker.parameters()})


GENERATORS = Experiment(
    name="generators",
    paper="neurite, issue 57: must a kernel come from one dense layer?",
    task=f"as conditioned, {_TRAINED_DEPTH} residual kernels of five kinds; parameters for 2 to 16 of them",
    minutes=10,
    arms={kind: partial(make, _TRAINED_DEPTH, _TOLD) for kind, make in _KINDS.items()},
    recipe=_RECIPE,
    objective=turned_classification,
    quick_epochs=3,
    measure=parameters_by_depth,
)
