"""Graph networks whose update network is generated for every node, from its message and its first one.

E. Nachmani, L. Wolf, "Molecule Property Prediction and Classification with Graph Hypernetworks", 2020,
https://arxiv.org/abs/2002.00240. This is a reconstruction of it on GIN (Xu et al., ICLR 2019,
https://arxiv.org/abs/1810.00826): sizes and readout are ours. Needs the extra ``graphs``.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..extras import needing
from ..generators import DenseGenerator
from ..layers import HyperLinear

with needing("graphs", __name__):
    from torch_geometric.data import Data
    from torch_geometric.nn import GINConv, NNConv, global_add_pool


class SameAtFirst(DenseGenerator):
    """A dense generator that at first makes one kernel of every context: how ``nn.Linear`` begins.

    >>> kernels = SameAtFirst((4, 3), context_dim=2)(torch.randn(2, 2))
    >>> torch.equal(kernels[0], kernels[1])
    True
    """

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight)
        bound = 3**0.5 * self.kernel_std
        nn.init.uniform_(self.bias, -bound, bound)


class GeneratedUpdate(nn.Module):
    """``h <- g(m; theta)``, where ``theta = f(m, h0)`` are a node's own weights of a perceptron.

    g is tanh(W_2 tanh(W_1 m + b_1) + b_2); f is a perceptron of three layers, tanh after the first two. At first all
    nodes have the same weights: the last layer's are zero, and its bias is how ``nn.Linear`` begins.

    Args:
        width: of the features.
        hidden: width of f.
        sees_first: whether f is given the first message too, which the paper says makes training stable.

    >>> GeneratedUpdate(8, 4)(torch.zeros(3, 8), torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, width: int, hidden: int, sees_first: bool = True) -> None:
        super().__init__()
        self.sees_first = sees_first
        seen = 2 * width if sees_first else width
        self.trunk = nn.Sequential(nn.Linear(seen, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        generator = partial(SameAtFirst, context_dim=hidden)
        self.layers = nn.ModuleList(HyperLinear(width, width, bias="generated", generator=generator) for _ in range(2))

    def forward(self, message: Tensor, first: Tensor) -> Tensor:
        """Current and first messages ``(N, width)`` to the nodes' next features ``(N, width)``."""
        context = self.trunk(torch.cat([message, first], dim=1) if self.sees_first else message)
        for layer in self.layers:
            message = layer(message, context).tanh()
        return message


class StoredUpdate(nn.Module):
    """The same perceptron with weights that are stored, and any width within.

    Args:
        width: of the messages.
        hidden: width within.
        sees_first: whether the first message is an input beside the current one.

    >>> StoredUpdate(8, 16)(torch.zeros(3, 8), torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, width: int, hidden: int, sees_first: bool = False) -> None:
        super().__init__()
        self.sees_first = sees_first
        seen = 2 * width if sees_first else width
        self.perceptron = nn.Sequential(nn.Linear(seen, hidden), nn.Tanh(), nn.Linear(hidden, width), nn.Tanh())

    def forward(self, message: Tensor, first: Tensor) -> Tensor:
        return self.perceptron(torch.cat([message, first], dim=1) if self.sees_first else message)


class NormedUpdate(nn.Module):
    """That of the published GIN: batch norm and ReLU after each of two layers.

    >>> NormedUpdate(8, 16)(torch.zeros(3, 8), torch.zeros(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        into = nn.Linear(width, hidden), BatchNormOfMany(hidden), nn.ReLU()
        self.perceptron = nn.Sequential(*into, nn.Linear(hidden, width), BatchNormOfMany(width), nn.ReLU())

    def forward(self, message: Tensor, first: Tensor) -> Tensor:
        return self.perceptron(message)


class BatchNormOfMany(nn.BatchNorm1d):
    """Batch norm that a batch of one node, which has no variance, passes as in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) < 2:
            return nn.functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias)
        return super().forward(input)


class GINLayer(nn.Module):
    """``m_v = (1 + eps) h_v + sum_u h_u`` over the nodes u with an edge to v, then an update."""

    def __init__(self, update: nn.Module) -> None:
        super().__init__()
        self.message = GINConv(nn.Identity(), train_eps=True)
        self.update = update

    def forward(self, features: Tensor, first: Tensor, graph: Data) -> Tensor:
        return self.update(self.message(features, graph.edge_index), first)


class NNConvLayer(nn.Module):
    """Torch-geometric's `NNConv`: a matrix for every edge, made of the edge's features; then tanh.

    Args:
        width: of the features of nodes.
        edge_features: of an edge.
        hidden: width of the network that makes the matrices.
    """

    def __init__(self, width: int, edge_features: int, hidden: int) -> None:
        super().__init__()
        generator = nn.Sequential(nn.Linear(edge_features, hidden), nn.Tanh(), nn.Linear(hidden, width * width))
        self.convolution = NNConv(width, width, generator, aggr="mean")

    def forward(self, features: Tensor, first: Tensor, graph: Data) -> Tensor:
        return self.convolution(features, graph.edge_index, graph.edge_attr).tanh()


class GraphClassifier(nn.Module):
    """Graphs to classes: a linear map of the nodes' features, layers, and a linear map of sums over the graph.

    The sums are of the features before, between and after all layers, as in GIN, each divided by the root of the number
    of nodes that graphs are expected to have, so that their scale does not grow with it.

    Args:
        features: of a node.
        classes: to tell apart.
        width: of the features within.
        depth: layers.
        layer: makes one; called as ``layer(features, first, graph)``.
        nodes: that a graph has, about.

    >>> graph = Data(torch.zeros(2, 3), torch.tensor([[0], [1]]))
    >>> GraphClassifier(3, 10, 8, 2, lambda: GINLayer(GeneratedUpdate(8, 4)), nodes=2)(graph).shape
    torch.Size([1, 10])
    """

    def __init__(
        self, features: int, classes: int, width: int, depth: int, layer: Callable[[], nn.Module], nodes: int
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.first = nn.Linear(features, width)
        self.layers = nn.ModuleList(layer() for _ in range(depth))
        self.classes = nn.Linear((depth + 1) * width, classes)

    def forward(self, graph: Data) -> Tensor:
        """A graph, or a batch of G, to logits ``(G, classes)``."""
        first = features = self.first(graph.x)
        everything = [features]
        for layer in self.layers:
            features = layer(features, first, graph)
            everything.append(features)
        # a graph without nodes has no node to say so
        graphs = graph.num_graphs if graph.batch is not None else 1
        sums = global_add_pool(torch.cat(everything, dim=1), graph.batch, size=graphs)
        return self.classes(sums / self.nodes**0.5)
