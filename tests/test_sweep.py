import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, run_script

import main
from hyperconv.errors import InputError
from hyperconv.experiments import results, tables
from hyperconv.experiments.sweep import (
    Sweep,
    folds_of,
    is_finished,
    name_of_trial,
    read_trials,
    rows_of_trial,
    run_trial,
    sweep,
)

TINY = """
common: {experiment: static, samples: 64, epochs: 2, batch_size: 32, data: %s}
grids:
  - {arm: [normal], seed: [0, 1]}
  - {arm: [hyper], learning_rate: [0.001, 0.002], seed: [0]}
"""


@pytest.fixture
def tiny(tmp_path, digits_folder) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY % digits_folder)
    return path


def test_every_combination_of_every_grid_is_a_training(tiny):
    trials = read_trials(tiny)
    assert [trial[trial.index("--seed") :] for trial in trials] == [
        ("--seed", "0", "--arms", "normal"),
        ("--seed", "1", "--arms", "normal"),
        ("--seed", "0", "--arms", "hyper"),
        ("--seed", "0", "--arms", "hyper"),
    ]
    assert len(set(map(name_of_trial, trials))) == 4
    assert {trial[trial.index("--learning_rate") + 1] for trial in trials[2:]} == {"0.001", "0.002"}


def test_long_command_lines_have_short_names_of_their_own():
    first, second = (("--data", "x" * 300, "--seed", seed) for seed in "01")
    assert name_of_trial(first) != name_of_trial(second)
    assert max(map(len, map(name_of_trial, (first, second)))) < 200


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "does not hold values by name"),
        ("grids: []", "is no sweep"),
        ("grids: [{arm: [hyper], seed: [0]}]\nseeds: 3", "is no sweep"),
        ("grids: [{arm: hyper, seed: [0]}]", "a list of values each"),
        ("grids: [{arm: [hyper]}]", "needs arm and seed"),
        ("grids: [{arms: [hyper], seed: [0]}]", "say arm"),
        ("grids: [{arm: [hyper], seed: [0], name: [x]}]", "sets name itself"),
        ("grids: [{arm: [hyper], seed: [0, 0]}]", "twice"),
        ("grids: [{arm: [hyper], seed: [0], epoch: [1]}]", "--epoch"),
        ("grids: [{arm: [hyper], seed: [-1]}]", "seed"),
        ("grids: [{arm: [nobody], seed: [0]}]", "no arm nobody"),
        ("common: {experiment: none}\ngrids: [{arm: [hyper], seed: [0]}]", "no experiment none"),
    ],
)
def test_what_is_no_sweep_is_refused_in_a_line_before_anything_runs(tmp_path, capsys, text, wrong):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    code, _, errors = run_script(capsys, main.main_of_sweep, Sweep, f"--file={path}", f"--logs={tmp_path / 'logs'}")
    assert code == 2
    assert wrong in errors and errors.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_a_missing_file_is_named(tmp_path, capsys):
    args = main.arguments_of_sweep([str(tmp_path / "none.yaml")])
    code, _, errors = run_script(capsys, main.main_of_sweep, Sweep, *args)
    assert code == 2 and "none.yaml" in errors


