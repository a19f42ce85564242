"""Tasks that no published experiment here has yet: the frame must carry any."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from helpers import run, table
from torch import nn
from torch.utils.data import Subset
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.image import PeakSignalNoiseRatio

from hyperconv.data import Splits, batch_loader
from hyperconv.data.folds import fold_of
from hyperconv.experiments import results
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.experiment import Arm, Experiment, Figure
from hyperconv.experiments.ode import RootOfMean
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.experiments.trained import load_trained
from hyperconv.training import Recipe
from hyperconv.training.objectives import LOSS, Measured, Metric, Objective, accuracy

RECIPE = Recipe("adam", 1e-2, 0.0, "constant", batch_size=4, epochs=2, patience=None, shuffle=True)
RMSE = Metric("rmse", "RMSE", RootOfMean, "lower")
draws = partial(torch.Generator().manual_seed, 0)


class Dictionaries:
    """Series to continue: each sample is a dict, and so is a batch."""

    @staticmethod
    def load(source: str) -> Splits:
        starts = torch.rand(40, generator=draws()) * 6
        times = torch.arange(12) / 4
        series = [{"seen": wave[:8], "next": wave[8:]} for wave in (starts[:, None] + times).sin()]
        return Splits("series", series[:20], series[20:30], series[30:], note="series")

    @staticmethod
    def collate(samples):
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    @staticmethod
    def score(network, batch, draws):
        squared = (network(batch["seen"]) - batch["next"]).square()
        return {LOSS: squared.mean(), "rmse": (squared.detach(),)}


class Persistence(nn.Module):
    """What was last seen goes on."""

    def forward(self, seen):
        return seen[:, -1:].expand(-1, 4)


DICTIONARIES = Experiment(
    name="dictionaries",
    paper="",
    task="",
    minutes=0,
    arms={"linear": Arm(partial(nn.Linear, 8, 4)), "persistence": Arm(Persistence)},
    recipe=RECIPE,
    objective=Objective(Dictionaries.score, (RMSE,), loss="squared error"),
    load=Dictionaries.load,
    collate=Dictionaries.collate,
)


class Volumes:
    """Volumes of differing size to segment: a batch is a list of pairs."""

    @staticmethod
    def load(source: str) -> Splits:
        sizes = torch.randint(3, 7, (24, 3), generator=draws()).tolist()
        volumes = [torch.rand(1, *size, generator=torch.Generator().manual_seed(n)) for n, size in enumerate(sizes)]
        pairs = [(volume, (volume[0] > 0.5).long()) for volume in volumes]
        return Splits("volumes", pairs[:8], pairs[8:16], pairs[16:], note="volumes")

    @staticmethod
    def score(network, batch, draws):
        losses, predicted, labels, brightness = [], [], [], []
        for volume, classes in batch:
            logits = network(volume[None])
            losses.append(nn.functional.cross_entropy(logits, classes[None]))
            predicted.append(logits.detach().argmax(1).flatten())
            labels.append(classes.flatten())
            brightness.append((logits.detach()[0, 1].sigmoid().flatten(), volume.flatten()))
        restored, images = map(torch.cat, zip(*brightness, strict=True))
        measured = torch.cat(predicted), torch.cat(labels)
        return {LOSS: torch.stack(losses).mean(), "miou": measured, "psnr": (restored, images)}


VOLUMES = Experiment(
    name="volumes",
    paper="",
    task="",
    minutes=0,
    arms={"convolution": Arm(partial(nn.Conv3d, 1, 2, 3, padding=1))},
    recipe=RECIPE,
    objective=Objective(
        Volumes.score,
        (
            Metric("miou", "mIoU", partial(MulticlassJaccardIndex, num_classes=2), "higher", percent=True),
            Metric("psnr", "PSNR", partial(PeakSignalNoiseRatio, data_range=1.0), "higher"),
        ),
        chosen_by="miou",
        samples=len,
    ),
    load=Volumes.load,
    collate=list,
)


class Graphs:
    """Rings and paths of differing size to tell apart: a batch is torch-geometric's."""

    @staticmethod
    def load(source: str) -> Splits:
        from torch_geometric.data import Data

        graphs = []
        for number in range(24):
            nodes = 4 + number % 5
            ring = number % 2
            ends = torch.arange(nodes if ring else nodes - 1)
            edges = torch.stack([ends, (ends + 1) % nodes])
            features = torch.ones(nodes, 1)
            graphs.append(Data(x=features, edge_index=torch.cat([edges, edges.flip(0)], 1), y=torch.tensor([ring])))
        return Splits("graphs", graphs[:8], graphs[8:16], graphs[16:], note="graphs")

    @staticmethod
    def collate(graphs):
        from torch_geometric.data import Batch

        return Batch.from_data_list(graphs)

    @staticmethod
    def score(network, batch, draws):
        logits = network(batch.x, batch.edge_index, batch.batch, batch.num_graphs)
        return {LOSS: nn.functional.cross_entropy(logits, batch.y), "acc": (logits.detach(), batch.y)}


