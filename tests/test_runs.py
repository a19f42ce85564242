"""A run's folder, whatever has happened to it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, run

from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.digits import DigitsOptions
from hyperconv.experiments.folders import begun, hint, new_folder
from hyperconv.experiments.pair import pair
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.files import locked

NAME = "small"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits_folder) -> Path:
    """Logs with one finished run."""
    logs = tmp_path_factory.mktemp("logs")
    places = {"logs": str(logs), "out": str(logs / "out"), "accelerator": "cpu", "name": NAME}
    run_experiment(Run(experiment="mlp", arms=("normal",), data=str(digits_folder), epochs=2, **places))
    return logs


@pytest.fixture
def logs(tmp_path, finished) -> Path:
    return shutil.copytree(finished, tmp_path / "logs")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file() and path.name != ".lock"}


def resume(capsys, logs: Path, *flags: str):
    return run(capsys, "--resume", "--name", NAME, "--logs", str(logs), "--out", str(logs / "out"), *flags)


def test_a_finished_run_is_reported_again_and_nothing_is_trained(logs, capsys):
    before = files(logs / NAME)
    code, out, err = resume(capsys, logs)
    assert code == 0, err
    assert "normal" in out
    assert files(logs / NAME) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace(b",", b";"), "results.csv holds no results: expected the columns"),
        (lambda text: text[: len(text) // 2], "results.csv, line"),
        (lambda text: text + b"\xff\n", "results.csv is no UTF-8 text"),
        (lambda text: text.replace(b"accuracy,,0", b"accuracy,,x0"), "value cannot be 'x0"),
        (lambda text: b"", "results.csv holds no results"),
        (lambda text: text + b"mlp,,normal\n", "expected 19 columns"),
    ],
)
def test_results_that_were_touched_are_named_and_kept(logs, capsys, damage, message):
    path = logs / NAME / "results.csv"
    path.write_bytes(damage(path.read_bytes()))
    before = files(logs)
    code, _, err = resume(capsys, logs)
    assert code == 2
    assert message in err and len(err.splitlines()) == 1
    assert files(logs) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text.replace(b",", b";"),
        lambda text: text.replace(b"val_loss", b"loss"),
        lambda text: text + b'1,"2',
        lambda text: text + b"\xff",
        None,
    ],
)
def test_metrics_that_were_touched_stop_the_figure_only(logs, capsys, damage):
    path = logs / NAME / "normal" / "metrics.csv"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    before = files(logs)
    code, _, err = resume(capsys, logs)
    assert code == 2
    assert "metrics.csv" in err and len(err.splitlines()) == 1
    assert files(logs) == before


BOMB = b"a: &a [1, 1]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"epochs: 1",
        b"\xff\xfe",
        b"[1, 2",
        BOMB,
        b"!!python/object/apply:os.getcwd []",
        b"- 1\n- 2",
        None,
    ],
)
def test_settings_that_were_touched_are_named_and_kept(logs, capsys, content):
    path = logs / NAME / "settings.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    before = files(logs)
    code, _, err = resume(capsys, logs)
    assert code == 2
    assert "settings.yaml is missing or damaged" in err and "start the run anew under another name" in err
    assert len(err.splitlines()) == 1
    assert files(logs) == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", "x"),
        ("seed", 2**40),
        ("epochs", -1),
        ("quick", "maybe"),
        ("arms", "abc"),
        ("name", 3),
        ("foo", 1),
        ("devices", None),
        ("options", {"kernel_size": 3}),
        ("splits", ["digits"]),
    ],
)
def test_settings_that_make_no_sense_are_named(logs, capsys, setting, value):
    path = logs / NAME / "settings.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), setting: value}))
    code, _, err = resume(capsys, logs)
    assert code == 2
    reason = err.partition("damaged (")[2].partition("); start the run anew")[0]
    assert setting in reason, err


def test_a_run_is_continued_with_the_settings_that_it_began_with(logs, capsys):
    for flags, message in (
        (("--epochs", "3"), "began with epochs 2; it cannot be resumed with 3"),
        (("--seed", "1"), "began with seed 0"),
        (("--experiment", "static"), "began with experiment mlp"),
        (("--kernel_size", "3"), "began with kernel_size"),
        (("--data", "auto2"), "began with data"),
    ):
        code, _, err = resume(capsys, logs, *flags)
        assert (code, message in err) == (2, True), err


def test_a_run_that_another_process_is_using_is_left_alone(logs, capsys):
    before = files(logs)
    with locked(logs / NAME):
        code, _, err = resume(capsys, logs)
    assert code == 2
    assert "another process is using" in err
    assert files(logs) == before
    assert resume(capsys, logs)[0] == 0


def test_options_are_stored_and_come_back(tmp_path, digits_folder, capsys):
    places = {"logs": str(tmp_path), "out": str(tmp_path / "out"), "accelerator": "cpu", "name": "tiny"}
    options = DigitsOptions(conv="hyper", kernel_size=3, hidden=(4, 3), norm="stateless")
    began = run_experiment(Run(data=str(digits_folder), epochs=1, batch_size=64, **places), options)
    (tmp_path / "tiny" / "results.csv").unlink()
    again = run_experiment(Run(resume=True, **places))
    assert [(row.split, row.metric, row.value) for row in again.rows] == [
        (row.split, row.metric, row.value) for row in began.rows
    ]
    assert again.rows[0].settings == "kernel_size=3 hidden=4x3 norm=stateless epochs=1 batch_size=64"
    with pytest.raises(InputError, match="began with norm stateless; it cannot be resumed with none"):
        run_experiment(Run(resume=True, **places), replace(options, norm="none"))


def test_new_runs_of_one_kind_are_numbered_and_named_ones_are_not_overwritten(tmp_path, digits_folder, capsys):
    flags = ("--experiment", "mlp", "--arms", "normal", "--data", str(digits_folder), "--epochs", "1", "--quick")
    flags = (*flags, "--logs", str(tmp_path / "logs"), "--out", str(tmp_path))
    for _ in range(2):
        assert run(capsys, *flags)[0] == 0
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["digits-mlp-quick-epochs1-seed0", "digits-mlp-quick-epochs1-seed0-2"]
    weights = [torch.load(path)["state_dict"] for path in sorted(tmp_path.glob("logs/*/normal/best.ckpt"))]
    assert all(torch.equal(first, second) for first, second in zip(*(each.values() for each in weights), strict=True))
    code, _, err = run(capsys, *flags, "--name", names[0])
    assert code == 2
    assert "exists; give another --name, or --resume" in err
    assert hint(Run(logs="my logs"), Path("my logs/a b")) == "python main.py --resume '--name=a b' '--logs=my logs'"


def test_unwritable_logs_are_refused_before_any_training(tmp_path, digits_folder, capsys):
    (tmp_path / "file").write_text("not a folder")
    code, _, err = run(capsys, "--data", str(digits_folder), "--logs", str(tmp_path / "file"), "--out", str(tmp_path))
    assert code == 2
    assert "cannot be read or written" in err
    assert (tmp_path / "file").read_text() == "not a folder"


def test_what_a_killed_process_left_half_written_is_removed(logs, capsys):
    leftovers = [logs / ".partial-01234567-new-run", logs / NAME / "normal" / ".partial-89abcdef-best.ckpt"]
    leftovers[0].mkdir()
    (leftovers[0] / "settings.yaml").write_text("half")
    leftovers[1].write_bytes(b"half")
    assert resume(capsys, logs)[0] == 0
    assert not any(path.exists() for path in leftovers)
    assert results.read(logs / NAME / "results.csv")


def test_what_is_not_asked_for_again_stays_as_the_run_began(tmp_path):
    logs = str(tmp_path / "logs")
    new_folder(
        Run(experiment="mlp", name="run", logs=logs, out="figures", accelerator="cpu", compile="no"), None, "mnist"
    )
    kept = begun(Run(name="run", logs=logs, resume=True), None).settings
    assert (kept.out, kept.accelerator, kept.compile, kept.resume) == ("figures", "cpu", "no", True)
    moved = begun(Run(name="run", logs=logs, resume=True, out="elsewhere"), None).settings
    assert (moved.out, moved.accelerator) == ("elsewhere", "cpu")


def test_scripts_take_the_lowest_seed_of_a_run(tmp_path, capsys):
    for arm in ("hyper", "normal"):
        for seed in (10, 2):
            shutil.copytree(ROOT / "lightning_logs/mnist-fast" / arm, tmp_path / "run" / arm / f"seed{seed}")
    pair(str(tmp_path / "run"))
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line).parent.name for line in lines] == ["seed2", "seed2"]


def test_arms_of_different_seeds_are_no_pair(tmp_path):
    for arm, seed in (("hyper", 0), ("normal", 0)):
        shutil.copytree(ROOT / "lightning_logs/mnist-fast" / arm, tmp_path / "run" / arm / f"seed{seed}")
    path = tmp_path / "run/normal/seed0/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["seed"] = 1
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match="are of different seeds; name both checkpoints"):
        pair(str(tmp_path / "run"))
    assert pair(str(tmp_path / "run"), normal=str(path))["normal"].seed == 1
