import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers import ROOT, run_script

import noise_test
import plot_conv_weights
import plot_heatmap_from_paper
import plot_training_graph
from hyperconv import kernel_grid, plotting
from hyperconv.data import load_digits
from hyperconv.experiments import results
from hyperconv.experiments.digits import DigitsOptions
from hyperconv.experiments.figures.noise import noise_figure
from hyperconv.experiments.noise import MEDIAN, median_filtered, noise_curves
from hyperconv.experiments.run import run
from hyperconv.experiments.settings import Run
from hyperconv.experiments.trained import load_trained

NOISE = (noise_test.main, noise_test.NoiseTest)
WEIGHTS = (plot_conv_weights.main, plot_conv_weights.ConvWeights)
GRAPH = (plot_training_graph.main, plot_training_graph.TrainingGraph)
HEAT = (plot_heatmap_from_paper.main, plot_heatmap_from_paper.PaperHeatMap)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_folder) -> Path:
    """The folder of a small run of digits."""
    logs = tmp_path_factory.mktemp("logs")
    options = DigitsOptions(kernel_size=3, hidden=(8, 4))
    places = {"logs": str(logs), "out": str(logs / "out"), "accelerator": "cpu"}
    return run(Run(data=str(digits_folder), epochs=2, batch_size=64, name="small", **places), options).folder


def test_noise_test_writes_curves_results_and_a_figure_of_the_run_that_it_names(
    tmp_path, trained, digits_folder, drawn, capsys
):
    flags = ("--run", str(trained), "--data", str(digits_folder), "--digits", "10", "--repeats", "2", "--seed", "3")
    code, out, err = run_script(capsys, *NOISE, *flags, "--out", str(tmp_path))
    assert code == 0, err
    assert f"hyper: {trained}/hyper/best.ckpt" in out
    rows = pd.read_csv(tmp_path / "noise.csv")
    assert list(rows) == ["noiseType", "amount", "accuracy", "modelType", "noiseUnit", "repeat"]
    assert len(rows) == 3 * 20 * 2 * 3
    assert set(rows["modelType"]) == {"hyper", "normal", MEDIAN}
    assert sorted(rows["amount"].unique()) == pytest.approx([level / 19 for level in range(20)])
    assert rows["accuracy"].between(0, 1).all()
    written = {(row.arm, row.at): row for row in results.read(tmp_path / "results.csv")}
    gaussian = rows[(rows["modelType"] == "hyper") & (rows["noiseType"] == "gaussian")]
    found = written["hyper", "gaussian"]
    assert found.value == pytest.approx(gaussian["accuracy"].mean(), abs=1e-6)
    assert (found.metric, found.split, found.seed, found.noise_seed) == ("accuracy under noise", "test", 0, 3)
    assert found.settings == "kernel_size=3 hidden=8x4 epochs=2 batch_size=64"
    assert written[MEDIAN, "gaussian"].settings == "kernel_size=3 epochs=2 batch_size=64"
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    assert set(panels) == {"salt-and-pepper", "gaussian", "speckle"}
    means = gaussian.groupby("amount")["accuracy"].mean()
    assert any(np.allclose(line.get_ydata(), means) for line in panels["gaussian"].lines if len(line.get_ydata()) == 20)


def test_noise_test_refuses_results_that_it_could_not_add_to_before_it_measures(
    tmp_path, trained, digits_folder, capsys
):
    (tmp_path / "results.csv").write_text("no,results\n1,2\n")
    flags = ("--run", str(trained), "--data", str(digits_folder), "--out", str(tmp_path))
    code, _, err = run_script(capsys, *NOISE, *flags)
    assert code == 2 and "results.csv holds no results" in err
    assert (tmp_path / "results.csv").read_text() == "no,results\n1,2\n"
    assert not (tmp_path / "noise.csv").exists()


def test_losses_beyond_drawing_are_left_out_and_names_are_no_formulas(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train_loss,val_loss\n0,0,1e308,\n0,1,2.0,\n0,1,,1e308\n1,2,1.5,\n1,3,1.0,\n1,3,,0.5\n"
    )
    losses = plotting.read_losses(tmp_path / "metrics.csv")
    assert losses["train_loss"].dropna().tolist() == [2.0, 1.5, 1.0] and losses["val_loss"].dropna().tolist() == [0.5]
    figure = plotting.training_curves({"costs $5_": losses}, "from $1_{ to $2")
    plotting.save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size


def test_bands_are_a_standard_deviation_over_draws():
    rows = [
        {"noiseType": "gaussian", "amount": amount, "accuracy": accuracy, "modelType": "hyper", "noiseUnit": "std",
         "repeat": repeat}
        for amount in (0.0, 1.0)
        for repeat, accuracy in enumerate((0.5, 0.7))
    ]  # fmt: skip
    axis = noise_figure(pd.DataFrame(rows), "digits").axes[0]
    assert axis.lines[0].get_ydata() == pytest.approx([0.6, 0.6])
    corners = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((0.6 - 0.1 * 2**0.5, 0.6 + 0.1 * 2**0.5))


