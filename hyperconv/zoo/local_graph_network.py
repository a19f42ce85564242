"""Graph networks whose weights differ from node to node and from edge to edge, over GCN, GAT and GIN.

Z. Liu, Y. Fang, C. Liu, S. C. H. Hoi, "Node-wise Localization of Graph Neural Networks", IJCAI 2021,
https://arxiv.org/abs/2110.14322, code https://github.com/shuaiOKshuai/LGNN. Numbers in brackets are of the equations
below, which are those of the code. Needs the extra ``graphs``.

For an edge from u to v, each node having one to itself, with a_uv of the symmetrically normalised adjacency:

    s_v = sum_u a_uv h_u                                                                    (1)
    W_v = W * a_v + b_v, rows of W scaled by a_v = LeakyReLU(s_v M_a) + 1 and moved by
          b_v = LeakyReLU(s_v M_b)                                                          (2)
    y_uv = (h_u W_v + b) * c_uv + d_uv, with c_uv = LeakyReLU(h_v M_c + h_u N_c) + 1 and
           d_uv = LeakyReLU(h_v M_d + h_u N_d)                                              (3)
    h_v' = sum_u w_uv y_uv + b'                                                             (4)

GCN: w_uv = a_uv. GAT: w_uv is attention on y_uv. GIN: the mean over v's edges, that from v itself counted twice; b is
scaled and moved for every node as W is, h_u W_v + b passes an ELU, and there is no b'.

Unlike the code, no element of a W_v is dropped, since no W_v is built, and a network's last layer is linear.

Features are dense, or in compressed rows (``torch.sparse_csr``) where most are zero, such as bags of words.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..extras import needing

with needing("graphs", __name__):
    from torch_geometric.data import Data
    from torch_geometric.nn.conv.gcn_conv import gcn_norm
    from torch_geometric.utils import scatter, softmax

Kind = Literal["gcn", "gat", "gin"]
# numbers of a block: what is computed of them stays in a CPU's cache
_BLOCK = 1 << 18
# of the code's leaky ReLUs
_SLOPE = 0.2


class Edges(NamedTuple):
    """Edges to the nodes that are wanted, with one from each of these to itself.

    Attributes:
        source: ``(E,)``, nodes.
        target: ``(E,)``, places in ``wanted``.
        weight: ``(E,)``, 1 / sqrt(degree of source, degree of target).
        wanted: ``(M,)``, nodes.
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    wanted: Tensor

    def sum(self, messages: Tensor, weight: Tensor | None = None) -> Tensor:
        """Messages ``(E, F)`` times weights, its own or others ``(E,)``, summed to ``(M, F)``."""
        weight = self.weight if weight is None else weight
        return scatter(messages * weight.unsqueeze(1), self.target, dim_size=len(self.wanted))


