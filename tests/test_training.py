import copy
import json
import pickle
import signal
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torchmetrics
import yaml
from conftest import write_digits_folder
from helpers import kill_when, launch, rows_in, run, started, table
from learners import FEATURES, ON_CPU, RECIPE, VALIDATION, learner, loaders, perceptron
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hyperconv import HyperConv2d, MNISTClassifier
from hyperconv.data import batch_loader
from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.digits import DigitsOptions
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.training.fit import check_trainer, fit
from hyperconv.training.learner import NonFiniteLoss
from hyperconv.training.objectives import CLASSIFICATION, LOSS, Measured, Metric, Objective

TINY = ("--kernel_size", "3", "--hidden", "8", "4", "--batch_size", "16", "--compile", "no", "--accelerator", "cpu")
PERCEPTRON = (
    "--experiment",
    "mlp",
    "--arms",
    "normal",
    "--batch_size",
    "16",
    "--compile",
    "no",
    "--accelerator",
    "cpu",
)
fitted = partial(fit, title="perceptron", compile="no", **ON_CPU)


def test_published_parameter_counts():
    counts = {arm: sum(p.numel() for p in MNISTClassifier(arm).parameters()) for arm in ("hyper", "normal")}
    assert counts == {"hyper": 405_642, "normal": 548_970}


def test_arms_differ_in_nothing_but_the_blocks_convolutions():
    def others(arm):
        return [
            str(module)
            for name, module in MNISTClassifier(arm).network.named_modules()
            if not list(module.children()) and not any(part in name for part in (".branch.2", ".branch.5"))
        ]

    assert others("hyper") == others("normal")
    assert sum(isinstance(module, HyperConv2d) for module in MNISTClassifier("hyper").modules()) == 16


