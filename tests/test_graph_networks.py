import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torch_geometric", reason="needs the extra graphs: pip install hyperconv[graphs]")

import torch.nn.functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import FiLMConv, GATConv, GCNConv, GINConv

from hyperconv import linear_per_sample
from hyperconv.errors import InputError
from hyperconv.zoo.graph_hypernetwork import (
    GeneratedUpdate,
    GINLayer,
    GraphClassifier,
    NNConvLayer,
    NormedUpdate,
    StoredUpdate,
)
from hyperconv.zoo.local_graph_network import Heads, LocalConv, NodeClassifier, Stored, edges_of, localised_products

INPUTS, OUTPUTS, NODES = 7, 3, 6
# directed, with a loop, a node without edges (5) and one that only receives (4)
EDGES = torch.tensor([[0, 1, 2, 2, 3, 0], [1, 2, 0, 2, 4, 3]])
KINDS = ("gcn", "gat", "gin")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def bag_of_words() -> torch.Tensor:
    """Features of which one node has none."""
    features = torch.zeros(NODES, 40, dtype=torch.double)
    for node in range(NODES - 1):
        features[node, torch.randperm(40)[: 1 + node % 3]] = torch.rand(1 + node % 3, dtype=torch.double)
    return features


def adjacency(edges: torch.Tensor, nodes: int) -> torch.Tensor:
    """Entry (v, u): whether there is an edge from u to v; every node has one to itself."""
    matrix = torch.eye(nodes, dtype=torch.double)
    matrix[edges[1], edges[0]] = 1
    return matrix