class Degrees(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes = nn.Linear(2, 2)

    def forward(self, features, edges, graph_of_node, graphs):
        neighbours = torch.zeros_like(features).index_add(0, edges[1], features[edges[0]])
        told = torch.cat([features, (neighbours - 2).abs()], dim=1)
        return self.classes(torch.zeros(graphs, 2).index_add(0, graph_of_node, told))


GRAPHS = Experiment(
    name="graphs",
    paper="",
    task="",
    minutes=0,
    arms={"degrees": Arm(Degrees)},
    recipe=RECIPE,
    objective=Objective(
        Graphs.score,
        (accuracy(2),),
        samples=lambda batch: batch.num_graphs,
    ),
    load=Graphs.load,
    collate=Graphs.collate,
)


def load_fold(source: str, fold: int) -> Splits:
    series = torch.randn(30, 3, generator=draws())
    samples = torch.utils.data.TensorDataset(series[:, :2], series[:, 2])
    train, validation, test = (Subset(samples, index) for index in fold_of(30, fold, folds=5))
    return Splits("numbers", train, validation, test, note=f"fold {fold}: {len(test)} to test on")


def score_of_sum(network, batch, draws):
    inputs, answers = batch
    squared = (network(inputs).squeeze(1) - answers).square()
    return {LOSS: squared.mean(), "rmse": (squared.detach(),)}


FOLDS = Experiment(
    name="folds",
    paper="",
    task="",
    minutes=0,
    arms={"linear": Arm(partial(nn.Linear, 2, 1))},
    recipe=RECIPE,
    objective=Objective(score_of_sum, (RMSE,)),
    load=load_fold,
    folds=5,
)


@pytest.fixture
def declare(monkeypatch):
    def declared(experiment: Experiment) -> Experiment:
        monkeypatch.setitem(experiments(), experiment.name, experiment)
        return experiment

    return declared


def trained(tmp_path, experiment: Experiment, **settings):
    places = {"logs": str(tmp_path / "logs"), "out": str(tmp_path / "out"), "accelerator": "cpu"}
    return run_experiment(Run(experiment=experiment.name, **places, **settings))


def figures(rows, split="test"):
    return {(row.arm, row.metric): row.value for row in rows if row.split == split}


def test_dictionaries_are_batches_and_arms_without_parameters_are_evaluated(tmp_path, declare):
    outcome = trained(tmp_path, declare(DICTIONARIES))
    found = figures(outcome.rows)
    series = Dictionaries.collate(Dictionaries.load("").test)
    error = (series["seen"][:, -1:] - series["next"]).square().mean().sqrt().item()
    assert found["persistence", "RMSE"] == pytest.approx(error, abs=1e-6)
    network = load_trained(outcome.folder / "linear" / "best.ckpt")
    error = (network(series["seen"]) - series["next"]).square().mean().sqrt().item()
    assert found["linear", "RMSE"] == pytest.approx(error, abs=1e-6)
    of_persistence = next(row for row in outcome.rows if row.arm == "persistence")
    assert (of_persistence.parameters, of_persistence.epochs, of_persistence.operations) == (0, 0, 0)
    assert next(row.operations for row in outcome.rows if row.arm == "linear") == 2 * 8 * 4
    assert isinstance(load_trained(outcome.folder / "persistence" / "best.ckpt"), Persistence)


def test_graphs_of_torch_geometric_are_batches(tmp_path, declare):
    pytest.importorskip("torch_geometric", reason="needs torch-geometric: pip install hyperconv[graphs]")
    outcome = trained(tmp_path, declare(GRAPHS), epochs=30)
    network = load_trained(outcome.folder / "degrees" / "best.ckpt")
    test = Graphs.collate(Graphs.load("").test)
    logits = network(test.x, test.edge_index, test.batch, test.num_graphs)
    assert figures(outcome.rows)["degrees", "accuracy"] == (logits.argmax(1) == test.y).float().mean().item()
    assert figures(outcome.rows)["degrees", "loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, test.y).item(), abs=1e-5
    )


def test_volumes_of_differing_size_are_batches_and_every_metric_reaches_logs_and_results(tmp_path, declare):
    outcome = trained(tmp_path, declare(VOLUMES))
    network = load_trained(outcome.folder / "convolution" / "best.ckpt")
    miou, psnr = MulticlassJaccardIndex(2), PeakSignalNoiseRatio(data_range=1.0)
    with torch.no_grad():
        scored = Volumes.score(network, Volumes.load("").test, None)
    found = figures(outcome.rows)
    assert found["convolution", "mIoU"] == pytest.approx(miou(*scored["miou"]).item(), abs=1e-6)
    assert found["convolution", "PSNR"] == pytest.approx(psnr(*scored["psnr"]).item(), abs=1e-5)
    logged = table(outcome.folder / "convolution" / "metrics.csv")
    assert {"val_loss", "val_miou", "val_psnr", "test_miou", "test_psnr"} <= set(logged[0])
    validated = [float(row["val_miou"]) for row in logged if row["val_miou"]]
    assert figures(outcome.rows, "validation")["convolution", "mIoU"] == pytest.approx(max(validated), abs=1e-6)


@pytest.mark.parametrize(("declared", "fold"), ((None, 0), (3, 3)))
def test_settings_are_chosen_on_the_fold_that_is_declared(tmp_path, declare, capsys, declared, fold):
    arms = {"linear": Arm(FOLDS.arms["linear"].network, grid={"learning_rate": (1e-2, 1e-3)})}
    declare(replace(FOLDS, arms=arms, tuning_fold=declared))
    code, out, err = run(capsys, "--experiment", "folds", "--tune", "--logs", str(tmp_path), "--accelerator", "cpu")
    assert code == 0, err
    assert {row.fold for row in results.read(tmp_path / "tuning.csv")} == {fold}
    assert f"fold {fold}: " in out


def test_every_fold_is_trained_and_every_sample_tested_on_once(tmp_path, declare):
    outcome = trained(tmp_path, declare(FOLDS), seeds=(0, 3))
    of_test = {(row.seed, row.fold): row for row in outcome.rows if (row.split, row.metric) == ("test", "RMSE")}
    assert set(of_test) == {(seed, fold) for seed in (0, 3) for fold in range(5)}
    for (seed, fold), row in of_test.items():
        network = load_trained(outcome.folder / "linear" / f"seed{seed}" / f"fold{fold}" / "best.ckpt")
        inputs, answers = load_fold("", fold).test[:]
        error = (network(inputs).squeeze(1) - answers).square().mean().sqrt().item()
        assert row.value == pytest.approx(error, abs=1e-6)
    assert len(results.read(outcome.folder / "results.csv")) == len(outcome.rows)


@pytest.mark.parametrize(
    ("experiment", "metric"),
    [(DICTIONARIES, "RMSE"), (VOLUMES, "mIoU"), (VOLUMES, "PSNR")],
    ids=["RMSE", "mIoU", "PSNR"],
)
def test_figures_do_not_depend_on_the_evaluation_batch(experiment, metric):
    torch.manual_seed(0)
    network = next(iter(experiment.arms.values())).network()
    found = [evaluated(experiment, network, size)[metric] for size in (1, 3, 100)]
    assert found == pytest.approx([found[-1]] * 3, abs=1e-6)


@torch.no_grad()
def evaluated(experiment, network, size):
    """Figures by name, as validation and test gather them."""
    objective = experiment.objective
    measured = Measured(objective)
    for batch in batch_loader(experiment.load("").test, size, collate=experiment.collate):
        measured.update(objective.score(network, batch, None), objective.samples(batch))
    figures = measured.figures()
    return {metric.name: figures[metric.column] for metric in objective.metrics}


def test_grids_are_tried_on_validation_data_only_and_never_twice(tmp_path, declare, capsys):
    class Untouchable:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            raise AssertionError("test data were touched")

    def load(source):
        splits = Dictionaries.load(source)
        return Splits(splits.name, splits.train, splits.validation, Untouchable(), splits.note)

    grid = {"learning_rate": (1e-4, 1e-2, 1e-1), "epochs": (2,)}
    arms = {
        "linear": Arm(partial(nn.Linear, 8, 4), grid=grid),
        "started": Arm(started_right, grid=grid, at_range_end={"learning_rate": "there is nothing to learn"}),
    }
    declare(Experiment(**{**vars(DICTIONARIES), "arms": arms, "load": load}))
    flags = ("--experiment", "dictionaries", "--tune", "--logs", str(tmp_path), "--accelerator", "cpu")
    code, out, err = run(capsys, *flags)
    assert code == 0, err
    rows = results.read(tmp_path / "tuning.csv")
    trials = {(row.arm, row.settings, row.seed) for row in rows}
    assert trials == {
        (arm, f"learning_rate={rate} epochs=2", seed)
        for arm in ("linear", "started")
        for rate in (0.0001, 0.01, 0.1)
        for seed in (100, 101)
    }
    assert {row.split for row in rows} == {"validation"}
    rmse = {}
    for row in rows:
        if row.metric == "RMSE" and row.arm == "linear":
            rmse[row.settings] = rmse.get(row.settings, 0.0) + row.value / 2
    best = min(rmse, key=rmse.get)
    line = next(line for line in out.splitlines() if "linear" in line and "│" in line)
    assert best.split()[0] in line
    assert f"{rmse[best]:.4g}" in line
    assert "there is nothing to learn" in " ".join(out.split())
    before = (tmp_path / "tuning.csv").read_text()
    kept = [row for row in rows if row.arm == "linear"]
    results.write(tmp_path / "tuning.csv", kept)
    code, _, err = run(capsys, *flags)
    assert code == 0
    assert "linear, seed" not in err
    assert "started, seed 101: epoch" in err
    assert len((tmp_path / "tuning.csv").read_text().splitlines()) == len(before.splitlines())
    code, _, err = run(capsys, *flags, "--learning_rate", "0.1")
    assert code == 2 and "--learning_rate is among what --tune tries" in err


def started_right():
    network = nn.Linear(8, 4)
    angle = torch.tensor(0.25)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.zero_()
        for step in range(4):
            # sin(t + k d) from its last two values
            k = step + 1
            network.weight[step, 7] = torch.sin((k + 1) * angle) / torch.sin(angle)
            network.weight[step, 6] = -torch.sin(k * angle) / torch.sin(angle)
    return network


@dataclass(frozen=True)
class Width:
    """Options of dictionaries.

    Args:
        width: of the hidden layer.
    """

    width: int = 2


def of_width(experiment: Experiment, options: Width) -> Experiment:
    network = partial(perceptron, options.width)
    return replace(experiment, arms={"hidden": Arm(network, grid={"width": (3, 5), "batch_size": (10,)})})


def perceptron(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 4))


