import functools
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import ROOT, kill_when, launch, rows_in, run, table
from torch.utils.data import Subset
from writers import write_hippocampus, write_images, write_volumes

from hyperconv import plotting
from hyperconv.data import batch_loader
from hyperconv.data.augment import turn
from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.asked import Training
from hyperconv.experiments.conditioned import kernel_parameters, turned_classification
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.digits import DigitsOptions
from hyperconv.experiments.run import rows_of
from hyperconv.experiments.settings import Run, as_text, changes
from hyperconv.experiments.trained import load_trained
from hyperconv.experiments.tune import TUNING_SEEDS, combinations
from hyperconv.extras import command_for
from hyperconv.training.objectives import Measured
from hyperconv.zoo.conditioned_cnn import ConcatenatedCNN, DeepHyperCNN, FilmedCNN, HyperCNN, PlainCNN, TurnedBackCNN
from hyperconv.zoo.generated_mlp import PerSampleMLP, chunked_mlp, full_mlp
from hyperconv.zoo.static_hypernetwork import static_network

EVERY_ARM = [
    pytest.param(name, arm, marks=pytest.mark.slow if name.endswith("-3d") else (), id=f"{name}-{arm}")
    for name, experiment in experiments().items()
    for arm in experiment.arms
]
FEW = 8


@pytest.fixture(scope="module")
def few(tmp_path_factory, digits_folder):
    """The first samples of each split of an experiment's data."""
    hippocampi = write_hippocampus(tmp_path_factory.mktemp("hippocampi"))
    sources = {"ode": "auto", "ode-frames": "auto", "hyperlstm-characters": "auto"}
    sources["hypermorph-hippocampus"] = str(hippocampi)
    sources["hypermorph-3d"] = str(tmp_path_factory.mktemp("volumes"))
    sources["superres-natural"] = str(write_images(tmp_path_factory.mktemp("images")))

    @functools.cache
    def splits(name):
        if name == "hypermorph-3d":
            write_volumes(Path(sources[name]))
        whole = experiments()[name].load(sources.get(name, str(digits_folder)))
        parts = {part: Subset(getattr(whole, part), torch.arange(FEW)) for part in ("train", "validation", "test")}
        return replace(whole, **parts)

    return splits


def skip_without_packages(experiment):
    if "graphs" in experiment.extras:
        pytest.importorskip("torch_geometric", reason=command_for("graphs"))
        pytest.importorskip("skimage", reason=command_for("graphs"))
    if "images" in experiment.extras:
        pytest.importorskip("skimage", reason=command_for("images"))
    if "medical" in experiment.extras:
        pytest.importorskip("monai", reason=command_for("medical"))


@pytest.mark.parametrize(("name", "arm"), EVERY_ARM)
def test_every_arm_takes_a_step_is_saved_loaded_evaluated_and_drawn(tmp_path, few, name, arm):
    experiment = experiments()[name]
    skip_without_packages(experiment)
    splits = few(name)
    options = experiment.options() if experiment.options else None
    recipe = replace(experiment.recipe_of(arm), epochs=1, batch_size=FEW)
    key = results.TrainingKey(name, "", arm, splits.name, seed=0, noise_seed=None, fold=None)
    settings = Run(experiment=name, accelerator="cpu")
    training = Training(key, experiment, options, recipe, splits)
    rows = rows_of(training, settings, tmp_path / "results.csv", tmp_path)
    trained = rows[0].parameters > 0
    assert {row.epochs for row in rows} == {int(trained)}
    assert (rows[0].operations > 0) == trained
    network = load_trained(tmp_path / "best.ckpt")
    measured = Measured(experiment.objective)
    with torch.no_grad():
        for batch in batch_loader(splits.test, 3, collate=experiment.collate):
            measured.update(experiment.objective.score(network, batch, None), experiment.objective.samples(batch))
    told = {(row.split, row.metric): row.value for row in rows if not row.at}
    for metric in experiment.objective.all_metrics:
        assert measured.figures()[metric.column] == pytest.approx(told["test", metric.name], rel=1e-4, abs=1e-5)
    if not trained:
        return
    curves = plotting.training_curves({arm: plotting.read_losses(tmp_path / "metrics.csv")}, name)
    (validation,) = (line for line in curves.axes[0].lines if line.get_label() == arm)
    assert validation.get_ydata() == pytest.approx([told["validation", "loss"]], rel=1e-4)
    plt.close(curves)


