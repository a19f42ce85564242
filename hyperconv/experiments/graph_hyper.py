"""GIN whose update networks are generated for every node, beside GIN of as many parameters, on graphs to classify."""

from collections.abc import Callable, Mapping, Sequence
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
from .experiment import TWICE_CHANCE, Arm, Experiment, Logs

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing
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


@dataclass(frozen=True)
class GraphDepthOptions:
    """Options of graph-hyper-depth.

    Args:
        graphs: as for graph-hyper.
    """

    graphs: Graphs = "digits"


class Task(NamedTuple):
    """Sizes of graphs and of the networks that classify them.

    Attributes:
        features: of a node.
        edge_features: of an edge, 0 for none.
        classes: to tell apart.
        nodes: of a graph, about.
        width: of features within.
        hyper: width of the networks that generate others.
        stored, stored_first, normed, per_edge: widths that make as many parameters, in the layers of those arms.
    """

    features: int
    edge_features: int
    classes: int
    nodes: int
    width: int
    hyper: int
    stored: int
    stored_first: int
    normed: int
    per_edge: int


_WIDTHS: dict[str, int] = {"width": 16, "hyper": 8, "stored": 158, "stored_first": 106, "normed": 149}
_MUTAG, _PROTEINS = COLLECTIONS.values()
TASKS: Mapping[Graphs, Task] = {
    "digits": Task(PIXEL_FEATURES, EDGE_FEATURES, CLASSES, SUPERPIXELS, **_WIDTHS, per_edge=18),
    "MUTAG": Task(_MUTAG.labels, _MUTAG.edge_labels, 2, 18, **_WIDTHS, per_edge=18),
    "PROTEINS": Task(_PROTEINS.labels, 0, 2, 39, **_WIDTHS, per_edge=0),
}
_OF_DIGITS = Recipe("adam", 6e-3, 0.0, "one-cycle", batch_size=64, epochs=30, patience=None, shuffle=True, clip=1.0)
_OF_MUTAG = replace(_OF_DIGITS, batch_size=32, epochs=60)
_OF_PROTEINS = replace(_OF_DIGITS, batch_size=32, epochs=15)
# a step of nnconv on digits takes ten times as long as others'
_EPOCHS = {("digits", "nnconv"): 10}
RECIPES: Mapping[Graphs, Recipe] = {"digits": _OF_DIGITS, "MUTAG": _OF_MUTAG, "PROTEINS": _OF_PROTEINS}
_RATES = (6e-4, 2e-3, 6e-3, 2e-2)
RATES: Mapping[Graphs, Sequence[float]] = {
    "digits": (*_RATES[1:], 6e-2),
    "MUTAG": (2e-4, *_RATES, 6e-2),
    "PROTEINS": _RATES,
}
# in fewer steps, higher ones are better
_RATES_OF_ARMS = {("digits", "nnconv"): (*_RATES[2:], 6e-2, 2e-1)}
# the best of these on validation data, of the first fold where there are ten
CHOSEN: Mapping[Graphs, Mapping[str, float]] = {
    "digits": {"gin": 2e-2, "nnconv": 6e-2},
    "MUTAG": {"hyper": 6e-3, "no-first-message": 6e-3, "normal": 6e-3, "gin": 6e-4, "nnconv": 2e-2},
    "PROTEINS": {"hyper": 6e-3, "no-first-message": 6e-3, "normal": 6e-3, "gin": 6e-3},
}
DEPTHS = (2, 4, 6, 8)


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
        "normal-first-message": lambda: GINLayer(StoredUpdate(task.width, task.stored_first, sees_first=True)),
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


def _arms(graphs: Graphs, depth: int) -> dict[str, Arm]:
    task, recipe = TASKS[graphs], RECIPES[graphs]
    stored = ["normal", "normal-first-message", "gin"]
    names = ["hyper", "no-first-message", *stored, *(["nnconv"] if task.edge_features else [])]
    return {
        name: Arm(
            partial(network, name, task, depth),
            replace(
                recipe,
                learning_rate=CHOSEN[graphs].get(name, recipe.learning_rate),
                epochs=_EPOCHS.get((graphs, name), recipe.epochs),
            ),
            {"learning_rate": _RATES_OF_ARMS.get((graphs, name), RATES[graphs])},
        )
        for name in names
    }


def _adapted(experiment: Experiment, options: GraphHyperOptions) -> Experiment:
    folds: dict[str, Any] = {}
    if options.graphs != "digits":
        folds = {"load": partial(tu_graphs, options.graphs), "folds": FOLDS, "failed_at": None}
    return replace(
        experiment,
        arms=_arms(options.graphs, options.depth),
        recipe=RECIPES[options.graphs],
        objective=objective(TASKS[options.graphs].classes),
        **folds,
    )


def _arms_of_depths(graphs: Graphs) -> dict[str, Arm]:
    """Each at the rate that was chosen for it, with nothing that would make training calmer."""
    at_depths = {depth: _arms(graphs, depth) for depth in DEPTHS}
    return {
        f"{name}-{depth}": Arm(arm.network, replace(arm.recipe or RECIPES[graphs], schedule="constant", clip=None))
        for name in ("hyper", "no-first-message", "gin")
        for depth, arms in at_depths.items()
        for arm in [arms[name]]
    }


def _adapted_depths(experiment: Experiment, options: GraphDepthOptions) -> Experiment:
    load: dict[str, Any] = {}
    if options.graphs != "digits":
        load = {"load": partial(tu_graphs, options.graphs), "failed_at": None}
    arms, goal = _arms_of_depths(options.graphs), objective(TASKS[options.graphs].classes)
    return replace(experiment, arms=arms, recipe=RECIPES[options.graphs], objective=goal, **load)


def stability(logs: Logs, title: str) -> "Drawing":
    """Losses of all trainings, by depth."""
    from .figures import graph_hyper as figures

    by_arm: dict[str, dict[int, Any]] = {}
    for name, trainings in logs.items():
        arm, _, depth = name.rpartition("-")
        by_arm.setdefault(arm, {})[int(depth)] = trainings
    return figures.stability(by_arm, title)


_PAPER = "Graph hypernetworks, Nachmani and Wolf, 2020 (a reconstruction)"
_OF_GRAPHS = Experiment(
    name="graph-hyper",
    paper=_PAPER,
    task="graphs of superpixels to digits, or molecules (--graphs): a node's update generated from its message and "
    "its first one, or from that one alone, or stored, of either; GIN as published; NNConv",
    minutes=10,
    arms=_arms("digits", GraphHyperOptions.depth),
    recipe=_OF_DIGITS,
    objective=objective(CLASSES),
    options=GraphHyperOptions,
    adapted=_adapted,
    load=superpixel_digits,
    collate=collate,
    quick_epochs=3,
    quick_samples=500,
    extras=("graphs",),
    failed_at=TWICE_CHANCE,
)
EXPERIMENTS = (
    _OF_GRAPHS,
    replace(
        _OF_GRAPHS,
        name="graph-hyper-depth",
        task="the same with 2 to 8 layers, a constant rate and gradients of any size, with and without the first "
        "message, and GIN: how calmly losses fall. With --graphs MUTAG or PROTEINS, the first fold",
        arms=_arms_of_depths("digits"),
        options=GraphDepthOptions,
        adapted=_adapted_depths,
        curves=stability,
    ),
)