def test_the_same_noise_for_every_classifier_and_other_noise_for_every_seed_and_repeat(digits_folder):
    digits = load_digits(str(digits_folder)).test
    seen = []

    def spy(images):
        seen.append(images)
        return torch.zeros(len(images), 10)

    for seed in (0, 0, 1):
        noise_curves({"spy": spy}, digits, count=60, repeats=2, seed=seed)
    first, again, other = seen[:120], seen[120:240], seen[240:]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    loud = 5  # salt-and-pepper at level 5; the second repeat has the same 60 digits
    assert not torch.equal(first[loud], other[loud])
    assert not torch.equal(first[loud], first[60 + loud])
    assert torch.equal(first[0], first[60])


def test_median_filter_removes_lone_pixels():
    image = torch.zeros(1, 1, 28, 28)
    image[..., 5, 5] = 1
    image[..., 10:15, 10:15] = 1
    seen = []
    median_filtered(lambda images: seen.append(images))(image)
    assert seen[0][..., 5, 5] == 0
    assert seen[0][..., 12, 12] == 1


def test_kernels_are_drawn_as_they_are_and_between_their_taps(tmp_path, trained, drawn, capsys):
    code, out, err = run_script(capsys, *WEIGHTS, "--run", str(trained), "--layer", "3", "--out", str(tmp_path))
    assert code == 0, err
    assert f"normal: {trained}/normal/best.ckpt" in out
    normal, hyper, between = (axis for axis in drawn[0].axes if axis.get_title())
    assert "trained on digits" in drawn[0].get_suptitle()
    layers = {}
    for arm in ("hyper", "normal"):
        layers[arm] = load_trained(trained / arm / "best.ckpt")[2].branch[5]
    for axis, arm in ((normal, "normal"), (hyper, "hyper")):
        weight = layers[arm].weight.detach()
        shown = np.asarray(axis.images[0].get_array().filled(np.nan))
        channels = weight.shape[0]
        assert shown.shape == (channels * 4 - 1, channels * 4 - 1)
        np.testing.assert_allclose(shown[4:7, 8:11], weight[1, 2], atol=1e-6)
        assert np.isnan(shown[3]).all()
    shown = np.asarray(between.images[0].get_array().filled(np.nan))
    size, gap = 27, 5
    place = (size + gap) * 1, (size + gap) * 2
    fine = shown[place[0] : place[0] + size, place[1] : place[1] + size]
    np.testing.assert_allclose(fine[4::9, 4::9], layers["hyper"].weight.detach()[1, 2], atol=1e-5)
    grid = kernel_grid((27, 27)) / 9
    with torch.no_grad():
        expected = layers["hyper"].generator.sample(grid).unflatten(1, (27, 27))[1, :, :, 2]
    np.testing.assert_allclose(fine, expected, atol=1e-5)


METRICS = (
    "epoch,step,train_loss,train_acc,val_loss,val_acc,test_loss,test_acc\n"
    "0,49,2.1,.2,,,,\n0,99,1.1,.6,,,,\n0,99,,,.9,.7,,\n1,149,.7,.8,,,,\n1,199,,,.6,.8,,\n"
)


def write_run(folder: Path, metrics: str = METRICS, **described) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    if described:
        (folder / "hparams.yaml").write_text(yaml.safe_dump(described))
    return folder


def test_training_graph_shows_each_arm_of_the_run_and_names_its_loss_and_data(tmp_path, trained, drawn, capsys):
    code, out, err = run_script(capsys, *GRAPH, "--run", str(trained), "--out", str(tmp_path))
    assert code == 0, err
    assert f"hyper: {trained}/hyper/metrics.csv" in out
    (axis,) = drawn[0].axes
    assert (axis.get_ylabel(), axis.get_title(), axis.get_yscale()) == ("cross-entropy", "Training on digits", "log")
    lines = {line.get_label(): line for line in axis.lines}
    for arm in ("hyper", "normal"):
        losses = pd.read_csv(trained / arm / "metrics.csv")["val_loss"].dropna()
        np.testing.assert_allclose(lines[arm].get_ydata(), losses)
        np.testing.assert_allclose(lines[arm].get_xdata(), [1, 2])


def test_negative_losses_are_drawn_on_a_linear_scale(tmp_path, drawn, capsys):
    run = write_run(tmp_path / "run", METRICS.replace(".6,.8", "-.6,.8"), loss="log-likelihood", data="waves")
    code, _, err = run_script(capsys, *GRAPH, "--runs", str(run), "--out", str(tmp_path))
    assert code == 0, err
    (axis,) = drawn[0].axes
    assert (axis.get_ylabel(), axis.get_yscale()) == ("log-likelihood", "linear")
    assert axis.lines[1].get_ydata() == pytest.approx([0.9, -0.6])
    low, high = axis.get_ylim()
    assert low < -0.6 < 0.9 < high