@pytest.mark.parametrize("name", [name for name, each in experiments().items() if each.figure])
def test_every_experiment_draws_its_arms(few, name):
    skip_without_packages(experiments()[name])
    torch.manual_seed(0)
    networks = {arm: each.network().eval() for arm, each in experiments()[name].arms.items()}
    figure = experiments()[name].figure(networks, few(name))
    assert sum(axis.has_data() for axis in figure.axes) >= 2
    assert figure.get_suptitle()
    plt.close(figure)


@pytest.mark.parametrize("experiment", experiments().values(), ids=lambda each: each.name)
def test_grids_are_of_equal_size_and_hold_what_is_declared(experiment):
    skip_without_packages(experiment)
    with torch.device("meta"):
        trained = {name: arm for name, arm in experiment.arms.items() if any(True for _ in arm.network().parameters())}
    assert len({len(combinations(arm)) for arm in trained.values()}) == 1
    for name, arm in trained.items():
        recipe = experiment.recipe_of(name)
        for setting, values in arm.grid.items():
            chosen = getattr(recipe, setting)
            assert chosen in values, (name, setting)
            assert chosen not in (min(values), max(values)) or arm.at_range_end[setting], (name, setting)


def test_list_names_every_experiment_and_its_arms(capsys):
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert all(name in out for name in experiments())


def test_an_experiment_whose_packages_are_missing_says_which_command_brings_them(capsys, tmp_path, monkeypatch):
    installed = tmp_path / "hyperconv-9.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hyperconv\nVersion: 9\nProvides-Extra: medical\n"
        'Requires-Dist: a-package-that-there-is-not; extra == "medical"\nRequires-Dist: torch\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mlp = experiments()["mlp"]
    monkeypatch.setitem(experiments(), "scans", replace(mlp, name="scans", extras=("medical",)))
    code, out, _ = run(capsys, "--list")
    assert code == 0
    assert "needs more packages: pip install hyperconv[medical]" in " ".join(
        " ".join(line.split("│")[3].split()) for line in out.splitlines() if line.count("│") > 3
    )
    code, _, err = run(capsys, "--experiment", "scans", "--logs", str(tmp_path / "logs"))
    assert (code, err) == (2, "error: scans needs more packages: pip install hyperconv[medical]\n")


def test_a_package_that_is_missed_only_when_data_are_loaded_is_told_alike(capsys, tmp_path, monkeypatch):
    def load(source):
        import a_package_that_there_is_not  # noqa: F401

    mlp = experiments()["mlp"]
    monkeypatch.setitem(experiments(), "scans", replace(mlp, name="scans", extras=("experiments",), load=load))
    code, _, err = run(capsys, "--experiment", "scans", "--logs", str(tmp_path / "logs"), "--out", str(tmp_path))
    assert code == 2
    assert "scans needs a_package_that_there_is_not: pip install hyperconv[experiments]" in err


def test_help_shows_an_experiments_own_options(capsys):
    for name, told in (("digits", True), ("mlp", False)):
        code, out, _ = run(capsys, "--experiment", name, "--help")
        assert code == 0
        assert (
            "--kernel_size" in out and "widths of the kernel generators' hidden layers" in " ".join(out.split())
        ) is told
        assert "--learning_rate" in out


@pytest.mark.parametrize(
    ("options", "arm", "told"),
    [
        (DigitsOptions(), "hyper", ""),
        (DigitsOptions(conv="hyper", norm="stateless", hidden=(8, 4)), "hyper", "hidden=8x4 norm=stateless epochs=2"),
        (DigitsOptions(norm="stateless", kernel_size=3), "normal", "kernel_size=3 epochs=2"),
        (DigitsOptions(recipe="robust"), "normal", "recipe=robust"),
    ],
)
def test_results_tell_what_is_not_the_default_of_an_arm(options, arm, told):
    digits = experiments()["digits"].with_options(options)
    settings = Run(epochs=2 if "epochs" in told else None)
    assert changes(settings, options, digits.arms[arm].ignores) == told


