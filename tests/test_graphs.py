import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

pytest.importorskip("torch_geometric", reason="needs the extra graphs: pip install hyperconv[graphs]")
pytest.importorskip("skimage", reason="needs the extra graphs: pip install hyperconv[graphs]")

from helpers import run
from writers import write_citations, write_tu, write_wiki

from hyperconv import plotting
from hyperconv.data import graphs as graphs_module
from hyperconv.data import load_digits, node_graphs
from hyperconv.data.graphs import collate, read_tu, superpixel_digits, superpixels, tu_graphs
from hyperconv.data.node_graphs import citation_graph, digit_graph, few_of_each, homophily, wiki_graph
from hyperconv.errors import InputError
from hyperconv.experiments import graph_hyper, lgnn, results
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.experiment import Experiment
from hyperconv.experiments.graph_hyper import GraphDepthOptions, GraphHyperOptions
from hyperconv.experiments.lgnn import LgnnOptions
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.experiments.trained import load_trained
from hyperconv.experiments.tune import combinations


def test_a_digit_is_cut_into_superpixels_joined_to_their_nearest(digits_folder):
    digits = load_digits(str(digits_folder))
    images, labels = digits.train[:1]
    graph = superpixels(images[0, 0], labels[0])
    assert graph.num_nodes == pytest.approx(75, abs=15)
    brightness, places = graph.x[:, 0], graph.x[:, 1:]
    assert brightness.min() >= 0 and brightness.max() <= 1
    # what is bright lies where the digit is
    image = images[0, 0].float()
    middle = (image.sum(1) @ torch.linspace(-1, 1, 28)) / image.sum()
    assert (brightness @ places[:, 0]) / brightness.sum() == pytest.approx(middle.item(), abs=0.1)
    source, target = graph.edge_index
    assert (target.bincount() == 8).all() and (source != target).all()
    torch.testing.assert_close(graph.edge_attr, places[target] - places[source])
    distances = torch.cdist(places, places).fill_diagonal_(torch.inf)
    torch.testing.assert_close(
        graph.edge_attr.norm(dim=1).view(-1, 8).amax(1), distances.topk(8, largest=False).values[:, -1]
    )
    assert graph.y.item() == labels[0]


def test_an_image_of_one_region_is_a_graph_of_one_node(monkeypatch):
    pytest.importorskip("skimage.segmentation")
    monkeypatch.setattr("skimage.segmentation.slic", lambda image, *_, **__: np.zeros(image.shape, int))
    graph = superpixels(torch.full((28, 28), 51, dtype=torch.uint8), torch.tensor(3))
    torch.testing.assert_close(graph.x, torch.tensor([[0.2, 0.0, 0.0]]), atol=1e-6, rtol=0)
    assert graph.edge_index.shape == (2, 0) and graph.edge_attr.shape == (0, 2)
    network = experiments()["graph-hyper"].arms["hyper"].network()
    assert network(collate([graph, graph])).isfinite().all()


def test_splits_of_superpixels_are_those_of_the_digits(digits_folder):
    digits, graphs = load_digits(str(digits_folder)), superpixel_digits(str(digits_folder))
    for split in ("train", "validation", "test"):
        labels = torch.cat([graph.y for graph in getattr(graphs, split)])
        assert torch.equal(labels, getattr(digits, split).labels)


def test_graphs_of_a_collection_are_read_as_they_are_written(tmp_path):
    graphs = read_tu(write_tu(tmp_path), "MUTAG")
    assert len(graphs) == 40
    for number, graph in enumerate(graphs):
        nodes, ring = 3 + number % 5, number % 2
        assert graph.num_nodes == nodes and graph.y.item() == ring
        assert torch.equal(graph.x.argmax(1), torch.arange(nodes) % 3) and graph.x.shape[1] == 7
        ends = torch.arange(nodes if ring else nodes - 1)
        expected = {(a, (a + 1) % nodes) for a in ends.tolist()}
        assert set(map(tuple, graph.edge_index.T.tolist())) == expected | {(b, a) for a, b in expected}
        assert torch.equal(graph.edge_attr.argmax(1), (ends % 4).repeat_interleave(2)) and graph.edge_attr.shape[1] == 4