def leaky(values: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(values, 0.2)


def by_the_equations(
    layer: LocalConv, features: torch.Tensor, edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer with every W_v built, and every pair of nodes an edge of weight 0 or more."""
    nodes = len(features)
    has_edge = adjacency(edges, nodes)
    degrees = has_edge.sum(1)
    symmetric = has_edge / (degrees[:, None] * degrees[None]).sqrt()
    context = symmetric @ features

    def factors(films: nn.Module) -> list[torch.Tensor]:
        """M and M'."""
        parts = films.inward.weight.T.chunk(2, dim=1)
        return (
            list(parts)
            if films.outward is None
            else [a @ b.weight.T for a, b in zip(parts, films.outward, strict=True)]
        )

    of_scale, of_shift = factors(layer.node_films)
    scale, shift = leaky(context @ of_scale) + 1, leaky(context @ of_shift)
    weights = layer.weight * scale[:, :, None] + shift[:, :, None]
    # (v, u, outputs)
    messages = linear_per_sample(features.expand(nodes, -1, -1), weights.mT)
    bias = layer.bias.expand(nodes, -1)
    if layer.kind == "gin":
        of_scale, of_shift = factors(layer.bias_films)
        bias = bias * (leaky(context @ of_scale) + 1) + leaky(context @ of_shift)
    messages = messages + bias[:, None]
    if layer.kind == "gin":
        messages = F.elu(messages)
    (m_c, m_d), (n_c, n_d) = factors(layer.target_films), factors(layer.source_films)
    edge_scale = leaky((features @ m_c)[:, None] + features @ n_c) + 1
    edge_shift = leaky((features @ m_d)[:, None] + features @ n_d)
    messages = messages * edge_scale + edge_shift
    if layer.kind == "gcn":
        mixing = symmetric
    elif layer.kind == "gin":
        mixing = (has_edge + torch.eye(nodes)) / (degrees[:, None] + 1)
    else:
        of_target, of_source = layer.attention(messages).unbind(2)
        scores = leaky(of_target.diagonal()[:, None] + of_source)
        mixing = scores.masked_fill(has_edge == 0, -torch.inf).softmax(dim=1)
    output = (mixing[:, :, None] * messages).sum(1)
    on_edges = has_edge.bool()
    films = (scale - 1, shift, edge_scale[on_edges] - 1, edge_shift[on_edges])
    distance = sum(each.square().mean() for each in films)
    return (output if layer.last_bias is None else output + layer.last_bias), distance


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("features", ["hidden", "bag of words", "hidden, mostly zero"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_local_layer_is_what_the_equations_say_with_every_matrix_built(kind, features, rank):
    learned = features.startswith("hidden")
    dense = torch.randn(NODES, INPUTS, dtype=torch.double) if features == "hidden" else bag_of_words()
    given = dense.requires_grad_() if learned else dense.to_sparse_csr()
    layer = LocalConv(dense.shape[1], OUTPUTS, kind, rank).double()
    direction = torch.randn(NODES, OUTPUTS, dtype=torch.double)
    tensors = {"features": dense, **dict(layer.named_parameters())} if learned else dict(layer.named_parameters())
    results = []
    for output, distance in (layer(given, EDGES), by_the_equations(layer, dense, EDGES)):
        gradients = torch.autograd.grad((output * direction).sum() + distance, list(tensors.values()))
        results.append({"output": output, "distance": distance, **dict(zip(tensors, gradients, strict=True))})
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compact", [False, True])
def test_what_is_made_of_wanted_nodes_alone_is_what_is_made_of_them_among_all(kind, compact):
    features = bag_of_words()
    layer = LocalConv(features.shape[1], OUTPUTS, kind, rank=2).double()
    wanted = torch.tensor([4, 1, 5])
    everything, _ = layer(features, EDGES)
    some, distance = layer(features.to_sparse_csr() if compact else features, EDGES, wanted)
    torch.testing.assert_close(some[wanted], everything[wanted])
    assert not some[[0, 2, 3]].any() and distance > 0


@pytest.mark.parametrize("nodes", [[2], [4, 0], [5], list(range(NODES))])
def test_a_classifier_computes_for_some_nodes_what_it_does_for_all(nodes):
    layers = [LocalConv(40, 4, rank=2), LocalConv(4, 4, "gin"), LocalConv(4, OUTPUTS, "gat")]
    network = NodeClassifier(layers, (40, 4, 4, OUTPUTS), norm=True, residual=True).double()
    graph = Data(bag_of_words().to_sparse_csr(), EDGES)
    everything, penalty = network(graph)
    graph.nodes = torch.tensor(nodes)
    some, of_some = network(graph)
    torch.testing.assert_close(some, everything[nodes])
    assert (of_some == penalty) == (len(nodes) == NODES)


@pytest.mark.parametrize(
    "layer", [GCNConv(40, OUTPUTS), GATConv(40, OUTPUTS), FiLMConv(40, OUTPUTS), GINConv(nn.Linear(40, OUTPUTS))]
)
def test_layers_of_torch_geometric_take_compressed_rows(layer):
    features = bag_of_words().float()
    results = []
    for given in (features, features.to_sparse_csr()):
        output, distance = Stored(layer, dense=isinstance(layer, GINConv))(given, EDGES)
        assert distance == 0
        results.append([output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))])
    for dense, compact in zip(*results, strict=True):
        torch.testing.assert_close(compact, dense)


def test_products_in_blocks_are_those_of_one_block(monkeypatch):
    monkeypatch.setattr("hyperconv.zoo.local_graph_network._BLOCK", 2 * INPUTS)
    given = [torch.randn(NODES, INPUTS, dtype=torch.double, requires_grad=True) for _ in range(3)]
    weight = torch.randn(INPUTS, OUTPUTS, dtype=torch.double, requires_grad=True)
    edges = edges_of(EDGES, NODES, dtype=torch.double)
    features, scale, shift = given
    built = weight * scale[edges.target, :, None] + shift[edges.target, :, None]
    expected = torch.einsum("ei,eio->eo", features[edges.source], built)
    torch.testing.assert_close(localised_products(*given, weight, edges), expected)
    assert torch.autograd.gradcheck(lambda *given: localised_products(*given, edges), (*given, weight))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_whose_films_do_nothing_is_not_localised(kind):
    layer = LocalConv(INPUTS, OUTPUTS, kind)
    for films in layer.children():
        if hasattr(films, "inward"):
            nn.init.zeros_(films.inward.weight)
    features = torch.randn(NODES, INPUTS)
    output, distance = layer(features, EDGES)
    assert distance == 0
    if kind == "gcn":
        plain = GCNConv(INPUTS, OUTPUTS)
        with torch.no_grad():
            plain.lin.weight.copy_(layer.weight.T)
            plain.bias.copy_(layer.last_bias)
            layer.bias.zero_()
        torch.testing.assert_close(layer(features, EDGES)[0], plain(features, EDGES))
    # one matrix for all: nodes with the same neighbours differ by nothing
    features[4:] = features[3]
    output, _ = layer(features, torch.tensor([[0, 1, 0, 1], [4, 4, 5, 5]]))
    torch.testing.assert_close(output[4], output[5])


def test_heads_are_layers_side_by_side():
    heads = [LocalConv(INPUTS, OUTPUTS, "gat") for _ in range(2)]
    features = torch.randn(NODES, INPUTS)
    output, distance = Heads(heads)(features, EDGES)
    own = [head(features, EDGES) for head in heads]
    torch.testing.assert_close(output, torch.cat([each for each, _ in own], dim=1))
    torch.testing.assert_close(distance, own[0][1] + own[1][1])


def test_an_unknown_kind_of_graph_network_is_refused():
    with pytest.raises(ValueError, match="kind must be one of gcn, gat, gin; got 'gnn'"):
        LocalConv(INPUTS, OUTPUTS, "gnn")


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_of_one_node_and_of_none(kind):
    layer = LocalConv(INPUTS, OUTPUTS, kind).double()
    alone, no_edges = torch.randn(1, INPUTS, dtype=torch.double), torch.empty(2, 0, dtype=torch.long)
    for edges in (no_edges, torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long)):
        torch.testing.assert_close(layer(alone, edges)[0], by_the_equations(layer, alone, no_edges)[0])
    output, distance = layer(alone[:0], no_edges)
    assert output.shape == (0, OUTPUTS) and distance == 0
    (output.sum() + distance).backward()


def test_the_penalty_is_that_of_the_papers_loss():
    layers = [LocalConv(INPUTS, 4, rank=2), LocalConv(4, OUTPUTS)]
    network = NodeClassifier(layers, (INPUTS, 4, OUTPUTS), film_decay=0.5, film_distance=0.1)
    graph = Data(torch.randn(NODES, INPUTS), EDGES)
    logits, penalty = network(graph)
    hidden, first = layers[0](graph.x, EDGES)
    output, second = layers[1](F.elu(hidden), EDGES)
    torch.testing.assert_close(logits, output)
    squares = sum(value.square().sum() for name, value in network.named_parameters() if "films" in name)
    torch.testing.assert_close(penalty, 0.5 * squares / 2 + 0.1 * (first + second))
    plain = NodeClassifier([Stored(GCNConv(INPUTS, OUTPUTS))], (INPUTS, OUTPUTS))
    assert plain(graph)[1] == 0


def test_norms_residuals_and_dropout_of_a_node_classifier():
    def network(**options) -> NodeClassifier:
        torch.manual_seed(0)
        layers = [Stored(GCNConv(INPUTS, 4)), Stored(GCNConv(4, OUTPUTS))]
        return NodeClassifier(layers, (INPUTS, 4, OUTPUTS), **options)

    graph = Data(torch.randn(NODES, INPUTS), EDGES)
    plain, residual, norm = network(), network(residual=True), network(norm=True)
    hidden = plain.layers[0](graph.x, EDGES)[0]
    torch.testing.assert_close(plain(graph)[0], plain.layers[1](F.elu(hidden), EDGES)[0])
    hidden = F.elu(residual.layers[0](graph.x, EDGES)[0] + residual.residuals[0](graph.x))
    expected = residual.layers[1](hidden, EDGES)[0] + residual.residuals[1](hidden)
    torch.testing.assert_close(residual(graph)[0], expected)
    hidden = norm.layers[0](graph.x, EDGES)[0]
    expected = norm.layers[1](F.elu(F.layer_norm(hidden, (4,))), EDGES)[0]
    torch.testing.assert_close(norm(graph)[0], expected)
    dropping = network(dropout=0.5)
    assert not torch.equal(dropping(graph)[0], dropping(graph)[0])
    torch.testing.assert_close(dropping.eval()(graph)[0], plain(graph)[0])


@pytest.mark.parametrize("sees_first", [True, False])
def test_every_node_is_updated_by_a_perceptron_of_its_own(sees_first):
    update = GeneratedUpdate(5, 4, sees_first).double()
    for parameter in update.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    message, first = torch.randn(2, 6, 5, dtype=torch.double, requires_grad=True).unbind()
    f = update.trunk
    context = (torch.cat([message, first], 1) if sees_first else message) @ f[0].weight.T + f[0].bias
    context = torch.tanh(context).mm(f[2].weight.T).add(f[2].bias).tanh()
    expected = message
    for layer in update.layers:
        weights = torch.einsum("nj,joi->noi", context, layer.generator.weight) + layer.generator.bias
        biases = context @ layer.bias_generator.weight + layer.bias_generator.bias
        expected = torch.tanh(torch.einsum("noi,ni->no", weights, expected) + biases)
    output = update(message, first)
    torch.testing.assert_close(output, expected)
    parameters, direction = list(update.parameters()), torch.randn_like(output)
    gradients = [torch.autograd.grad((each * direction).sum(), parameters) for each in (output, expected)]
    torch.testing.assert_close(*gradients)


def test_at_first_all_nodes_have_the_weights_of_one_plain_perceptron():
    update = GeneratedUpdate(32, 8)
    message, first = torch.randn(2, 10, 32).unbind()
    hidden = message
    for layer in update.layers:
        hidden = F.linear(hidden, layer.generator.bias, layer.bias_generator.bias).tanh()
        assert layer.generator.bias.std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.1)
    torch.testing.assert_close(update(message, first), hidden)
    update(message, first).sum().backward()
    assert all(layer.generator.weight.grad.abs().max() > 0 for layer in update.layers)