def test_the_robust_recipe_is_that_of_the_shipped_pair():
    options = DigitsOptions(recipe="robust")
    digits = experiments()["digits"].with_options(options)
    generator = digits.arms["hyper"].network()[1].branch[2].generator
    assert generator.norm == "stateless"
    for arm in ("hyper", "normal"):
        recipe = digits.recipe_of(arm)
        assert (recipe.optimizer, recipe.schedule, recipe.epochs, recipe.learning_rate) == (
            "adamw",
            "one-cycle",
            2,
            3e-3,
        )


def test_arms_learn_with_every_seed_and_leave_logs_results_and_a_figure(tmp_path, digits_folder, capsys):
    flags = ("--experiment", "mlp", "--arms", "full", "normal", "--data", str(digits_folder))
    flags = (*flags, "--epochs", "6", "--batch_size", "16", "--seeds", "0", "4")
    code, out, err = run(capsys, *flags, "--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out"))
    assert code == 0, err
    folder = tmp_path / "logs" / "digits-mlp-epochs6-batch-size16-seed0-4"
    rows = results.read(folder / "results.csv")
    for arm in ("full", "normal"):
        of_test = {row.seed: row for row in rows if (row.arm, row.split, row.metric) == (arm, "test", "accuracy")}
        assert set(of_test) == {0, 4}
        for seed, row in of_test.items():
            assert row.value > 0.3  # a tenth by chance
            logged = table(folder / arm / f"seed{seed}" / "metrics.csv")
            assert float(logged[-1]["test_acc"]) == pytest.approx(row.value, abs=1e-6)
            assert (row.settings, row.epochs, row.fold) == ("epochs=6 batch_size=16", 6, None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mlp-epochs6-batch-size16.png"]
    assert "±" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--experiment", "statics"),
            "there is no experiment statics; there are classroom, classroom-autoencoder, conditioned",
        ),
        (("--experiment", "static", "--arms", "hyper", "plain"), "static has no arm plain; it has hyper, normal"),
        (("--experiment", "static", "--kernel_size", "3"), "--kernel_size"),
        (("--arms", "hyper", "--conv", "normal"), "digits has no arm hyper; it has normal"),
        (("--experiment", "ode", "--data", "here"), "pendulums are simulated"),
        (("--hidden", "30000", "30000", "30000"), "no network can be made of these settings"),
        (("--name", "../x"), "must be the name of a folder within --logs"),
        (("--name", ".."), "must be the name of a folder within --logs"),
        (("--name", ".hidden"), "must be the name of a folder within --logs"),
        (("--name", "a\nb"), "must be the name of a folder within --logs"),
    ],
)
def test_flags_that_do_not_fit_end_with_code_two_and_a_line(tmp_path, capsys, flags, message):
    code, _, err = run(capsys, "--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out"), *flags)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "logs").exists()
    assert not (tmp_path / "x").exists()


def test_what_is_told_to_type_continues_the_run_whatever_its_name(tmp_path, digits_folder, capsys):
    logs = tmp_path / "[/red] runs"
    flags = ("--experiment", "mlp", "--arms", "normal", "--data", str(digits_folder), "--epochs", "1")
    code, out, _ = run(capsys, *flags, "--logs", str(logs), "--out", str(tmp_path), "--name", "it's [red] 1")
    assert code == 0
    hint = next(line for line in out.splitlines() if line.startswith("logs in")).partition("if interrupted: ")[2]
    program, script, *args = shlex.split(hint)
    assert (program, script) == ("python", "main.py")
    code, out, _ = run(capsys, *args, "--out", str(tmp_path))
    assert code == 0
    assert "it's [red] 1" in out


def test_an_experiment_that_is_killed_between_arms_resumes_to_the_same_numbers(tmp_path, digits_folder, capsys):
    arms = ("chunked", "normal")
    flags = ("--experiment", "mlp", "--arms", *arms, "--data", str(digits_folder), "--epochs", "4")
    flags = (*flags, "--compile", "no", "--out", str(tmp_path), "--logs", str(tmp_path))
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert run(capsys, *flags, "--name", "whole")[0] == 0
    kill_when(launch(*flags, "--name", "killed"), lambda: rows_in(killed / "results.csv") > 1)
    (killed / ".partial-0a0b0c0d-results.csv").write_text("half of it")
    assert run(capsys, *flags, "--name", "killed", "--resume")[0] == 0
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
    assert not list(killed.glob("**/.partial-*"))


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