def test_a_training_leaves_its_rows_and_is_not_run_twice(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    args = read_trials(tiny)[0]
    assert rows_of_trial(tmp_path, args) == []
    run_trial(args, tmp_path)
    rows = rows_of_trial(tmp_path, args)
    assert {row.split for row in rows} == {"train", "validation", "test"} - {"train"}
    assert {(row.arm, row.seed, row.settings) for row in rows} == {("normal", 0, "samples=64 epochs=2 batch_size=32")}
    assert {row.command for row in rows} == {"python main.py " + " ".join(args)}
    run_trial(args, tmp_path)
    assert rows_of_trial(tmp_path, args) == rows


def test_a_training_is_finished_once_all_of_its_folds_are(tmp_path, digits_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    few = {"few": "100", "epochs": "1", "data": str(digits_folder), "arms": "normal-3x3", "seed": "0"}
    args = tuple(text for name, value in {"experiment": "frontier", **few}.items() for text in (f"--{name}", value))
    folds = folds_of(args, "file")
    assert folds == (0, 1, 2, 3, 4)
    assert not is_finished(tmp_path, args, folds)
    run_trial(args, tmp_path)
    rows = rows_of_trial(tmp_path, args)
    assert is_finished(tmp_path, args, folds)
    file = tmp_path / name_of_trial(args) / "results.csv"
    results.write(file, [row for row in rows if row.fold in (0, 1)])
    assert not is_finished(tmp_path, args, folds)
    run_trial(args, tmp_path)
    assert comparable(rows_of_trial(tmp_path, args)) == comparable(rows)


def test_settings_are_tried_without_a_look_at_test_data(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    tiny.write_text(
        tiny.read_text().replace("samples: 64, epochs: 2", "samples: 300, epochs: 5, validation_only: true")
    )
    args = read_trials(tiny)[0]
    run_trial(args, tmp_path)
    rows = rows_of_trial(tmp_path, args)
    assert {(row.split, row.metric) for row in rows} == {("validation", "loss"), ("validation", "accuracy")}
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    results.write(tmp_path / "gathered.csv", [])
    added = str(tmp_path / name_of_trial(args) / "results.csv")
    flags = ("--results", str(tmp_path / "gathered.csv"), "--add", added)
    code, _, err = run_script(capsys, tables.main, tables.Tables, *flags)
    assert code == 2
    assert "no test accuracy among the results" in err


def test_a_training_that_another_process_is_at_is_refused(tiny, tmp_path, monkeypatch):
    from hyperconv.experiments import sweep as module
    from hyperconv.files import locked

    args = read_trials(tiny)[0]
    run_trial(args, tmp_path)
    monkeypatch.setattr(module, "SECONDS_TO_WAIT", 1)
    with locked(tmp_path / name_of_trial(args)), pytest.raises(InputError, match="another process"):
        run_trial(args, tmp_path)


def comparable(rows):
    return sorted(repr(replace(row, seconds=0.0, date="", commit="")) for row in rows)


def in_process(path: Path, logs: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "main.py", "sweep", str(path), f"--logs={logs}", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def settings_files(logs: Path) -> int:
    return len(list(logs.glob("tiny/*/settings.yaml")))


def wait_for(what, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_equals_one_that_is_not(tiny, tmp_path):
    pytest.importorskip("ray")
    whole = tmp_path / "whole"
    assert in_process(tiny, whole, "--workers=2").wait() == 0
    killed = tmp_path / "killed"
    for begun in (1, 3):
        driver = in_process(tiny, killed, "--workers=2")
        wait_for(lambda begun=begun: settings_files(killed) >= begun)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert in_process(tiny, killed, "--workers=2").wait() == 0
    assert settings_files(killed) == 4
    rows = [results.read(logs / "tiny" / "results.csv") for logs in (whole, killed)]
    assert comparable(rows[0]) == comparable(rows[1])
    assert len({row.training for row in rows[0]}) == 4


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(tiny, tmp_path):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("ray")
    logs = tmp_path / "logs"
    driver = in_process(tiny, logs, "--workers=1")
    wait_for(lambda: settings_files(logs) >= 2)
    for process in psutil.Process(driver.pid).children(recursive=True):
        if "ray::" in " ".join(process.cmdline()) and "Agent" not in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
    assert driver.wait() == 0
    rows = results.read(logs / "tiny" / "results.csv")
    assert len({row.training for row in rows}) == 4
    assert len({(row.training, row.split, row.metric, row.at) for row in rows}) == len(rows)


@pytest.mark.slow
def test_two_machines_of_a_cluster_share_a_sweep(tiny, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(ROOT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        rows = sweep(Sweep(str(tiny), address=cluster.address, logs=str(tmp_path / "cluster")))
    finally:
        cluster.shutdown()
    assert in_process(tiny, tmp_path / "alone").wait() == 0
    alone = results.read(tmp_path / "alone" / "tiny" / "results.csv")
    assert comparable(rows) == comparable(alone)


def test_the_example_of_the_docs_is_a_sweep(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/experiments.md").read_text(), re.DOTALL)[1]
    path = tmp_path / "example.yaml"
    path.write_text(text)
    assert len(read_trials(path)) == 20
