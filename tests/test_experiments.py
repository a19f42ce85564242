from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write_digits_folder
from test_training import finish, kill_when, launch, rows_in, run

from hyperconv.data.pairs import digit_pairs as load_pairs
from hyperconv.experiments import results, tables
from hyperconv.experiments.conditioned import kernel_parameters, turned_classification
from hyperconv.experiments.declared import EXPERIMENTS
from hyperconv.experiments.hypermorph import dice_before
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.zoo.conditioned_cnn import ConcatenatedCNN, DeepHyperCNN, FilmedCNN, HyperCNN, PlainCNN
from hyperconv.zoo.generated_mlp import PerSampleMLP, chunked_mlp, full_mlp
from hyperconv.zoo.static_hypernetwork import static_network

ON_DIGITS = ("static", "mlp", "conditioned", "generators")


def test_list_names_every_experiment(capsys):
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert all(name in out for name in ("digits", *EXPERIMENTS))


@pytest.fixture(scope="session")
def more_digits(tmp_path_factory) -> Path:
    return write_digits_folder(tmp_path_factory.mktemp("idx") / "more", train=2000, test=500)


@pytest.mark.parametrize("name", ON_DIGITS)
def test_every_arm_learns_and_leaves_logs_results_and_a_figure(tmp_path, more_digits, name):
    # by chance, a tenth of 500 digits is right, with a standard deviation of 0.013
    above = 0.5 if name in ("static", "mlp") else 0.18
    settings = Run(
        experiment=name,
        data=str(more_digits),
        epochs=3,
        batch_size=16,
        logs=str(tmp_path / "logs"),
        out=str(tmp_path / "out"),
        compile="no",
    )
    folder, reports = run_experiment(settings)
    assert [report.arm for report in reports] == list(EXPERIMENTS[name].arms)
    rows = results.read(folder / "results.csv")
    for report in reports:
        assert report.report.test_metric > above, report.arm
        (test,) = (row for row in rows if (row.arm, row.split, row.metric) == (report.arm, "test", "accuracy"))
        assert test.value == pytest.approx(report.report.test_metric, abs=1e-6)
    assert (tmp_path / "out" / f"{name}-epochs3-batch-size16.png").stat().st_size > 10_000


def test_registration_of_digits_beats_none_for_one_weight_and_for_all(tmp_path):
    settings = Run(
        experiment="hypermorph",
        arms=("hyper", "fixed-0.5"),
        data=str(write_digits_folder(tmp_path / "digits", train=1000, test=60)),
        epochs=2,
        logs=str(tmp_path / "logs"),
        out=str(tmp_path / "out"),
        compile="no",
    )
    folder, reports = run_experiment(settings)
    figures = {(row.arm, row.metric): row.value for row in results.read(folder / "results.csv") if row.split == "test"}
    before = dice_before(load_pairs(settings.data))
    for report in reports:
        assert figures[report.arm, "dice at λ=0.5"] > before + 0.05
    assert ("fixed-0.5", "dice at λ=0.1") not in figures
    assert (tmp_path / "out" / "hypermorph-epochs2.png").stat().st_size > 10_000


def test_pendulums_are_forecast_better_than_by_their_mean(tmp_path):
    settings = Run(
        experiment="ode",
        arms=("lstm",),
        epochs=3,
        logs=str(tmp_path / "logs"),
        out=str(tmp_path / "out"),
        compile="no",
    )
    _, (report,) = run_experiment(settings)
    positions = EXPERIMENTS["ode"].load("auto").test[:][1][:, 20:]
    of_the_mean = (positions - positions.mean(dim=0)).square().sum(dim=-1).mean().sqrt()
    assert report.report.test_metric < of_the_mean
    assert (tmp_path / "out" / "ode-epochs3.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--experiment", "statics"), "there is no experiment statics; there are digits, static"),
        (("--experiment", "static", "--arms", "hyper", "plain"), "static has no arm plain; it has hyper, normal"),
        (("--experiment", "static", "--kernel_size", "3"), "--kernel_size is a setting of digits, not of static"),
        (("--arms", "hyper"), "chosen with --conv"),
        (("--experiment", "ode", "--data", "here"), "pendulums are simulated"),
    ],
)
def test_flags_that_do_not_fit_end_with_code_two_and_a_line(tmp_path, capsys, flags, message):
    code, _, err = run(capsys, "--logs", str(tmp_path / "logs"), *flags)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "logs").exists()


def test_an_experiment_that_is_killed_resumes_to_the_same_numbers(tmp_path, digits_folder):
    arms = ("hyper", "not-told")
    flags = ("--experiment", "conditioned", "--arms", *arms, "--data", str(digits_folder), "--epochs", "4")
    flags = (*flags, "--batch_size", "16", "--compile", "no", "--out", str(tmp_path), "--logs", str(tmp_path))
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    finish(launch(*flags, "--name", "whole"))
    kill_when(launch(*flags, "--name", "killed"), lambda: rows_in(killed / "hyper" / "metrics.csv") >= 5)
    between_arms = launch(*flags, "--name", "killed", "--resume")
    kill_when(between_arms, lambda: rows_in(killed / "results.csv") > 1)
    finish(launch(*flags, "--name", "killed", "--resume"))
    figures = [
        {(row.arm, row.split, row.metric): row.value for row in results.read(folder / "results.csv")}
        for folder in (whole, killed)
    ]
    assert figures[0] == figures[1]
    assert {arm for arm, _, _ in figures[0]} == set(arms)
    for arm in arms:
        assert (killed / arm / "metrics.csv").read_text() == (whole / arm / "metrics.csv").read_text()
        ours, theirs = (torch.load(folder / arm / "best.ckpt")["state_dict"] for folder in (whole, killed))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_static_network_has_the_published_parameters():
    network = static_network()
    assert sum(p.numel() for p in network[3].generator.parameters()) == 4_244
    assert network[3].weight.numel() == 12_544