def layer_of(name: str) -> GINLayer | NNConvLayer:
    makers = {
        "first message": lambda: GINLayer(GeneratedUpdate(6, 4)),
        "no first message": lambda: GINLayer(GeneratedUpdate(6, 4, sees_first=False)),
        "stored": lambda: GINLayer(StoredUpdate(6, 9)),
        "normed": lambda: GINLayer(NormedUpdate(6, 9)),
        "nnconv": lambda: NNConvLayer(6, 2, 3),
    }
    return makers[name]()


NAMES = ("first message", "no first message", "stored", "normed", "nnconv")


def random_graph(nodes: int, edges: int) -> Data:
    ends = torch.randint(nodes, (2, edges)) if nodes else torch.empty(2, 0, dtype=torch.long)
    return Data(torch.randn(nodes, 3), ends, torch.randn(ends.shape[1], 2))


@pytest.mark.parametrize("name", NAMES)
def test_graphs_of_a_batch_do_not_see_one_another(name):
    network = GraphClassifier(3, 5, 6, 2, lambda: layer_of(name), nodes=10).eval()
    # one without edges, one of a node, an empty one, one with loops and edges both ways
    looped = Data(torch.randn(2, 3), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]), torch.randn(4, 2))
    graphs = [random_graph(4, 6), random_graph(5, 0), random_graph(1, 0), random_graph(0, 0), looped]
    together = network(Batch.from_data_list(graphs))
    assert together.shape == (5, 5)
    for graph, logits in zip(graphs, together, strict=True):
        torch.testing.assert_close(network(graph)[0], logits)
    network.train()(Batch.from_data_list(graphs[1:4])).sum().backward()
    network(graphs[2]).sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_nodes_does_not_matter_but_the_direction_of_edges_does(name):
    network = GraphClassifier(3, 5, 6, 2, lambda: layer_of(name), nodes=10).eval()
    graph = random_graph(6, 9)
    if "message" in name:
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    order = torch.randperm(6)
    place = order.argsort()
    renamed = Data(graph.x[order], place[graph.edge_index], graph.edge_attr)
    torch.testing.assert_close(network(renamed), network(graph))
    turned = Data(graph.x, graph.edge_index.flip(0), graph.edge_attr)
    assert not torch.allclose(network(turned), network(graph), atol=1e-4)


