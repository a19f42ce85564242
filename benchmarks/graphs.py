"""A local graph layer that never builds its nodes' matrices beside one that does: time and memory; see --help.

python benchmarks/graphs.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import alternate, peak_memory, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor

from hyperconv import cli
from hyperconv.zoo.local_graph_network import Edges, edges_of, localised_products

_UNBUILT, _BUILT = "never built", "built, batched products"


@dataclass(frozen=True)
class Graphs:
    """Time products h_u W_v of every edge, forward and backward, on a random graph of the size of Cora.

    Args:
        nodes: of the graph.
        features: of a node, as many of them not zero as in Cora.
        edges: between nodes.
        outputs: columns of each matrix.
        rounds: how often each way is timed.
        json: also write the figures to this file.
    """

    nodes: PositiveInt = 2708
    features: PositiveInt = 1433
    edges: PositiveInt = 10556
    outputs: PositiveInt = 8
    rounds: PositiveInt = 5
    json: str | None = None


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
    products = torch.bmm(features[neighbours], matrices)
    return torch.empty_like(products[target, place]).index_copy(0, order, products[target, place])


def main(settings: Graphs) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = (settings.nodes, settings.features)
    words = torch.rand(shape, device=device) * (torch.rand(shape, device=device) < 0.0127)
    dense = torch.rand(shape, device=device)
    scale, shift = (torch.randn(shape, device=device, requires_grad=True) for _ in range(2))
    weight = torch.randn(settings.features, settings.outputs, device=device, requires_grad=True)
    edges = edges_of(torch.randint(settings.nodes, (2, settings.edges), device=device), settings.nodes)
    rows, figures = [], {}
    for kind, features, compact in (("bags of words", words, words.to_sparse_csr()), ("dense", dense, dense)):

        def step(products: Callable[..., Tensor], features: Tensor) -> Callable[[], None]:
            def run() -> None:
                scale.grad = shift.grad = weight.grad = None
                products(features, scale, shift, weight, edges).square().mean().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()

            return run

        given = scale, shift, weight, edges
        torch.testing.assert_close(built(features, *given), localised_products(compact, *given), rtol=1e-3, atol=1e-3)
        sides = {_UNBUILT: step(localised_products, compact), _BUILT: step(built, features)}
        memory = {name: peak_memory(side, device) for name, side in sides.items()}
        seconds = alternate(sides, settings.rounds)
        for name, times in seconds.items():
            megabytes = memory[name] / 2**20
            times_less = f"{memory[_BUILT] / memory[name]:.1f}"
            figures[f"{kind}, {name}"] = {"seconds": quartiles(times), "bytes": memory[name]}
            took = f"{quartiles(times)[1] * 1e3:.0f} ms"
            rows.append(
                (kind, name, took, spread(ratio(seconds[_BUILT], times), 2), f"{megabytes:.0f} MiB", times_less)
            )
    columns = ("features", "matrices", "forward and backward", "times faster", "peak memory", "times less")
    title = f"{settings.nodes} nodes, {settings.edges} edges, {settings.features} to {settings.outputs} features"
    report(title, columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, Graphs)