@pytest.mark.parametrize(
    "damage",
    [
        b"!!python/object/apply:os.system ['touch trap']",
        b"data: caf\xe9",
        b"[1, 2",
        b"data: [1, 2]\nloss: 3",
        b"",
        b"\0",
    ],
)
def test_what_names_a_run_may_be_damaged(tmp_path, drawn, capsys, damage):
    run = write_run(tmp_path / "run")
    (run / "hparams.yaml").write_bytes(damage)
    code, _, err = run_script(capsys, *GRAPH, "--runs", str(run), "--out", str(tmp_path))
    assert code == 0, err
    (axis,) = drawn[0].axes
    assert (axis.get_ylabel(), axis.get_title()) == ("loss", "Training")


def test_runs_of_one_name_are_told_apart(tmp_path, drawn, capsys):
    runs = [str(write_run(tmp_path / name / "hyper")) for name in "ab"]
    code, _, err = run_script(capsys, *GRAPH, "--runs", *runs, "--out", str(tmp_path))
    assert code == 0, err
    assert set(runs) <= {line.get_label() for line in drawn[0].axes[0].lines}


def test_the_papers_tables_are_drawn(tmp_path, drawn, capsys):
    assert run_script(capsys, *HEAT, "--out", str(tmp_path))[0] == 0
    first, second = drawn[0].axes[:2]
    for axis, (name, table) in zip((first, second), plot_heatmap_from_paper.DICE.items(), strict=True):
        assert axis.get_title() == name
        np.testing.assert_allclose(axis.collections[0].get_array(), table)
        assert [text.get_text() for text in axis.texts] == [f"{value:.3f}" for row in table for value in row]


@pytest.mark.parametrize("suffix", ("png", "pdf", "svg"))
def test_figures_are_files_of_the_format_that_is_asked_for(tmp_path, capsys, suffix):
    run = write_run(tmp_path / "run")
    assert run_script(capsys, *GRAPH, "--runs", str(run), "--format", suffix, "--out", str(tmp_path))[0] == 0
    content = (tmp_path / f"training_graph.{suffix}").read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG") and struct.unpack(">II", content[16:24]) == (1024, 640)
    else:
        assert content.startswith({"pdf": b"%PDF", "svg": b"<?xml"}[suffix])


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (WEIGHTS, ("--run", "{trained}", "--layer", "16"), "the residual blocks have 0 to 15"),
        (WEIGHTS, ("--run", "nobody"), "there is no run nobody in lightning_logs"),
        (NOISE, ("--run", "nobody"), "there is no run nobody in lightning_logs"),
        (NOISE, ("--run", "{tmp}"), "there is no checkpoint {tmp}/hyper/best.ckpt"),
        (NOISE, ("--run", "{trained}", "--hyper", "{trained}/normal/best.ckpt"), "holds the arm normal of digits"),
        (NOISE, ("--run", "{trained}", "--seed", "99999999999999999999"), '"seed"'),
        (NOISE, ("--run", "{trained}", "--digits", "99999999999999999999"), '"digits"'),
        (GRAPH, ("--run", "nobody"), "there is no run nobody in lightning_logs"),
        (GRAPH, ("--run", "{tmp}"), "there is no metrics.csv in {tmp}"),
        (GRAPH, ("--runs", "{tmp}/missing"), "there is no {tmp}/missing"),
        (GRAPH, ("--runs", "{tmp}/empty.csv"), "empty.csv is no table of epoch"),
        (GRAPH, ("--runs", "{tmp}/other.csv"), "other.csv is no table of epoch"),
        (GRAPH, ("--runs", "{tmp}/cut.csv"), "cut.csv is no table of epoch"),
        (GRAPH, ("--runs", "{tmp}/begun.csv"), "begun.csv has no training or no validation losses yet"),
    ],
)
def test_scripts_refuse_what_they_cannot_show(tmp_path, trained, capsys, script, flags, message):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "other.csv").write_text(METRICS.replace(",", ";"))
    (tmp_path / "cut.csv").write_text(METRICS + '2,"2')
    (tmp_path / "begun.csv").write_text(METRICS.splitlines()[0] + "\n0,49,2.1,.2,,,,\n")
    places = {"tmp": str(tmp_path), "trained": str(trained)}
    out = tmp_path / "out"
    code, _, err = run_script(capsys, *script, *(flag.format(**places) for flag in flags), "--out", str(out))
    assert code == 2
    assert message.format(**places) in err
    assert len(err.splitlines()) == 1, err
    assert not out.exists()


def test_a_table_with_a_byte_order_mark_is_read(tmp_path, drawn, capsys):
    run = write_run(tmp_path / "run")
    (run / "metrics.csv").write_bytes(b"\xef\xbb\xbf" + METRICS.encode())
    assert run_script(capsys, *GRAPH, "--runs", str(run), "--out", str(tmp_path))[0] == 0


def test_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("here first")
    code, _, err = run_script(capsys, *HEAT, "--out", str(tmp_path / "file"))
    assert code == 2
    assert "cannot be read or written" in err
    assert (tmp_path / "file").read_text() == "here first"


SHIPPED = sorted((ROOT / "lightning_logs").glob("*/**/best.ckpt"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_shipped_checkpoints_load_and_are_small(path):
    assert path.stat().st_size <= 3_000_000
    network = load_trained(path)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert plotting.read_losses(path.with_name("metrics.csv"))["val_loss"].notna().any()
    assert path.with_name("hparams.yaml").is_file()
