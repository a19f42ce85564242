"""GCN, GAT and GIN with weights localised to nodes and edges, beside plain ones, on graphs with nodes to classify."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat
from torch import nn

from ..cli import Size
from ..data.node_graphs import CITATIONS, DIGITS, FOLDS, WIKI, Sizes, citation_graph, digit_graph, wiki_graph
from ..errors import InputError
from ..training import Recipe
from ..training.objectives import ACCURACY, LOSS, Objective, accuracy, scores
from .experiment import Arm, Experiment, rates_around

if TYPE_CHECKING:
    from torch_geometric.data import Data

GraphName = Literal["digits", "digits-rewired", "cora", "citeseer", "chameleon", "chameleon-filtered"]
Blocks = Literal["plain", "norm", "residual"]
_HEADS, _HEAD_WIDTH = 8, 8
_LAYERS = 2
# that the matrices of first layers' films are factored through, which in the paper are as wide as what is hidden
_RANK = 8


@dataclass(frozen=True)
class LgnnOptions:
    """Options of lgnn.

    Args:
        graph: whose nodes to classify: digits, each joined to its nearest, or with half of these edges rewired; Cora or
            CiteSeer with the public split (--data: a folder with cora.npz or citeseer.npz; auto: data/citations, else a
            download); Chameleon or the same without duplicated nodes, in ten splits (--data: a folder with
            chameleon.npz or chameleon_filtered.npz).
        few_labels: train on 20 nodes of each of Chameleon's classes, rather than on half of all nodes.
        tuned: settings chosen for every arm, rather than those of the paper. For digits, and Chameleon without
            few_labels, none were chosen: these are settings to begin with.
        hidden: of tuned arms, width of features within. Default: each arm's own choice.
        dropout: of tuned arms, likewise.
        blocks: of tuned arms, likewise: plain; a layer norm between layers; that, and a residual path around each.
        film_penalty: of tuned arms that are localised, likewise: the weight of both penalties of films, 1 in the paper.
    """

    graph: GraphName = "digits"
    few_labels: bool = False
    tuned: bool = False
    hidden: Size | None = None
    dropout: ClosedUnitInterval | None = None
    blocks: Blocks | None = None
    film_penalty: NonNegativeFloat | None = None


class Made(NamedTuple):
    """How an arm's network is made.

    Attributes:
        hidden: width of features within.
        dropout: of each layer's inputs; of messages and attention too where weights are localised.
        blocks: as in `LgnnOptions`.
        film_penalty: likewise.
        film_distance: lambda of the paper's loss, for arms that are localised, times that.
    """

    hidden: int
    dropout: float
    blocks: Blocks = "plain"
    film_penalty: float = 1.0
    film_distance: float = 1.0


SIZES: Mapping[GraphName, Sizes] = {
    "digits": DIGITS,
    "digits-rewired": DIGITS,
    "cora": CITATIONS["Cora"],
    "citeseer": CITATIONS["CiteSeer"],
    "chameleon": WIKI["chameleon"],
    "chameleon-filtered": WIKI["chameleon_filtered"],
}
_OF_GAT = Made(_HEADS * _HEAD_WIDTH, 0.6, film_distance=0.1)
PUBLISHED: Mapping[str, Made] = {
    "lgcn": Made(8, 0.4),
    "gcn": Made(8, 0.4),
    "lgat": _OF_GAT,
    "gat": _OF_GAT,
    "lgin": Made(8, 0.4),
    "gin": Made(8, 0.4),
    "film": Made(8, 0.4),
}
# as many for both, and the paper's settings among them; 16 hidden features of a localised network have about as many
# parameters as 128 of a plain one
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "lgcn": {"hidden": (8, 16), "dropout": (0.4, 0.6), "film_penalty": (0.01, 1.0), "blocks": ("plain", "residual")},
    "gcn": {"hidden": (8, 16, 64, 256), "dropout": (0.4, 0.6), "blocks": ("plain", "residual")},
}
_ENDS = {
    "hidden": "as wide as two cores allow",
    "dropout": "two values, as many as hours allow",
    "film_penalty": "the paper's, and a hundredth of it",
    "blocks": "kinds have no range",
}
_UNTUNED = {"lgcn": Made(16, 0.6), "gcn": Made(64, 0.6)}
# the best of these on validation nodes, of the first split where there are ten; of other graphs, what to try first
TUNED: Mapping[GraphName, Mapping[str, Made]] = {
    **dict.fromkeys(SIZES, _UNTUNED),
    "cora": {"lgcn": Made(16, 0.6), "gcn": Made(64, 0.6)},
    "citeseer": {"lgcn": Made(16, 0.6), "gcn": Made(64, 0.4)},
    # with 20 labels a class
    "chameleon": {"lgcn": Made(8, 0.4, "residual", 0.01), "gcn": Made(16, 0.6, "residual")},
    "chameleon-filtered": {"lgcn": Made(16, 0.4), "gcn": Made(8, 0.4)},
}
_TUNED_OPTIONS = ("hidden", "dropout", "blocks", "film_penalty")
_RECIPE = Recipe("adam", 5e-3, 5e-4, "constant", batch_size=1, epochs=100, patience=20, shuffle=True)


def network(arm: str, made: Made, sizes: Sizes) -> nn.Module:
    """A classifier of nodes whose layers are the arm's."""
    from ..zoo.local_graph_network import NodeClassifier

    widths = (sizes.features, *(made.hidden,) * (_LAYERS - 1), sizes.classes)
    layers = [layer(arm, widths[n], widths[n + 1], made, n) for n in range(_LAYERS)]
    norm, residual = made.blocks != "plain", made.blocks == "residual"
    distance = made.film_penalty * made.film_distance
    return NodeClassifier(layers, widths, made.dropout, norm, residual, made.film_penalty, distance)