@pytest.mark.parametrize("training", (True, False))
def test_a_conditioned_digit_is_turned_by_the_angle_that_is_told(training):
    seen = []

    def network(images, told):
        seen.append((images, told))
        return torch.zeros(len(images), 10)

    image = torch.zeros(1, 1, 28, 28)
    image[..., 4, 13:15] = 1  # above the middle
    batch = (image.expand(6, 1, 28, 28), torch.zeros(6, dtype=torch.long))
    held = torch.arange(6.0)
    if training:
        turned_classification(network, batch, torch.Generator())
    else:
        turned_classification(network, (*batch, held), None)
    images, told = seen[0]
    rows = torch.arange(28) - 13.5
    weight = images.sum((1, 2, 3))
    down = (images.sum((1, 3)) * rows).sum(1) / weight
    across = (images.sum((1, 2)) * rows).sum(1) / weight
    # the spot's direction from the middle, as cosine of the turn and its sine up to the sense of turning
    assert torch.allclose(-down / 9.5, told[:, 0], atol=0.05)
    assert torch.allclose(across.abs() / 9.5, told[:, 1].abs(), atol=0.05)
    assert training or torch.allclose(told[:, 0], held.cos())


def test_a_recurrent_generator_is_one_for_all_layers_whose_kernels_differ():
    torch.manual_seed(0)
    kind = experiments()["generators"].arms["recurrent"].network().kind
    shallow, deep = (DeepHyperCNN(depth, 2, **kind) for depth in (2, 16))
    assert kernel_parameters(shallow) == kernel_parameters(deep)
    contexts = []
    for layer in deep.convolutions:
        layer.register_forward_pre_hook(lambda layer, arguments: contexts.append(arguments[1]))
    deep(torch.rand(1, 1, 28, 28), torch.ones(1, 2))
    kernels = [deep.convolutions[0].generator(context) for context in contexts]
    assert len({kernel.sum().item() for kernel in kernels}) == 16


def _chosen_by_trials(experiment, prefix, arm, rows):
    """The best trial of an arm in tuning.csv; None where some are missing."""
    metric = experiment.objective.metrics[0]
    best = None
    for trial in combinations(experiment.arms[arm]):
        settings = f"{prefix} {as_text(trial)}".strip()
        own = [row for row in rows if (row.experiment, row.settings, row.arm) == (experiment.name, settings, arm)]
        values = [row.value for row in own if row.metric == metric.name]
        if len({row.seed for row in own}) < len(TUNING_SEEDS):
            return None
        failed = any(row.metric == results.FAILED for row in own)
        if not failed and (best is None or metric.is_better(mean(values), best[1])):
            best = trial, mean(values)
    return best and best[0]


@pytest.mark.parametrize(
    ("name", "options", "tried"),
    [
        ("classroom", {}, 2),
        ("classroom-autoencoder", {}, 6),
        ("superres", {}, 5),
        ("superres-natural", {}, 4),
        ("dfn-steerable", {}, 3),
        ("weather", {}, 2),
        ("weather", {"clips": "apart"}, 3),
        ("weather", {"clips": "radar"}, 2),
        ("hyperseg", {}, 3),
        ("unet", {"task": "hippocampus"}, 5),
        ("graph-hyper", {}, 6),
        ("graph-hyper", {"graphs": "MUTAG"}, 5),
        ("graph-hyper", {"graphs": "PROTEINS"}, 4),
    ],
)
def test_declared_settings_are_the_best_of_the_trials_on_validation_data(name, options, tried):
    experiment = experiments()[name]
    skip_without_packages(experiment)
    adapted = experiment.with_options(experiment.options(**options)) if options else experiment
    rows = results.read(ROOT / "lightning_logs" / "tuning.csv")
    chosen = {arm: _chosen_by_trials(adapted, as_text(options), arm, rows) for arm in adapted.arms}
    found = {arm: trial for arm, trial in chosen.items() if trial}
    assert len(found) == tried
    for arm, trial in found.items():
        assert {setting: getattr(adapted.recipe_of(arm), setting) for setting in trial} == trial, arm