def test_generated_perceptrons_make_exactly_their_weights():
    assert sum(full_mlp((784, 64, 10)).sizes) == 50_816
    full, chunked = full_mlp((784, 64, 10)).generator, chunked_mlp((784, 64, 10)).generator
    assert full.kernel_shape == chunked.kernel_shape == (50_816,)
    assert chunked.embeddings.shape == (100, 10)
    assert chunked.norm == "decorrelated"


def test_per_sample_perceptron_is_a_perceptron_of_its_own_for_every_sample():
    torch.manual_seed(0)
    network = PerSampleMLP((784, 32, 10))
    images = torch.rand(5, 1, 28, 28)
    together = network(images)
    for image, logits in zip(images, together, strict=True):
        rows = image.reshape(1, -1)
        context = network.encoder(rows)[0]
        for number, layer in enumerate(network.layers):
            rows = rows.relu() if number else rows
            rows = rows @ layer.generator(context).T + layer.bias_generator(context)
        assert torch.allclose(rows[0], logits, atol=1e-5)


def test_only_what_is_told_changes_what_networks_compute():
    torch.manual_seed(0)
    images, told = torch.rand(3, 1, 28, 28), torch.eye(2)[[0, 1, 0]]
    for network in (HyperCNN(4, 2), FilmedCNN(4, 2), ConcatenatedCNN(4, 2)):
        assert not torch.allclose(network(images, told), network(images, told.flip(1)), atol=1e-4), network
    plain = PlainCNN(4)
    assert torch.equal(plain(images, told), plain(images, told.flip(1)))


def test_a_conditioned_digit_is_turned_by_the_angle_that_is_told():
    seen = []

    def network(images, told):
        seen.append((images, told))
        return torch.zeros(len(images), 10)

    image = torch.zeros(1, 1, 28, 28)
    image[..., 4, 13:15] = 1  # above the middle
    turned_classification(network, (image.expand(6, 1, 28, 28), torch.zeros(6, dtype=torch.long)), torch.Generator())
    images, told = seen[0]
    rows = torch.arange(28) - 13.5
    weight = images.sum((1, 2, 3))
    down = (images.sum((1, 3)) * rows).sum(1) / weight
    across = (images.sum((1, 2)) * rows).sum(1) / weight
    # the spot's direction from the middle, as cosine of the turn and its sine up to the sense of turning
    assert torch.allclose(-down / 9.5, told[:, 0], atol=0.05)
    assert torch.allclose(across.abs() / 9.5, told[:, 1].abs(), atol=0.05)


def test_a_recurrent_generator_is_one_for_all_layers_whose_kernels_differ():
    torch.manual_seed(0)
    kind = EXPERIMENTS["generators"].arms["recurrent"]().kind
    shallow, deep = (DeepHyperCNN(depth, 2, **kind) for depth in (2, 16))
    assert kernel_parameters(shallow) == kernel_parameters(deep)
    contexts = []
    for layer in deep.convolutions:
        layer.register_forward_pre_hook(lambda layer, arguments: contexts.append(arguments[1]))
    deep(torch.rand(1, 1, 28, 28), torch.ones(1, 2))
    kernels = [deep.convolutions[0].generator(context) for context in contexts]
    assert len({kernel.sum().item() for kernel in kernels}) == 16


def test_tables_of_experiments():
    def row(arm, metric, value, experiment="hypermorph"):
        return results.Result(experiment, arm, 0, "mnist", "test", metric, value, 1000, 5, 60.0, "", "", "")

    rows = [row("hyper", "dice at λ=0.1", 0.9), row("fixed-0.1", "dice at λ=0.1", 0.91), row("hyper", "Dice", 0.8)]
    assert tables.further_table(rows, "hypermorph").splitlines()[2] == "| mnist, λ=0.1 | 0.900 | 0.910 |"
    rows = [row("hyper", "kernel parameters", 4244, "static"), row("normal", "kernel parameters", 12544, "static")]
    assert tables.further_table(rows, "static").splitlines()[2] == "| mnist, hyper | 4,244 |"
    elsewhere = replace(rows[0], data="mnist5k", value=1.0)
    assert "| mnist, hyper | 4,244 |" in tables.further_table([*rows, elsewhere], "static")
    validation = replace(row("hyper", "accuracy", 0.99, "static"), split="validation")
    rows = [row("hyper", "accuracy", 0.9925, "static"), validation]
    assert "| static | mnist | hyper | accuracy % | 99.25 | 99.00 | 1,000 | 1 |" in tables.experiments_table(rows)