def layer(arm: str, inputs: int, outputs: int, made: Made, number: int) -> nn.Module:
    """The arm's layer of that number, counted from 0."""
    from torch_geometric import nn as geometric

    from ..zoo.local_graph_network import Heads, Kind, LocalConv, Stored

    last = number == _LAYERS - 1
    localised: Mapping[str, Kind] = {"lgcn": "gcn", "lgat": "gat", "lgin": "gin"}
    if arm in localised:
        heads = _HEADS if arm == "lgat" and not last else 1
        width = outputs // heads
        rank = _RANK if number == 0 else None
        return Heads([LocalConv(inputs, width, localised[arm], rank, made.dropout) for _ in range(heads)])
    if arm == "gat":
        heads = 1 if last else _HEADS
        return Stored(geometric.GATConv(inputs, outputs // heads, heads, dropout=made.dropout))
    if arm == "gin":
        perceptron = nn.Sequential(nn.Linear(inputs, made.hidden), nn.ReLU(), nn.Linear(made.hidden, outputs))
        return Stored(geometric.GINConv(perceptron), dense=True)
    if arm == "film":
        return Stored(geometric.FiLMConv(inputs, outputs, act=None if last else nn.ReLU()))
    return Stored(geometric.GCNConv(inputs, outputs))


def node_classification(network: nn.Module, graph: "Data", draws: torch.Generator | None) -> dict[str, Any]:
    """Cross-entropy and accuracy on the nodes of the split; in training, the loss has LGNN's penalty too."""
    logits, penalty = network(graph)
    values = scores(logits, graph.y[graph.nodes])
    return values if draws is None else {**values, LOSS: values[LOSS] + penalty}


def nodes_in(graph: "Data") -> int:
    """Of the split."""
    return len(graph.nodes)


def objective(classes: int) -> Objective:
    return Objective(
        node_classification,
        (accuracy(classes),),
        chosen_by=ACCURACY.column,
        samples=nodes_in,
        loss="cross-entropy (in training, with penalties)",
    )


def _arms(options: LgnnOptions) -> dict[str, Arm]:
    sizes = SIZES[options.graph]
    given = {name: value for name in _TUNED_OPTIONS if (value := getattr(options, name)) is not None}
    if options.tuned:
        return {
            arm: Arm(
                partial(network, arm, made._replace(**given), sizes),
                grid=GRIDS[arm],
                at_range_end=_ENDS,
                ignores=tuple({"film_penalty"} - set(GRIDS[arm])),
            )
            for arm, made in TUNED[options.graph].items()
        }
    if given:
        raise InputError(f"--{next(iter(given))} is a setting of tuned arms; give --tuned too, or leave it out")
    grid = rates_around(_RECIPE)
    return {arm: Arm(partial(network, arm, made, sizes), grid=grid) for arm, made in PUBLISHED.items()}


def _adapted(experiment: Experiment, options: LgnnOptions) -> Experiment:
    more: dict[str, Any]
    if options.graph.startswith("chameleon"):
        name = options.graph.replace("-", "_")
        more = {"load": partial(wiki_graph, name, few_labels=options.few_labels), "folds": FOLDS}
    elif options.few_labels:
        raise InputError(f"--few_labels is a setting of Chameleon; {options.graph} has few labels anyway")
    elif options.graph.startswith("digits"):
        more = {"load": partial(digit_graph, rewired=0.5 if options.graph == "digits-rewired" else 0.0)}
    else:
        more = {"load": partial(citation_graph, {"cora": "Cora", "citeseer": "CiteSeer"}[options.graph])}
    return replace(experiment, arms=_arms(options), objective=objective(SIZES[options.graph].classes), **more)


EXPERIMENTS = (
    Experiment(
        name="lgnn",
        paper="Node-wise Localization of Graph Neural Networks, Liu et al., IJCAI 2021",
        task="nodes of a graph to classes (--graph): GCN, GAT and GIN with weights of its own for every node and edge, "
        "or the same for all; FiLM. An epoch is ten steps on the whole graph",
        minutes=20,
        arms=_arms(LgnnOptions()),
        recipe=_RECIPE,
        objective=objective(DIGITS.classes),
        options=LgnnOptions,
        adapted=_adapted,
        load=digit_graph,
        quick_epochs=5,
        extras=("graphs",),
    ),
)