def test_grids_hold_options_too(tmp_path, declare, capsys):
    declare(replace(of_width(DICTIONARIES, Width()), options=Width, adapted=of_width))
    flags = ("--experiment", "dictionaries", "--tune", "--logs", str(tmp_path), "--epochs", "1")
    code, _, err = run(capsys, *flags, "--accelerator", "cpu")
    assert code == 0, err
    parameters = {row.settings: row.parameters for row in results.read(tmp_path / "tuning.csv")}
    assert parameters == {"epochs=1 width=3 batch_size=10": 43, "epochs=1 width=5 batch_size=10": 69}
    code, _, err = run(capsys, *flags, "--accelerator", "cpu", "--width", "4")
    assert code == 2 and "--width is among what --tune tries" in err


def test_a_training_that_diverges_is_recorded_and_the_others_go_on(tmp_path, declare, drawn, capsys):
    def diverges():
        network = nn.Linear(8, 4)
        nn.init.constant_(network.weight, float("inf"))
        return network

    arms = {"diverges": Arm(diverges), "linear": DICTIONARIES.arms["linear"]}
    declare(Experiment(**{**vars(DICTIONARIES), "arms": arms}))
    outcome = trained(tmp_path, DICTIONARIES)
    failed = [row for row in outcome.rows if row.arm == "diverges"]
    assert [(row.split, row.metric, row.value) for row in failed] == [("validation", "failed", 1.0)]
    assert ("linear", "RMSE") in figures(outcome.rows)
    assert "diverges, seed 0 failed: the training loss became nan" in capsys.readouterr().out
    (curves,) = drawn
    assert curves.axes[0].get_legend().get_texts()[0].get_text() == "linear"
    assert "diverges" not in [line.get_label() for line in curves.axes[0].lines]
    flags = ("--experiment", "dictionaries", "--arms", "diverges", "--logs", str(tmp_path / "alone"))
    code, _, _ = run(capsys, *flags, "--out", str(tmp_path), "--accelerator", "cpu")
    assert code == 1


def test_figures_are_kept_to_seven_digits_however_small(tmp_path, declare):
    tiny = nn.Linear(8, 4)
    declare(
        replace(
            DICTIONARIES,
            arms={"linear": Arm(lambda: tiny)},
            measure=lambda network, splits: [Figure("tiny", 1.23456789e-9)],
        )
    )
    assert figures(trained(tmp_path, DICTIONARIES).rows)["linear", "tiny"] == 1.234568e-9


def test_a_training_that_learns_nothing_counts_as_failed(tmp_path, declare, capsys):
    declare(Experiment(**{**vars(DICTIONARIES), "failed_at": 0.0}))
    outcome = trained(tmp_path, DICTIONARIES)
    assert {row.arm for row in outcome.rows if row.metric == "failed"} == {"linear", "persistence"}