def edges_of(edge_index: Tensor, nodes: int, wanted: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Edges:
    """Edges ``(2, E)`` from first to second row with one from every node to itself, a loop that is there not doubled.

    Args:
        wanted: nodes whose edges are kept; None for all.

    >>> edges_of(torch.tensor([[0], [1]]), 2).source.tolist()
    [0, 0, 1]
    >>> edges_of(torch.tensor([[0], [1]]), 2, wanted=torch.tensor([1])).source.tolist()
    [0, 1]
    """
    (source, target), weight = gcn_norm(edge_index, None, nodes, dtype=dtype)
    if wanted is None:
        return Edges(source, target, weight, torch.arange(nodes, device=source.device))
    place = torch.full((nodes,), -1, device=source.device)
    place[wanted] = torch.arange(len(wanted), device=source.device)
    target = place[target]
    kept = target >= 0
    return Edges(source[kept], target[kept], weight[kept], wanted)


def localised_products(features: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """``h_u W_v`` for every edge from u to v, without any W_v: ``(h_u * a_v) W + (h_u . b_v) 1``.

    Features in compressed rows are looked up one by one; dense ones go through in blocks of edges, which are computed
    anew for gradients. Either way, no ``(E, I)`` is ever in memory.

    Args:
        features: h, ``(N, I)``; those in compressed rows are data, which get no gradient.
        scale: a, ``(M, I)``, of the nodes that are wanted.
        shift: b, ``(M, I)``.
        weight: W, ``(I, O)``.

    Returns:
        ``(E, O)``.
    """
    if features.layout == torch.sparse_csr:
        return _looked_up(features, scale, shift, weight, edges)
    return _InBlocks.apply(features, scale, shift, weight, edges.source, edges.target)


def _looked_up(features: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    first = features.crow_indices()
    # for each edge, the features that its source holds
    count = first.diff().index_select(0, edges.source)
    start = count.cumsum(0) - count
    edge = torch.arange(len(count), device=count.device).repeat_interleave(count)
    to_source = (first.index_select(0, edges.source) - start).repeat_interleave(count)
    at = torch.arange(len(edge), device=edge.device).add_(to_source)
    feature, value = features.col_indices().index_select(0, at), features.values().index_select(0, at)
    place = (edges.target * features.shape[1]).repeat_interleave(count).add_(feature)
    scaled = value * scale.flatten().index_select(0, place)
    moved = value * shift.flatten().index_select(0, place)
    one, only = moved.new_ones(1, 1), torch.zeros_like(feature)
    return _SumsOfRows.apply(weight, feature, scaled, edge, start) + _SumsOfRows.apply(one, only, moved, edge, start)


class _SumsOfRows(torch.autograd.Function):
    """Sums of rows of a matrix, each times a factor: `F.embedding_bag`, whose gradients need no sorting."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, row: Tensor, factor: Tensor, into: Tensor, start: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, row, factor, into)
        return F.embedding_bag(row, matrix, start, mode="sum", per_sample_weights=factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrix, row, factor, into = ctx.saved_tensors
        of_sum = gradient.index_select(0, into)
        of_matrix = of_factor = None
        if ctx.needs_input_grad[0]:
            of_matrix = torch.zeros_like(matrix).index_add_(0, row, of_sum * factor.unsqueeze(1))
        if ctx.needs_input_grad[2]:
            of_factor = of_sum.mul_(matrix.index_select(0, row)).sum(dim=1)
        return of_matrix, None, of_factor, None, None


def linear(features: Tensor, weight: Tensor) -> Tensor:
    """Features ``(N, I)``, dense or in compressed rows, times the transpose of weights ``(O, I)``."""
    if features.layout != torch.sparse_csr:
        return F.linear(features, weight)
    first = features.crow_indices()
    node = torch.arange(len(first) - 1, device=first.device).repeat_interleave(first.diff())
    return _SumsOfRows.apply(weight.T.contiguous(), features.col_indices(), features.values(), node, first[:-1])


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, source: Tensor, target: Tensor
    ) -> Tensor:
        ctx.save_for_backward(features, scale, shift, weight, source, target)
        products = features.new_empty(len(source), weight.shape[1])
        for block in _blocks(len(source), features.shape[1]):
            rows = features[source[block]]
            products[block] = (rows * scale[target[block]]) @ weight
            products[block] += (rows * shift[target[block]]).sum(dim=1, keepdim=True)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, scale, shift, weight, source, target = ctx.saved_tensors
        into = [torch.zeros_like(tensor) for tensor in (features, scale, shift, weight)]
        of_features, of_scale, of_shift, of_weight = into
        totals = gradient.sum(dim=1, keepdim=True)
        for block in _blocks(len(source), features.shape[1]):
            u, v = source[block], target[block]
            rows, scales, total = features[u], scale[v], totals[block]
            through = gradient[block] @ weight.T
            of_weight += (rows * scales).T @ gradient[block]
            of_scale.index_add_(0, v, rows * through)
            of_shift.index_add_(0, v, rows * total)
            if ctx.needs_input_grad[0]:
                of_features.index_add_(0, u, scales * through + shift[v] * total)
        return *into, None, None


def _blocks(count: int, width: int) -> list[slice]:
    rows = max(1, _BLOCK // width)
    return [slice(start, start + rows) for start in range(0, count, rows)]


class Film(NamedTuple):
    """Scales and shifts ``(*, outputs)``, and how far they are from 1 and 0: means of squares, summed."""

    scale: Tensor
    shift: Tensor
    distance: Tensor


class Films(nn.Module):
    """Scales and shifts, ``LeakyReLU(x M) + 1`` and ``LeakyReLU(x M')``, all near 1 and 0 where inputs are small.

    Args:
        inputs: numbers in x.
        outputs: numbers in a scale.
        rank: that M and M' are factored through, if at all.

    >>> film = Films(5, 3).of(torch.zeros(2, 6))
    >>> film.scale.shape, film.shift.unique().tolist(), film.distance.item()
    (torch.Size([2, 3]), [0.0], 0.0)
    """

    def __init__(self, inputs: int, outputs: int, rank: int | None = None) -> None:
        super().__init__()
        self.inward = nn.Linear(inputs, 2 * (rank or outputs), bias=False)
        self.outward = nn.ModuleList(nn.Linear(rank, outputs, bias=False) for _ in range(2)) if rank else None
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def of(self, inward: Tensor) -> Film:
        """What ``inward`` makes of x, ``(*, 2 rank or 2 outputs)``, summed over edges or not, to what it is for."""
        scale, shift = inward.chunk(2, dim=-1)
        if self.outward is not None:
            (scale, of_scale), (shift, of_shift) = (
                _LeakyProducts.apply(part, layer.weight, near)
                for part, layer, near in zip((scale, shift), self.outward, (1.0, 0.0), strict=True)
            )
            return Film(scale, shift, of_scale + of_shift)
        scale, shift = F.leaky_relu(scale, _SLOPE), F.leaky_relu(shift, _SLOPE)
        return Film(scale + 1, shift, _mean_square(scale) + _mean_square(shift))


class _LeakyProducts(torch.autograd.Function):
    """``LeakyReLU(x W^T) + constant`` and the mean square of the first term, in blocks that stay in a CPU's cache."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, constant: float) -> tuple[Tensor, Tensor]:
        values = input.new_empty(len(input), len(weight))
        squares = input.new_zeros(())
        for block in _blocks(*values.shape):
            rows = F.leaky_relu_(input[block] @ weight.T, _SLOPE)
            squares += rows.flatten().dot(rows.flatten())
            values[block] = rows + constant
        ctx.save_for_backward(input, weight, values)
        ctx.constant = constant
        return values, squares / max(1, values.numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_values: Tensor, of_mean: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, values = ctx.saved_tensors
        of_input, of_weight = torch.empty_like(input), torch.zeros_like(weight)
        for block in _blocks(*values.shape):
            rows = values[block] - ctx.constant
            gradient = torch.addcmul(of_values[block], rows, 2 * of_mean / values.numel())
            gradient = torch.ops.aten.leaky_relu_backward(gradient, rows, _SLOPE, True)
            of_input[block] = gradient @ weight
            of_weight += gradient.T @ input[block]
        return of_input, of_weight, None


def _mean_square(values: Tensor) -> Tensor:
    return values.square().sum() / max(1, values.numel())


class LocalConv(nn.Module):
    """One layer of LGCN, LGAT (one head) or LGIN: equations (1) to (4).

    Args:
        inputs, outputs: features of a node before and after.
        kind: of graph network that is localised.
        rank: that M_a and M_b are factored through; the paper's code does so in the first layer.
        dropout: of messages and attention.

    >>> LocalConv(5, 4)(torch.zeros(3, 5), torch.tensor([[0], [1]]))[0].shape
    torch.Size([3, 4])
    """

    def __init__(
        self, inputs: int, outputs: int, kind: Kind = "gcn", rank: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {kind!r}")
        self.kind = kind
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(nn.init.kaiming_normal_(torch.empty(inputs, outputs), mode="fan_out"))
        self.bias = nn.Parameter(nn.init.uniform_(torch.empty(outputs), -0.01, 0.01))
        self.node_films = Films(inputs, inputs, rank)
        self.bias_films = Films(inputs, outputs) if kind == "gin" else None
        self.target_films = Films(inputs, outputs)
        self.source_films = Films(inputs, outputs)
        self.last_bias = None if kind == "gin" else nn.Parameter(nn.init.uniform_(torch.empty(outputs), -0.01, 0.01))
        self.attention = nn.Linear(outputs, 2) if kind == "gat" else None

    def forward(self, features: Tensor, edge_index: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            features: ``(N, inputs)``.
            edge_index: ``(2, E)``, messages go from the first row's nodes to the second's.
            wanted: the nodes whose features are made; None for all.

        Returns:
            ``(N, outputs)``, zeros for nodes that are not wanted; and the films' distance.
        """
        edges = edges_of(edge_index, len(features), wanted, features.dtype)
        every = [each for each in (self.target_films, self.source_films, self.node_films, self.bias_films) if each]
        inward = linear(features, torch.cat([each.inward.weight for each in every]))
        of_target, of_source, *of_nodes = inward.split([each.inward.out_features for each in every], dim=1)
        # sums over edges are linear: s_v M = sum_u a_uv (h_u M), of far fewer numbers than s_v
        summed = [edges.sum(each[edges.source]) for each in of_nodes]
        films = self.node_films.of(summed[0])
        messages = localised_products(features, films.scale, films.shift, self.weight, edges)
        if self.bias_films is None:
            messages = messages + self.bias
        else:
            of_bias = self.bias_films.of(summed[1])
            messages = F.elu(messages + (self.bias * of_bias.scale + of_bias.shift)[edges.target])
        of_edges = self.target_films.of(of_target[edges.wanted][edges.target] + of_source[edges.source])
        messages = messages * of_edges.scale + of_edges.shift
        output = edges.sum(self.dropout(messages), self._weights(messages, edges))
        if self.last_bias is not None:
            output = output + self.last_bias
        if wanted is not None:
            output = output.new_zeros(len(features), output.shape[1]).index_copy(0, wanted, output)
        return output, films.distance + of_edges.distance

    def _weights(self, messages: Tensor, edges: Edges) -> Tensor:
        """Those of equation (4), ``(E,)``."""
        if self.kind == "gcn":
            return edges.weight
        own = edges.source == edges.wanted[edges.target]
        count = len(edges.wanted)
        if self.attention is None:
            twice = 1 + own.to(messages.dtype)
            return twice / scatter(twice, edges.target, dim_size=count)[edges.target]
        of_target, of_source = self.attention(messages).unbind(dim=1)
        of_target = scatter(of_target[own], edges.target[own], dim_size=count)[edges.target]
        scores = F.leaky_relu(of_target + of_source, _SLOPE)
        return self.dropout(softmax(scores, edges.target, num_nodes=count))


class Heads(nn.Module):
    """Several layers side by side, their features next to one another.

    >>> Heads([LocalConv(5, 4, "gat"), LocalConv(5, 4, "gat")])(torch.zeros(3, 5), torch.tensor([[0], [1]]))[0].shape
    torch.Size([3, 8])
    """

    def __init__(self, heads: Sequence[LocalConv]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor, edge_index: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs, distances = zip(*(head(features, edge_index, wanted) for head in self.heads), strict=True)
        return torch.cat(outputs, dim=1), torch.stack(distances).sum()


class Stored(nn.Module):
    """A layer of torch-geometric with the interface of a `LocalConv`: nothing in it is localised.

    Args:
        dense: whether it takes no features in compressed rows.
    """

    def __init__(self, layer: nn.Module, dense: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.dense = dense

    def forward(self, features: Tensor, edge_index: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output = self.layer(features.to_dense() if self.dense else features, edge_index)
        return output, output.new_zeros(())


class NodeClassifier(nn.Module):
    """Nodes to classes: dropout, a layer and, but for the last, layer norm and ELU, as often as there are layers.

    Args:
        layers: from ``(features, edge_index, wanted)`` to the next features and a distance, as `LocalConv`.
        widths: of the features before, between and after the layers.
        dropout: of each layer's inputs.
        norm: whether there are layer norms.
        residual: whether a linear map of each layer's inputs is added to what it makes of them.
        film_decay: what the penalty is, times half the sum of squares of all parameters of films (lambda_L) ...
        film_distance: ... plus this times the films' distance from 1 and 0 (lambda).

    >>> graph = Data(torch.zeros(3, 5), torch.tensor([[0], [1]]))
    >>> logits, penalty = NodeClassifier([LocalConv(5, 8), LocalConv(8, 2)], (5, 8, 2))(graph)
    >>> logits.shape, penalty.shape
    (torch.Size([3, 2]), torch.Size([]))
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        widths: Sequence[int],
        dropout: float = 0.0,
        norm: bool = False,
        residual: bool = False,
        film_decay: float = 1.0,
        film_distance: float = 1.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for width in widths[1:-1])
        self.residuals = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(widths)) if residual else None
        self.film_decay = film_decay
        self.film_distance = film_distance

    def forward(self, graph: Data) -> tuple[Tensor, Tensor]:
        """A graph to logits ``(M, classes)`` of ``graph.nodes``, or of all where it names none; and a penalty.

        What these nodes do not need is not computed, and the penalty is of what is.
        """
        features, distances = graph.x, []
        wanted = _wanted(graph, len(self.layers))
        for number, (layer, nodes) in enumerate(zip(self.layers, wanted, strict=True)):
            dropped = self._dropped(features)
            features, distance = layer(dropped, graph.edge_index, nodes)
            distances.append(distance)
            if self.residuals is not None:
                features = features + self.residuals[number](dropped)
            if number < len(self.norms):
                features = F.elu(self.norms[number](features))
        films = (each for each in self.modules() if isinstance(each, Films))
        squares = (weight.square().sum() for each in films for weight in each.parameters())
        penalty = self.film_decay / 2 * sum(squares) + self.film_distance * sum(distances)
        return features if wanted[-1] is None else features[wanted[-1]], penalty

    def _dropped(self, features: Tensor) -> Tensor:
        if features.layout != torch.sparse_csr:
            return self.dropout(features)
        values = self.dropout(features.values())
        kept = values != 0
        first = F.pad(kept.cumsum(0), (1, 0))[features.crow_indices()]
        return torch.sparse_csr_tensor(
            first, features.col_indices()[kept], values[kept], features.shape, check_invariants=False
        )


def _wanted(graph: Data, layers: int) -> list[Tensor | None]:
    """For each layer, the nodes that ``graph.nodes`` need of it; None where the graph names no nodes."""
    if "nodes" not in graph:
        return [None] * layers
    source, target = graph.edge_index
    wanted = [graph.nodes]
    for _ in range(layers - 1):
        needed = torch.zeros(len(graph.x), dtype=torch.bool, device=source.device)
        needed[wanted[0]] = True
        needed[source[needed[target]]] = True
        wanted.insert(0, needed.nonzero().flatten())
    return list(wanted)