def test_one_is_the_same_from_torch_geometric(tmp_path):
    from torch_geometric.io import read_tu_data

    everything, slices, _ = read_tu_data(str(write_tu(tmp_path)), "MUTAG")
    for number, graph in enumerate(read_tu(tmp_path, "MUTAG")):
        start, stop = slices["x"][number : number + 2].tolist()
        assert torch.equal(graph.x.argmax(1), everything.x[start:stop].argmax(1))
        start, stop = slices["edge_index"][number : number + 2].tolist()
        theirs = everything.edge_index[:, start:stop]
        assert set(map(tuple, graph.edge_index.T.tolist())) == set(map(tuple, theirs.T.tolist()))


def test_every_graph_is_tested_on_in_one_fold_and_shares_of_classes_are_alike(tmp_path):
    write_tu(tmp_path / "MUTAG" / "raw")
    tested = []
    for fold in range(10):
        splits = tu_graphs("MUTAG", str(tmp_path), fold)
        assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [32, 4, 4]
        assert sum(graph.y.item() for graph in splits.test) == 2
        tested += [(graph.num_nodes, graph.y.item()) for graph in splits.test]
    assert sorted(tested) == sorted((3 + n % 5, n % 2) for n in range(40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": "1, 2\n2, one\n"}, "MUTAG_A.txt does not hold lines of 2 whole numbers"),
        ({"A": "1, 2\n2\n"}, "MUTAG_A.txt does not hold lines of 2 whole numbers"),
        ({"A": "1, 900\n", "edge_labels": "0\n"}, "edges lead out of the 200 nodes"),
        ({"A": "1, 9\n", "edge_labels": "0\n"}, "edges lead from graph to graph"),
        ({"A": ""}, "MUTAG_A.txt does not hold lines"),
        ({"edge_labels": "0\n"}, "edges have too few or too many labels"),
        ({"node_labels": "0\n"}, "200 nodes have 1 labels"),
        ({"graph_labels": "1\n" * 40}, "there are 1 classes, not 2"),
        ({"graph_labels": "1\n-1\n"}, "nodes are not of the 2 graphs"),
        ({"graph_indicator": "2\n" + "1\n" * 199}, "nodes of one graph do not follow one another"),
        ({"node_labels": "9\n" * 200}, "labels of nodes are not 0 to 6"),
        ({"edge_labels": "5\n" * 360}, "those of edges are not 0 to 3"),
    ],
)
def test_an_unsound_collection_is_refused_in_a_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as refusal:
        tu_graphs("MUTAG", str(write_tu(tmp_path, **changes)))
    assert "\n" not in str(refusal.value)


def test_citations_are_read_as_they_are_written(tmp_path):
    splits = citation_graph("Cora", str(write_citations(tmp_path / "Cora").parent))
    graph = splits.train[torch.tensor([0])]
    assert splits.name == "cora-other" and len(splits.train) == 10
    features = graph.x.to_dense()
    assert graph.x.layout == torch.sparse_csr and graph.x._nnz() == 180
    assert features.shape == (60, 1433) and torch.equal(features.sum(1), torch.ones(60))
    assert features[8].nonzero().flatten().tolist() == [1, 11, 108]
    assert torch.equal(graph.y, torch.arange(60) % 7)
    assert torch.equal(graph.nodes, torch.arange(30))
    assert torch.equal(splits.test[torch.tensor([0])].nodes, torch.arange(40, 60))
    assert f"{graph.edge_index.shape[1]} edges" in splits.note