def test_the_benchmark_compares_what_is_never_built_with_what_is(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    benchmark = importlib.import_module("graphs")
    benchmark.main(benchmark.Graphs(device="cpu", nodes=30, features=40, edges=60, outputs=2, rounds=2))
    told = capsys.readouterr().out
    assert told.count("never built") == told.count("built, batched products") == 2
    with pytest.raises(InputError, match="float32"):
        benchmark.main(benchmark.Graphs(device="cpu", precision="bf16"))


def test_what_is_never_built_takes_a_fifth_of_the_memory_at_the_width_of_cora(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    benchmark, common = (importlib.import_module(name) for name in ("graphs", "common"))
    machine = benchmark.Graphs(device="cpu").machine()
    for case in benchmark.cases_of(machine, nodes=500, features=1433, edges=2000, outputs=8):
        unbuilt, built = (common.peak_memory(run, machine.device) for run in case.make().values())
        assert unbuilt <= built / 5, case.name


@pytest.mark.parametrize("sees_first", [True, False])
def test_a_stored_update_sees_the_first_message_only_if_it_is_to(sees_first):
    update = StoredUpdate(4, 8, sees_first)
    message, first = torch.randn(2, 3, 4)
    assert torch.equal(update(message, first), update(message, -first)) is not sees_first