@pytest.mark.parametrize("graph", ("cora", "citeseer", "chameleon", "chameleon-filtered"))
def test_tuned_networks_of_graphs_are_the_best_of_the_trials_on_validation_nodes(graph):
    skip_without_packages(experiments()["lgnn"])
    from hyperconv.experiments.lgnn import TUNED

    rows = results.read(ROOT / "lightning_logs" / "tuning.csv")
    options = experiments()["lgnn"].options(graph=graph, tuned=True)
    adapted = experiments()["lgnn"].with_options(options)
    few = " few_labels" if graph == "chameleon" else ""
    for arm, made in TUNED[graph].items():
        chosen = _chosen_by_trials(adapted, f"graph={graph}{few} tuned", arm, rows)
        assert chosen == {setting: getattr(made, setting) for setting in chosen}


def test_angles_of_which_none_is_unseen_are_those_of_the_data_and_others_are_kept_away(digits_folder):
    conditioned = experiments()["conditioned"]
    quarter = conditioned.with_options(conditioned.options(unseen=0.25))
    _, _, angles = quarter.load(str(digits_folder)).validation[:]
    assert 0.5 * torch.pi <= angles.min() and angles.max() < 2 * torch.pi
    seen = []

    def network(images, told):
        seen.append(torch.atan2(told[:, 1], told[:, 0]) % (2 * torch.pi))
        return torch.zeros(len(images), 10)

    batch = torch.rand(200, 1, 28, 28), torch.zeros(200, dtype=torch.long)
    quarter.objective.score(network, batch, torch.Generator().manual_seed(0))
    assert 0.5 * torch.pi <= seen[0].min() and seen[0].max() < 2 * torch.pi
    with pytest.raises(InputError, match="leaves no angles"):
        conditioned.with_options(conditioned.options(unseen=1.0))


def test_a_network_that_turns_its_image_back_sees_it_upright():
    network, seen = TurnedBackCNN(4), []
    network.convolutions[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    # what turning moves little
    rows = torch.arange(28) - 13.5
    blob = torch.exp(-(rows.square() + (rows.unsqueeze(1) - 4).square()) / 18).expand(9, 1, 28, 28)
    angles = torch.linspace(0, 2 * torch.pi, 9)
    turned = turn(blob, angles)
    network(turned, torch.stack([angles.cos(), angles.sin()], dim=1))
    torch.testing.assert_close(seen[0], blob, rtol=0, atol=0.05)
    assert (turned[4] - blob[4]).abs().max() > 0.5


def test_being_told_another_angle_and_unseen_ones_are_measured(digits_folder):
    conditioned = experiments()["conditioned"]
    quarter = conditioned.with_options(conditioned.options(unseen=0.25))
    splits = quarter.load(str(digits_folder))
    torch.manual_seed(0)
    network = conditioned.arms["hyper"].network().eval()
    figures = {figure.at: figure.value for figure in quarter.measure(network, splits)}
    assert figures.keys() == {"angles of training", "other angles"}
    _, _, angles = splits.test[:]
    new = (angles < torch.pi / 2).double().mean().item()
    measured = Measured(quarter.objective)
    with torch.no_grad():
        measured.update(quarter.objective.score(network, splits.test[:], None), len(angles))
    together = new * figures["other angles"] + (1 - new) * figures["angles of training"]
    assert measured.figures()["acc"] == pytest.approx(together)


def test_networks_are_told_other_angles_than_their_digits_were_turned_by(digits_folder):
    conditioned, seen = experiments()["conditioned"], []
    splits = conditioned.load(str(digits_folder))
    _, labels, angles = splits.test[:]

    def network(images, told):
        seen.append(told)
        return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 10)

    figures = conditioned.measure(network, splits)
    assert [figure.at for figure in figures] == [f"told {off}° more" for off in (10, 45, 90, 180)]
    assert {figure.value for figure in figures} == {(labels == 0).double().mean().item()}
    for told, off in zip(torch.cat(seen).split(len(labels)), (10, 45, 90, 180), strict=True):
        own = angles + torch.pi * off / 180
        torch.testing.assert_close(told, torch.stack([own.cos(), own.sin()], dim=1), rtol=0, atol=1e-5)