def test_nodes_without_a_label_are_in_no_split(tmp_path):
    labels = np.arange(60) % 7
    labels[[3, 35]] = -1
    splits = citation_graph("Cora", str(write_citations(tmp_path, y=labels)))
    graph = splits.train[torch.tensor([0])]
    assert 3 not in graph.nodes and len(graph.nodes) == 29 and graph.num_nodes == 60
    assert "(2 more have no label)" in splits.note
    with pytest.raises(InputError, match="none of the 10 validation nodes has a label"):
        citation_graph("Cora", str(write_citations(tmp_path, y=np.where(np.arange(60) // 10 == 3, -1, labels))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "holds no array y"),
        ({"y": np.zeros(60)}, "y in .* is float64"),
        ({"y": np.arange(50) % 7}, "60 nodes have 50 labels"),
        ({"edge_index": np.array([[0], [60]])}, "edges lead out of the 60 nodes"),
        ({"edge_index": np.array([[0], [1], [2]])}, "edges of 3 ends"),
        ({"train_idx": np.array([0, -1])}, "splits lead out"),
        ({"train_idx": np.arange(35)}, "splits have nodes in common"),
        ({"test_idx": np.array([], int)}, "none of the 0 test nodes has a label"),
        ({"x_shape": np.array([60, 1432])}, "1432 features"),
        ({"x_shape": np.array([60])}, "no compressed rows"),
        ({"x_indptr": np.arange(0, 1000, 3)}, "no compressed rows"),
        ({"x_indices": np.full(180, 2000)}, "no compressed rows"),
        ({"x_data": np.full(180, np.nan)}, "features are not all numbers"),
    ],
)
def test_unsound_citations_are_refused_in_a_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as refusal:
        citation_graph("Cora", str(write_citations(tmp_path, **changes)))
    assert "\n" not in str(refusal.value)


def test_a_wikis_ten_splits_and_few_labels(tmp_path):
    write_wiki(tmp_path)
    first, second = (wiki_graph("chameleon", str(tmp_path), fold) for fold in (0, 1))
    graph = first.train[torch.tensor([0])]
    assert len(graph.nodes) == 150 and not torch.equal(graph.nodes, second.train[torch.tensor([0])].nodes)
    # the file's links go one way
    assert graph.edge_index.shape[1] == 2 * 299
    few = wiki_graph("chameleon", str(tmp_path), few_labels=True)
    parts = [split[torch.tensor([0])].nodes for split in (few.train, few.validation, few.test)]
    assert [len(part) for part in parts] == [100, 100, 100] and len(torch.cat(parts).unique()) == 300
    assert (graph.y[parts[0]].bincount() == 20).all()


def test_few_of_each_leaves_out_what_has_no_label():
    labels = np.where(np.arange(400) % 4 == 3, -1, np.arange(400) % 3)
    train, validation, test = few_of_each(labels, fold=2)
    assert [len(each) for each in (train, validation, test)] == [60, 100, 140]
    assert (labels[np.concatenate([train, validation, test])] >= 0).all()
    assert not np.array_equal(train, few_of_each(labels, fold=3)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_masks": np.zeros((9, 300), bool)}, r"train_masks in .* are \(9, 300\)"),
        ({"edges": np.zeros((2, 9), int)}, "edges of 9 ends"),
        ({"node_labels": np.zeros(300, int)}, "1 classes"),
    ],
)
def test_an_unsound_wiki_is_refused_in_a_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        wiki_graph("chameleon", str(write_wiki(tmp_path, **changes)))


@pytest.mark.parametrize(
    "load", [lambda: citation_graph("Cora", "/nowhere"), lambda: wiki_graph("chameleon", "/nowhere")]
)
def test_a_missing_file_is_told_in_a_line(load):
    with pytest.raises(InputError, match=r"there is no (cora|chameleon).npz in /nowhere; give the folder of"):
        load()


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        (lambda: citation_graph("Cora"), "torch_geometric.datasets.Planetoid"),
        (lambda: tu_graphs("MUTAG"), "torch_geometric.datasets.TUDataset"),
    ],
)
def test_data_that_cannot_be_downloaded_leave_nothing_and_a_line(tmp_path, monkeypatch, load, kind):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test\nat all")

    monkeypatch.setattr(kind, refuse)
    monkeypatch.setattr(graphs_module, "LOCAL_FOLDER", tmp_path)
    monkeypatch.setattr(node_graphs, "_CITATIONS_FOLDER", tmp_path / "citations")
    with pytest.raises(InputError, match=r"no download of \w+ \(OSError: no network in this test at all\)") as refusal:
        load()
    assert "\n" not in str(refusal.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_downloaded_is_kept_only_if_it_is_what_was_published(tmp_path, monkeypatch):
    made = citation_graph("Cora", str(write_citations(tmp_path / "made")))
    graph = made.train[torch.tensor([0])].clone()
    graph.x = graph.x.to_dense()
    for role, split in (("train", made.train), ("val", made.validation), ("test", made.test)):
        mask = torch.zeros(60, dtype=torch.bool)
        mask[split[torch.tensor([0])].nodes] = True
        graph[f"{role}_mask"] = mask
    monkeypatch.setattr("torch_geometric.datasets.Planetoid", lambda folder, name: [graph])
    monkeypatch.setattr(node_graphs, "_CITATIONS_FOLDER", tmp_path / "citations")
    with pytest.raises(InputError, match="what was sent is not what was published"):
        citation_graph("Cora")
    with np.load(tmp_path / "made" / "cora.npz") as arrays:
        monkeypatch.setitem(node_graphs._DIGESTS, "Cora", node_graphs._digest(arrays))
    kept = citation_graph("Cora")
    assert kept.name == "cora" and (tmp_path / "citations" / "cora.npz").is_file()
    assert torch.equal(kept.train[torch.tensor([0])].edge_index.sort().values, graph.edge_index.sort().values)
    torch.testing.assert_close(kept.test[torch.tensor([0])].x.to_dense(), graph.x.to_dense())


def test_half_of_a_digit_graphs_edges_are_rewired(digits_folder):
    plain, rewired = (digit_graph(str(digits_folder), rewired=share) for share in (0.0, 0.5))
    assert rewired.name == f"{plain.name}-rewired"
    shares = []
    for splits in (plain, rewired):
        graph = splits.train[torch.tensor([0])]
        edges = graph.edge_index.numpy()
        assert set(map(tuple, edges.T)) == set(map(tuple, edges[::-1].T))
        assert (graph.y[graph.nodes].bincount() <= 20).all()
        shares.append(homophily(edges, graph.y.numpy()))
    assert shares[1] == pytest.approx(0.5 * shares[0] + 0.5 * 0.1, abs=0.06)
    # nodes to train on come first, and lose as many edges as others
    degrees = np.bincount(edges[0], minlength=len(graph.y))
    first = len(degrees) // 2
    assert degrees[:first].mean() == pytest.approx(degrees[first:].mean(), rel=0.15)


@pytest.fixture(scope="module")
def sources(tmp_path_factory, digits_folder) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("graphs")
    write_tu(folder, "MUTAG"), write_tu(folder, "PROTEINS")
    write_citations(folder, "cora"), write_citations(folder, "citeseer", nodes=70)
    write_wiki(folder, "chameleon"), write_wiki(folder, "chameleon_filtered")
    return {
        name: str(digits_folder if name.startswith("digits") else folder) for name in [*graph_hyper.TASKS, *lgnn.SIZES]
    }


def adapted(name: str, options: GraphHyperOptions | LgnnOptions) -> Experiment:
    return experiments()[name].with_options(options)


@pytest.mark.parametrize("graphs", graph_hyper.TASKS)
def test_arms_that_classify_graphs_have_about_equal_parameters(graphs):
    arms = adapted("graph-hyper", GraphHyperOptions(graphs=graphs)).arms
    counts = {name: sum(p.numel() for p in arm.network().parameters()) for name, arm in arms.items()}
    assert max(counts.values()) < 1.05 * min(counts.values()), counts
    assert ("nnconv" in arms) == (graphs != "PROTEINS")


@pytest.mark.parametrize("graph", lgnn.SIZES)
@pytest.mark.parametrize("tuned", [False, True])
def test_every_arm_classifies_the_nodes_of_every_graph(sources, graph, tuned):
    experiment = adapted("lgnn", LgnnOptions(graph=graph, tuned=tuned))
    splits = experiment.load(sources[graph])
    batch = splits.train[torch.tensor([0])]
    for name, arm in experiment.arms.items():
        if name == "lgat" and graph != "cora":
            continue  # eight heads take their time
        network = arm.network()
        values = experiment.objective.score(network, batch, torch.Generator())
        values["loss"].backward()
        assert values["loss"].isfinite(), name
        own = experiment.objective.score(network, batch, None)["loss"]
        assert values["loss"] > own or not name.startswith("l"), name


@pytest.mark.parametrize("graph", lgnn.SIZES)
def test_tuned_arms_are_given_equal_grids_and_a_choice_from_them(graph):
    arms = adapted("lgnn", LgnnOptions(graph=graph, tuned=True)).arms
    assert {len(combinations(arm)) for arm in arms.values()} == {16}
    for name, arm in arms.items():
        for setting, values in arm.grid.items():
            assert getattr(lgnn.TUNED[graph][name], setting) in values
    told = LgnnOptions(graph=graph, tuned=True, hidden=32, dropout=0.1, blocks="residual", film_penalty=0.5)
    told_arms = adapted("lgnn", told).arms
    network = told_arms["gcn"].network()
    assert network.norms[0].normalized_shape == (32,) and network.dropout.p == 0.1 and network.residuals is not None
    network = told_arms["lgcn"].network()
    assert network.film_decay == network.film_distance == 0.5


@pytest.mark.parametrize("graphs", graph_hyper.TASKS)
def test_chosen_rates_are_of_the_grid(graphs):
    for name, arm in adapted("graph-hyper", GraphHyperOptions(graphs=graphs)).arms.items():
        assert arm.recipe.learning_rate in arm.grid["learning_rate"], name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--hidden", "32"), "--hidden is a setting of tuned arms"),
        (("--graph", "cora", "--few_labels"), "--few_labels is a setting of Chameleon"),
        (("--graph", "karate"), "karate"),
    ],
)
def test_settings_that_contradict_one_another_are_refused_in_a_line(tmp_path, capsys, flags, message):
    code, _, err = run(capsys, "--experiment", "lgnn", *flags, "--logs", str(tmp_path / "logs"))
    assert code == 2 and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("arm", experiments()["graph-hyper"].arms)
