"""Products with a matrix a node, never built, against matrices that are built, forward and backward; see --help.

python benchmarks/graphs.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from common import Case, Machine, Run, Settings, Sides, command, gradients, measure
from torch import Tensor

from hyperconv.errors import InputError
from hyperconv.zoo.local_graph_network import Edges, edges_of, localised_products

_UNBUILT, _BUILT = "never built", "built, batched products"
# of Cora's words
_HELD = 0.0127


@dataclass(frozen=True)
class Graphs(Settings):
    """Time products h_u W_v of every edge, forward and backward, on a random graph of the size of Cora; not in bf16.

    Args:
        nodes: of the graph.
        features: of a node, as many of them not zero as in Cora.
        edges: between nodes.
        outputs: columns of each matrix.
        rounds: how often each way is timed.
    """

    nodes: int = 2708
    features: int = 1433
    edges: int = 10556
    outputs: int = 8
    rounds: int = 5


def built(features: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """The same products with W_v in memory for every node: each is applied to the node's neighbours, padded."""
    order = edges.target.argsort(stable=True)
    degrees = edges.target.bincount(minlength=len(edges.wanted))
    first = degrees.cumsum(0) - degrees
    target = edges.target[order]
    place = torch.arange(len(order), device=order.device) - first[target]
    neighbours = torch.zeros(len(edges.wanted), int(degrees.max()), dtype=torch.long, device=order.device)
    neighbours[target, place] = edges.source[order]
    matrices = weight * scale.unsqueeze(2) + shift.unsqueeze(2)
    products = torch.bmm(features[neighbours], matrices)[target, place]
    return torch.empty_like(products).index_copy(0, order, products)


def cases_of(machine: Machine, nodes: int, features: int, edges: int, outputs: int) -> list[Case]:
    size = f"{nodes} nodes, {edges} edges, {features} to {outputs} features"

    def make(words: bool) -> dict[str, Run]:
        options = {"device": machine.device}
        held = torch.rand(nodes, features, **options)
        if words:
            held *= torch.rand(nodes, features, **options) < _HELD
        films = [torch.randn(nodes, features, **options, requires_grad=True) for _ in range(2)]
        weight = torch.randn(features, outputs, **options, requires_grad=True)
        leaves = [*films, weight]
        graph = edges_of(torch.randint(nodes, (2, edges), **options), nodes)
        ways: dict[str, Callable[[], Tensor]] = {
            _UNBUILT: partial(localised_products, held.to_sparse_csr() if words else held, *leaves, graph),
            _BUILT: partial(built, held, *leaves, graph),
        }
        torch.testing.assert_close(*(way() for way in ways.values()), rtol=1e-3, atol=1e-3)
        return {name: gradients(way, leaves) for name, way in ways.items()}

    return [
        Sides(f"{size}, {kind}", partial(make, words), _UNBUILT)
        for kind, words in (("bags of words", True), ("dense", False))
    ]


def main(settings: Graphs) -> None:
    """
    Raises:
        InputError: bf16, in which there are no products with compressed rows.
    """
    if settings.precision == "bf16":
        raise InputError("--precision bf16: this benchmark is of float32; give float32 or tf32")
    sizes = settings.nodes, settings.features, settings.edges, settings.outputs
    measure("A matrix a node", cases_of(settings.machine(), *sizes), settings, settings.rounds)


if __name__ == "__main__":
    command(main, Graphs)
