"""GIN whose update networks are generated for every node, beside GIN of as many parameters, on graphs to classify."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from ..cli import Size
from ..data.digits import CLASSES
from ..data.graphs import (
    COLLECTIONS,
    EDGE_FEATURES,
    FOLDS,
    PIXEL_FEATURES,
    SUPERPIXELS,
    collate,
    superpixel_digits,
    tu_graphs,
)
from ..training import Recipe
from ..training.objectives import Objective, accuracy, scores
from .experiment import Arm, Experiment, rates_around

if TYPE_CHECKING:
    from torch_geometric.data import Batch

Graphs = Literal["digits", "MUTAG", "PROTEINS"]


@dataclass(frozen=True)
class GraphHyperOptions:
    """Options of graph-hyper.

    Args:
        graphs: what to classify: digits cut into superpixels, or MUTAG's molecules or PROTEINS, in ten folds (--data: a
            folder with the text files of the TU collection; auto: data/tu, else a download).
        depth: layers.
    """

    graphs: Graphs = "digits"
    depth: Size = 4


class Task(NamedTuple):
    """Sizes of graphs and of the networks that classify them.

    Attributes:
        features: of a node.
        edge_features: of an edge, 0 for none.
        classes: to tell apart.
        nodes: of a graph, about.
        width: of features within.
        hyper: width of the networks that generate others.
        stored, normed, per_edge: widths that make as many parameters, in the layers of those arms.
    """

    features: int
    edge_features: int
    classes: int
    nodes: int
    width: int
    hyper: int
    stored: int
    normed: int
    per_edge: int


_MUTAG, _PROTEINS = COLLECTIONS.values()
TASKS: Mapping[Graphs, Task] = {
    "digits": Task(
        PIXEL_FEATURES, EDGE_FEATURES, CLASSES, SUPERPIXELS, width=32, hyper=16, stored=572, normed=553, per_edge=34
    ),
    "MUTAG": Task(_MUTAG.labels, _MUTAG.edge_labels, 2, 18, width=16, hyper=8, stored=158, normed=149, per_edge=18),
    "PROTEINS": Task(_PROTEINS.labels, 0, 2, 39, width=16, hyper=8, stored=158, normed=149, per_edge=0),
}
_OF_DIGITS = Recipe("adam", 2e-3, 0.0, "one-cycle", batch_size=64, epochs=20, patience=None, shuffle=True, clip=1.0)
_OF_MUTAG = replace(_OF_DIGITS, batch_size=32, epochs=60)
_OF_PROTEINS = replace(_OF_DIGITS, batch_size=32, epochs=30)
RECIPES: Mapping[Graphs, Recipe] = {"digits": _OF_DIGITS, "MUTAG": _OF_MUTAG, "PROTEINS": _OF_PROTEINS}


def network(arm: str, task: Task, depth: int) -> nn.Module:
    """A classifier of graphs whose layers are the arm's."""
    from ..zoo.graph_hypernetwork import (
        GeneratedUpdate,
        GINLayer,
        GraphClassifier,
        NNConvLayer,
        NormedUpdate,
        StoredUpdate,
    )

    layers: Mapping[str, Callable[[], nn.Module]] = {
        "hyper": lambda: GINLayer(GeneratedUpdate(task.width, task.hyper)),
        "no-first-message": lambda: GINLayer(GeneratedUpdate(task.width, task.hyper, sees_first=False)),
        "normal": lambda: GINLayer(StoredUpdate(task.width, task.stored)),
        "gin": lambda: GINLayer(NormedUpdate(task.width, task.normed)),
        "nnconv": lambda: NNConvLayer(task.width, task.edge_features, task.per_edge),
    }
    return GraphClassifier(task.features, task.classes, task.width, depth, layers[arm], task.nodes)


def classification(network: nn.Module, batch: "Batch", draws: torch.Generator | None) -> dict[str, Any]:
    """Cross-entropy and accuracy of a batch of graphs."""
    return scores(network(batch), batch.y)


def graphs_in(batch: "Batch") -> int:
    return batch.num_graphs


def objective(classes: int) -> Objective:
    return Objective(classification, (accuracy(classes),), samples=graphs_in, loss="cross-entropy")


def _arms(options: GraphHyperOptions) -> dict[str, Arm]:
    task, grid = TASKS[options.graphs], rates_around(RECIPES[options.graphs])
    names = ["hyper", "no-first-message", "normal", "gin", *(["nnconv"] if task.edge_features else [])]
    return {name: Arm(partial(network, name, task, options.depth), grid=grid) for name in names}


def _adapted(experiment: Experiment, options: GraphHyperOptions) -> Experiment:
    folds: dict[str, Any] = {}
    if options.graphs != "digits":
        folds = {"load": partial(tu_graphs, options.graphs), "folds": FOLDS, "failed_at": None}
    return replace(
        experiment,
        arms=_arms(options),
        recipe=RECIPES[options.graphs],
        objective=objective(TASKS[options.graphs].classes),
        **folds,
    )


EXPERIMENTS = (
    Experiment(
        name="graph-hyper",
        paper="Graph hypernetworks, Nachmani and Wolf, 2020 (a reconstruction)",
        task="graphs of superpixels to digits, or molecules (--graphs): a node's update generated from its message and "
        "its first one, or from that one alone, or stored; GIN as published; NNConv",
        minutes=10,
        arms=_arms(GraphHyperOptions()),
        recipe=_OF_DIGITS,
        objective=objective(CLASSES),
        options=GraphHyperOptions,
        adapted=_adapted,
        load=superpixel_digits,
        collate=collate,
        quick_epochs=3,
        quick_samples=500,
        extras=("graphs",),
        # by chance, a tenth is right
        failed_at=0.2,
    ),
)