def test_rings_are_told_from_paths(sources, arm):
    torch.manual_seed(0)
    experiment = adapted("graph-hyper", GraphHyperOptions(graphs="MUTAG", depth=2))
    splits = experiment.load(sources["MUTAG"])
    network = experiment.arms[arm].network()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    seen, unseen = collate(splits.train), collate([*splits.validation, *splits.test])
    for _ in range(60):
        optimizer.zero_grad()
        experiment.objective.score(network, seen, torch.Generator())["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        logits, classes = experiment.objective.score(network.eval(), unseen, None)["acc"]
    assert (logits.argmax(1) == classes).sum() >= 7


def test_folds_and_depth_are_told_in_results_and_checkpoints(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(graph_hyper, "FOLDS", 2)
    places = {"logs": str(tmp_path), "out": str(tmp_path), "accelerator": "cpu", "name": "rings"}
    settings = Run(experiment="graph-hyper", arms=("hyper",), data=sources["MUTAG"], epochs=1, **places)
    rows = run_experiment(settings, GraphHyperOptions(graphs="MUTAG", depth=2)).rows
    assert {row.fold for row in rows} == {0, 1}
    assert {(row.data, row.settings) for row in rows} == {("mutag", "graphs=MUTAG depth=2 epochs=1")}
    network = load_trained(tmp_path / "rings" / "hyper" / "seed0" / "fold0" / "best.ckpt")
    assert len(network.layers) == 2
    assert results.read(tmp_path / "rings" / "results.csv") == rows


def test_losses_of_every_seed_are_drawn_by_depth(tmp_path, sources, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: drawn.append((figure, path)))
    places = {"logs": str(tmp_path), "out": str(tmp_path), "accelerator": "cpu"}
    arms = ("hyper-2", "hyper-4", "gin-2")
    settings = Run("graph-hyper-depth", arms=arms, data=sources["MUTAG"], epochs=2, seeds=(0, 1), **places)
    rows = run_experiment(settings, GraphDepthOptions(graphs="MUTAG")).rows
    assert {(row.arm, row.seed, row.fold) for row in rows} == {(arm, seed, None) for arm in arms for seed in (0, 1)}
    ((figure, path),) = drawn
    assert path.name == "graph-hyper-depth-graphs-MUTAG-epochs2.png"
    assert [axis.get_title() for axis in figure.axes] == ["2 layers", "4 layers", "largest rise of it"]
    assert [len(axis.lines) for axis in figure.axes[:2]] == [4, 2]
    assert [len(points.get_xdata()) for points in figure.axes[2].lines] == [4, 2]
    plt.close(figure)


@pytest.mark.parametrize("arm", experiments()["lgnn"].arms)
def test_nodes_are_told_apart_by_their_words_and_neighbours(sources, arm):
    torch.manual_seed(0)
    experiment = adapted("lgnn", LgnnOptions(graph="cora"))
    splits = experiment.load(sources["cora"])
    network = experiment.arms[arm].network()
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        experiment.objective.score(network, splits.train[torch.tensor([0])], torch.Generator())["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        score = experiment.objective.score(network.eval(), splits.test[torch.tensor([0])], None)
    logits, classes = score["acc"]
    # a seventh by chance
    assert (logits.argmax(1) == classes).float().mean() > 0.4