def test_both_arms_learn_and_leave_logs_checkpoints_and_results(tmp_path, digits_folder):
    settings = Run(data=str(digits_folder), epochs=4, batch_size=8, logs=str(tmp_path), out=str(tmp_path), name="tiny")
    outcome = run_experiment(settings, DigitsOptions(kernel_size=3, hidden=(8, 4)))
    rows = results.read(outcome.folder / "results.csv")
    for arm in ("hyper", "normal"):
        folder = outcome.folder / arm
        figures = {(row.split, row.metric): row.value for row in rows if row.arm == arm}
        assert figures.keys() == {
            (split, metric) for split in ("validation", "test") for metric in ("accuracy", "loss")
        }
        # by chance, a tenth of 60 digits is right, with a standard deviation of 0.04; rounding moves more than a few
        assert figures["test", "accuracy"] > 0.3
        logged = table(folder / "metrics.csv")
        assert list(logged[0]) == [
            *("epoch", "step", "train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
        ]
        assert [row["epoch"] for row in logged if row["val_loss"]] == [str(epoch) for epoch in range(4)]
        assert float(logged[-1]["test_acc"]) == pytest.approx(figures["test", "accuracy"], abs=1e-6)
        assert (folder / "hparams.yaml").is_file()
        assert "optimizer_states" not in torch.load(folder / "best.ckpt", weights_only=True)
        model = MNISTClassifier.load_from_checkpoint(folder / "best.ckpt")
        assert (model.hparams["arm"], model.hparams["data"]) == (arm, "digits")


def scripted(figures, better):
    """An objective whose one metric is, in each epoch, what is said here."""

    def score(network, batch, draws):
        loss = CLASSIFICATION.score(network, batch, draws)[LOSS]
        return {LOSS: loss, "figure": torch.tensor(figures[network.current_epoch])}

    metric = Metric("figure", "figure", partial(torchmetrics.MeanMetric, nan_strategy="disable"), better)
    return Objective(score, (metric,), chosen_by="figure")


@pytest.mark.parametrize(("better", "chosen"), (("lower", 1), ("higher", 3)))
def test_the_objectives_figure_chooses_the_checkpoint_and_ends_training(tmp_path, better, chosen):
    figures = [2.0, 1.0, 3.0, 4.0, 1.0, 4.0, 2.0, 2.0]
    recipe = replace(RECIPE, epochs=8, patience=3)
    report = fitted(learner(recipe, scripted(figures, better)), loaders(recipe, test=False), tmp_path)
    assert report.epochs == chosen + 1 + recipe.patience
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["epoch"] == chosen
    logged = [row for row in table(tmp_path / "metrics.csv") if row["val_figure"]]
    assert report.figures == {
        ("validation", LOSS): float(logged[chosen]["val_loss"]),
        ("validation", "figure"): figures[chosen],
    }
    before = (tmp_path / "metrics.csv").read_text()
    again = fitted(learner(recipe, scripted(figures, better)), loaders(recipe, test=False), tmp_path, resume=True)
    assert (again, (tmp_path / "metrics.csv").read_text()) == (report, before)


def test_a_figure_that_is_no_number_is_worse_than_any(tmp_path):
    figures = [float("nan"), 0.1, float("nan")]
    report = fitted(learner(objective=scripted(figures, "higher")), loaders(test=False), tmp_path)
    assert report.figures["validation", "figure"] == pytest.approx(0.1)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 1


class Spread(torchmetrics.Metric):
    """A figure that no mean over batches gives."""

    updates = 0

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", [], dist_reduce_fx="cat")

    def update(self, values):
        Spread.updates += 1
        self.seen.append(values)

    def compute(self):
        return torch.cat(self.seen).std()


def spread_score(network, batch, draws):
    logits = network(batch[0])
    return {LOSS: nn.functional.cross_entropy(logits, batch[1]), "spread": logits.detach()[:, 0]}


SPREAD = Objective(spread_score, (Metric("spread", "spread", Spread, "lower"),))


def evaluated(objective, model, dataset):
    """The figures of a whole data set in one batch."""
    measured = Measured(objective)
    with torch.no_grad():
        measured.update(objective.score(model.eval(), dataset[:], None), len(dataset))
    return measured.figures()


@pytest.mark.parametrize("evaluation_batch", (1, 7, 40))
def test_figures_are_those_of_the_whole_split_however_it_is_batched(tmp_path, evaluation_batch):
    Spread.updates = 0
    model = learner(objective=SPREAD)
    data = loaders(evaluation_batch=evaluation_batch)
    report = fitted(model, data, tmp_path)
    for split, dataset in (("validation", data.validation.dataset), ("test", data.test.dataset)):
        figures = {column: report.figures[split, column] for column in ("loss", "spread")}
        assert figures == pytest.approx(evaluated(SPREAD, model.network, dataset), abs=1e-6)
    logged = table(tmp_path / "metrics.csv")
    assert [row["step"] for row in logged if row["train_spread"]] == ["6", "13", "20"]
    # of training batches, those only that are logged; then each batch of three validations and a test
    assert Spread.updates == 3 + 4 * len(data.validation) + 2


def _train_on_two(folder: Path, strategy: str) -> None:
    model = learner(objective=SPREAD)
    report = fit(model, loaders(), folder, title="two", compile="no", accelerator="cpu", devices=2, strategy=strategy)
    figures = {f"{split} {column}": value for (split, column), value in report.figures.items()}
    (folder / "report.json").write_text(json.dumps({**figures, "epochs": report.epochs}))


# the second starts two processes that import everything
STRATEGIES = ("ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_share_the_training_data_and_agree_on_exact_figures(tmp_path, strategy):
    process = started(_train_on_two, (tmp_path, strategy))
    process.join(120)
    assert process.exitcode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    validations = [row for row in table(tmp_path / "metrics.csv") if row["val_loss"]]
    # 7 batches: each process takes every other one of the first six
    assert [int(row["step"]) for row in validations] == [2, 5, 8]
    assert report["epochs"] == 3
    model = learner()
    model.load_state_dict(torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"])
    exact = evaluated(SPREAD, model.network, VALIDATION)
    assert {column: report[f"validation {column}"] for column in exact} == pytest.approx(exact, abs=1e-6)


def _train_for_long_on_two(folder: Path, strategy: str) -> None:
    model = learner(replace(RECIPE, epochs=100_000))
    fit(model, loaders(), folder, title="long", compile="no", accelerator="cpu", devices=2, strategy=strategy)


def stat(pid: int | str) -> list[str]:
    """What Linux tells of a process after its name, first its state and its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["gone", "0"]


def children_of(pid: int) -> set[int]:
    every = [path.name for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return {int(each) for each in every if stat(each)[1] == str(pid)}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux to see processes")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGKILL))
def test_processes_of_two_devices_end_with_the_one_that_started_them(tmp_path, strategy, number):
    process = started(_train_for_long_on_two, (tmp_path, strategy))
    workers = set()

    def trains():
        workers.update(children_of(process.pid))
        return rows_in(tmp_path / "metrics.csv") > 3

    kill_when(process, trains, number)
    assert len(workers) >= 2
    deadline = time.monotonic() + 10
    while any(stat(pid)[0] not in ("gone", "Z") for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


def test_without_test_data_nothing_is_told_of_them(tmp_path):
    report = fitted(learner(), loaders(test=False), tmp_path)
    assert {split for split, _ in report.figures} == {"validation"}
    assert not any(row["test_loss"] or row["test_acc"] for row in table(tmp_path / "metrics.csv"))


class Guess(nn.Module):
    """Without parameters: the largest of all six numbers."""

    def forward(self, inputs):
        return nn.functional.pad(inputs, (0, 10 - FEATURES))


def test_a_network_without_parameters_is_evaluated(tmp_path):
    report = fitted(learner(network=Guess), loaders(), tmp_path)
    assert (report.parameters, report.epochs) == (0, 0)
    exact = evaluated(CLASSIFICATION, Guess(), VALIDATION)
    assert {column: report.figures["validation", column] for column in exact} == pytest.approx(exact, abs=1e-6)
    validation, test = table(tmp_path / "metrics.csv")
    assert (float(validation["val_acc"]), float(test["test_acc"])) == (
        report.figures["validation", "acc"],
        report.figures["test", "acc"],
    )
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"] == {}


def test_a_learner_is_copied_sent_and_averaged_and_its_checkpoint_holds_the_network_alone(tmp_path):
    model = learner(objective=SPREAD)
    fitted(model, loaders(), tmp_path)
    inputs = torch.randn(3, FEATURES)
    expected = model(inputs)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), AveragedModel(model)):
        assert torch.equal(twin(inputs), expected)
    names = {f"network.{name}" for name in model.network.state_dict()}
    for name in ("best.ckpt", "last.ckpt"):
        assert torch.load(tmp_path / name, weights_only=True)["state_dict"].keys() == names


def test_whole_training_batches_of_any_structure_are_compiled_however_often_they_call_the_network(
    tmp_path, monkeypatch
):
    calls = []

    def recording(function, **options):
        def compiled(*inputs, **named):
            calls.append(len(named["inputs"]))
            return function(*inputs, **named)

        return compiled

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = perceptron()

        def forward(self, *, inputs):
            return self.network(inputs)

    def score(network, batch, draws):
        """A batch is a dictionary, of which the network sees one half after the other."""
        logits = torch.cat([network(inputs=half) for half in batch["inputs"].chunk(2)])
        return {LOSS: nn.functional.cross_entropy(logits, batch["labels"]), "acc": (logits.detach(), batch["labels"])}

    def collate(samples):
        inputs, labels = zip(*samples, strict=True)
        return {"labels": torch.stack(labels), "inputs": torch.stack(inputs)}

    monkeypatch.setattr(torch, "compile", recording)
    data = loaders()
    whole = [batch_loader(loader.dataset, 16, collate=collate) for loader in (data.train, data.validation, data.test)]
    model = learner(objective=Objective(score, CLASSIFICATION.metrics), network=Named)
    fit(
        model,
        replace(data, train=whole[0], validation=whole[1], test=whole[2]),
        tmp_path,
        title="",
        compile="yes",
        **ON_CPU,
    )
    # 120 samples: seven whole batches and a half one, which is not worth compiling anew
    assert calls == [8] * 2 * 7 * RECIPE.epochs


def diverging_score(network, batch, draws):
    figures = CLASSIFICATION.score(network, batch, draws)
    diverges = draws is not None and network.current_epoch == 2
    return {**figures, LOSS: figures[LOSS] * float("nan")} if diverges else figures


DIVERGING = Objective(diverging_score, CLASSIFICATION.metrics)


def _diverge_on_two(folder: Path) -> None:
    try:
        fit(
            learner(objective=DIVERGING), loaders(), folder, title="", accelerator="cpu", devices=2, strategy="ddp_fork"
        )
    except NonFiniteLoss as failure:
        (folder / "failure").write_text(str(failure))


@pytest.mark.parametrize("devices", (1, 2))
def test_divergence_is_told_apart_from_bad_input_and_keeps_the_checkpoints_of_good_epochs(tmp_path, devices):
    if devices == 1:
        with pytest.raises(NonFiniteLoss, match="training loss became nan at step 14, epoch 2") as raised:
            fitted(learner(objective=DIVERGING), loaders(), tmp_path)
        assert not isinstance(raised.value, InputError)
    else:
        started(_diverge_on_two, (tmp_path,)).join(60)
        assert "training loss became nan at step 6, epoch 2" in (tmp_path / "failure").read_text()
    for name in ("best.ckpt", "last.ckpt"):
        kept = torch.load(tmp_path / name, weights_only=True)
        assert kept["epoch"] == 1
        assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_run_all_of_whose_trainings_diverge_says_so_and_ends_with_code_one(tmp_path, digits_folder, capsys):
    flags = (*PERCEPTRON, "--data", str(digits_folder), "--logs", str(tmp_path), "--name", "run")
    code, out, err = run(capsys, *flags, "--epochs", "2", "--learning_rate", "1e30", "--out", str(tmp_path))
    assert code == 1
    assert "loss became" in out
    assert "Traceback" not in out + err
    (row,) = results.read(tmp_path / "run" / "results.csv")
    assert (row.split, row.metric, row.value) == ("validation", "failed", 1)


def test_kill_at_any_moment_then_resume_ends_bit_identical(tmp_path, digits_folder, capsys):
    def flags(name, *more):
        places = ("--logs", str(tmp_path), "--out", str(tmp_path), "--name", name)
        return (*PERCEPTRON, "--data", str(digits_folder), "--epochs", "8", *places, *more)

    assert run(capsys, *flags("whole"))[0] == 0
    whole = tmp_path / "whole" / "normal"
    moments = {
        "before any checkpoint": lambda folder: (folder / "hparams.yaml").exists(),
        "after the first epoch": lambda folder: (folder / "last.ckpt").exists(),
        "while a checkpoint is written": lambda folder: len(list(folder.glob(".partial-*last.ckpt"))) > 0,
        "while a later epoch is logged": lambda folder: rows_in(folder / "metrics.csv") >= 7,
    }
    for name, ready in moments.items():
        name = name.replace(" ", "-")
        folder = tmp_path / name / "normal"
        kill_when(launch(*flags(name)), partial(ready, folder))
        # what a kill in the middle of writing leaves behind
        if (folder / "metrics.csv").exists():
            with (folder / "metrics.csv").open("a") as file:
                file.write("3,5")
        (folder / ".partial-0badc0de-best.ckpt").write_text("half a checkpoint")
        code, _, err = run(capsys, *flags(name, "--resume"))
        assert code == 0, err
        assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text(), name
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
        for checkpoint in ("best.ckpt", "last.ckpt"):
            ours, theirs = (torch.load(each / checkpoint, weights_only=True) for each in (folder, whole))
            assert ours["global_step"] == theirs["global_step"]
            for key, value in theirs["state_dict"].items():
                assert torch.equal(ours["state_dict"][key], value), (name, checkpoint, key)


def test_a_run_is_not_resumed_while_it_runs(tmp_path, digits_folder, capsys):
    places = ("--logs", str(tmp_path), "--out", str(tmp_path), "--name", "run")
    flags = (*PERCEPTRON, "--data", str(digits_folder), "--epochs", "100000", *places)
    code, err = [], []

    def logs():
        if rows_in(tmp_path / "run" / "normal" / "metrics.csv") < 4:
            return False
        for _ in range(2):
            ended = run(capsys, *places, "--resume")
            code.append(ended[0])
            err.append(ended[2])
        return True

    kill_when(launch(*flags), logs)
    assert code == [2, 2]
    assert all("another process is using" in line and len(line.splitlines()) == 1 for line in err)


def test_same_seed_same_numbers_and_another_seed_others(tmp_path, digits_folder):
    def weights(seed):
        places = {"logs": str(tmp_path), "out": str(tmp_path / "out"), "data": str(digits_folder)}
        settings = Run(experiment="mlp", arms=("normal",), epochs=1, seed=seed, batch_size=16, **places)
        folder = run_experiment(settings).folder
        return torch.load(folder / "normal" / "last.ckpt", weights_only=True)["state_dict"]["network.1.weight"]

    first, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    names = sorted(path.name for path in tmp_path.iterdir())
    stem = "digits-mlp-epochs1-batch-size16"
    assert names == [f"{stem}-seed0", f"{stem}-seed0-2", f"{stem}-seed1", "out"]


def test_resuming_a_finished_run_reports_it_again_and_other_settings_are_refused(tmp_path, digits_folder, capsys):
    places = ("--logs", str(tmp_path), "--out", str(tmp_path), "--name", "run")
    flags = (*PERCEPTRON, "--data", str(digits_folder), *places)
    assert run(capsys, *flags, "--epochs", "1")[0] == 0
    before = (tmp_path / "run" / "results.csv").read_text()
    code, out, _ = run(capsys, *places, "--experiment", "mlp", "--resume")
    assert code == 0
    assert "normal" in out
    assert (tmp_path / "run" / "results.csv").read_text() == before
    code, _, err = run(capsys, *flags, "--epochs", "2", "--resume")
    assert (code, err) == (2, "error: the run run began with epochs 1; it cannot be resumed with 2\n")
    code, _, err = run(capsys, *flags, "--epochs", "1")
    assert code == 2
    assert "exists; give another --name, or --resume" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--kernel_size", "0"), "kernel_size"),
        (("--kernel-size", "-1"), "kernel_size"),
        (("--epochs", "0"), "epochs"),
        (("--conv", "hyperbolic"), "conv"),
        (("--hidden", "16", "0"), "hidden"),
        (("--accelerator", "abacus"), "no training is possible"),
        (("--accelerator", "tpu"), "no training is possible"),
        (("--precision", "3"), "no training is possible"),
        (("--precision", "16-mixed", "--accelerator", "cpu"), "here it would be bf16-mixed"),
        (("--batch_size", "9" * 20), "batch_size"),
        (("--seed", str(2**32)), "seed"),
        (("--resume",), "--resume needs the --name"),
        (("--resume", "--name", "nobody"), "there is no run nobody"),
        (("--data", "/nowhere"), "is no folder"),
        (("--norm", "batchnorm", "--kernel_size", "1"), "more than one tap"),
    ],
)
def test_bad_flags_end_with_code_two_and_a_line(tmp_path, digits_folder, capsys, flags, message):
    places = ("--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out"))
    code, _, err = run(capsys, "--data", str(digits_folder), *places, *flags)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "logs").exists()


def test_more_devices_than_batches_are_refused(tmp_path):
    with pytest.raises(InputError, match="7 batches of 16 are too few for 8 devices"):
        fit(learner(), loaders(), tmp_path, title="", accelerator="cpu", devices=8, strategy="ddp_spawn")
    assert not list(tmp_path.iterdir())


def test_what_a_machine_would_do_instead_is_not_done_in_silence():
    check_trainer(accelerator="cpu", precision="bf16-mixed")
    with pytest.raises(InputError, match="bf16-mixed"):
        check_trainer(accelerator="cpu", precision="16-mixed")


def test_resume_finds_the_run_whose_name_was_marked_mnist5k(tmp_path, monkeypatch, no_network, capsys):
    monkeypatch.chdir(tmp_path)
    places = ("--logs", "logs", "--name", "mine", "--experiment", "mlp")
    assert run(capsys, *PERCEPTRON, *places, "--epochs", "1")[0] == 0
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["mine-mnist5k"]
    assert run(capsys, *places, "--resume")[0] == 0
    write_digits_folder(tmp_path / "data")
    code, _, err = run(capsys, *places, "--resume")
    assert code == 2
    assert "began with the data mnist5k, but auto now gives" in err


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", "x"),
        ("epochs", -1),
        ("quick", "maybe"),
        ("arms", "abc"),
        ("name", 3),
        ("foo", 1),
        ("options", {"kernel_size": None}),
    ],
)
def test_a_run_whose_stored_settings_make_no_sense_is_not_continued(tmp_path, capsys, setting, value):
    stored = {key: list(each) if isinstance(each, tuple) else each for key, each in asdict(Run()).items()}
    options = {key: list(each) if isinstance(each, tuple) else each for key, each in asdict(DigitsOptions()).items()}
    (tmp_path / "run").mkdir()
    value = {**options, **value} if setting == "options" else value
    content = yaml.safe_dump({**stored, "options": options, "splits": "mnist", setting: value})
    (tmp_path / "run" / "settings.yaml").write_text(content)
    code, _, err = run(capsys, "--logs", str(tmp_path), "--name", "run", "--resume")
    assert code == 2
    assert "settings.yaml is missing or damaged" in err
    reason = err.partition("damaged (")[2].partition("); start the run anew")[0]
    assert ("kernel_size" if setting == "options" else setting) in reason
    assert (tmp_path / "run" / "settings.yaml").read_text() == content


def test_unwritable_logs_are_refused_before_any_training(tmp_path, digits_folder, capsys):
    (tmp_path / "file").write_text("not a folder")
    places = ("--logs", str(tmp_path / "file"), "--out", str(tmp_path))
    code, _, err = run(capsys, "--data", str(digits_folder), *places)
    assert code == 2
    assert "cannot be read or written" in err
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("kernel_size", (1, 2, 4))
def test_one_tap_and_even_kernels_train(tmp_path, digits_folder, capsys, kernel_size):
    flags = ("--data", str(digits_folder), "--logs", str(tmp_path), "--out", str(tmp_path), *TINY)
    flags += ("--conv", "hyper", "--epochs", "1", "--batch_size", "110", "--kernel_size", str(kernel_size))
    code, out, err = run(capsys, *flags)
    assert code == 0, err
    assert "hyper" in out
