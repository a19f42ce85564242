import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import main as main_script
import noise_test
import plot_conv_weights
import plot_heatmap_from_paper
import plot_training_graph
from hyperconv import MNISTClassifier, cli
from hyperconv.experiments import results, tables
from hyperconv.experiments.noise import MEDIAN, median_filtered, noise_curves

ROOT = Path(main_script.__file__).parent


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    for arm in ("hyper", "normal"):
        model = MNISTClassifier(arm, kernel_size=3, data="testdigits")
        content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        torch.save(content, folder / f"{arm}.ckpt")
    return {arm: str(folder / f"{arm}.ckpt") for arm in ("hyper", "normal")}


def stop_code(main, settings, args):
    with pytest.raises(SystemExit) as stop:
        cli.run(main, settings, args)
    return stop.value.code


def test_noise_test_writes_the_published_columns_and_a_figure(tmp_path, checkpoints, digits_folder):
    flags = ["--hyper", checkpoints["hyper"], "--normal", checkpoints["normal"], "--data", str(digits_folder)]
    cli.run(noise_test.main, noise_test.NoiseTest, [*flags, "--digits", "20", "--repeats", "2", "--out", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "noise.csv")
    assert list(rows) == ["noiseType", "amount", "accuracy", "modelType", "noiseUnit", "repeat"]
    assert len(rows) == 3 * 20 * 2 * 3
    assert set(rows["modelType"]) == {"hyper", "normal", MEDIAN}
    assert sorted(rows["amount"].unique()) == pytest.approx([level / 19 for level in range(20)])
    assert rows["accuracy"].between(0, 1).all()
    assert (tmp_path / "noise.png").stat().st_size > 10_000
    means = {(row.arm, row.metric): row.value for row in results.read(tmp_path / "results.csv")}
    expected = rows[(rows["modelType"] == "hyper") & (rows["noiseType"] == "gaussian")]["accuracy"].mean()
    assert means["hyper", "mean accuracy, gaussian"] == pytest.approx(expected, abs=1e-6)


def test_noise_draws_are_the_same_for_the_same_seed_and_fresh_for_each_repeat(digits_folder):
    from hyperconv.data import load_digits

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


@pytest.mark.parametrize("suffix", ("png", "pdf", "svg"))
def test_every_figure_in_every_format(tmp_path, checkpoints, suffix):
    metrics = tmp_path / "run" / "metrics.csv"
    metrics.parent.mkdir()
    metrics.write_text(
        "epoch,step,train_loss,train_acc,val_loss,val_acc,test_loss,test_acc\n"
        "0,49,2.1,.2,,,,\n0,99,1.1,.6,,,,\n0,99,,,.9,.7,,\n1,149,.7,.8,,,,\n1,199,,,.6,.8,,\n"
    )
    common = ["--format", suffix, "--out", str(tmp_path)]
    models = ["--hyper", checkpoints["hyper"], "--normal", checkpoints["normal"]]
    cli.run(plot_conv_weights.main, plot_conv_weights.ConvWeights, ["--layer", "3", *models, *common])
    cli.run(plot_training_graph.main, plot_training_graph.TrainingGraph, ["--runs", str(metrics.parent), *common])
    cli.run(plot_heatmap_from_paper.main, plot_heatmap_from_paper.PaperHeatMap, common)
    for name in ("conv_weights_layer3", "training_graph", "heatmap_from_paper"):
        assert (tmp_path / f"{name}.{suffix}").stat().st_size > 5_000
    if suffix == "svg":
        assert "testdigits" in (tmp_path / "conv_weights_layer3.svg").read_text()


def test_plots_refuse_what_they_cannot_draw(tmp_path, checkpoints, capsys):
    models = ["--hyper", checkpoints["hyper"], "--normal", checkpoints["normal"], "--out", str(tmp_path / "out")]
    assert stop_code(plot_conv_weights.main, plot_conv_weights.ConvWeights, ["--layer", "16", *models]) == 2
    assert "the residual blocks have 0 to 15" in capsys.readouterr().err
    (tmp_path / "metrics.csv").write_text("")
    for run, message in (("missing", "there is no"), ("metrics.csv", "is no table")):
        args = ["--runs", str(tmp_path / run), "--out", str(tmp_path / "out")]
        assert stop_code(plot_training_graph.main, plot_training_graph.TrainingGraph, args) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("here first")
    args = ["--out", str(tmp_path / "file")]
    assert stop_code(plot_heatmap_from_paper.main, plot_heatmap_from_paper.PaperHeatMap, args) == 2
    assert "cannot be read or written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "here first"


def test_readme_tables_are_those_that_the_results_give():
    rows = results.read(ROOT / "lightning_logs" / "results.csv")
    assert rows
    for page in tables.Tables().pages:
        text = (ROOT / page).read_text()
        assert "<!-- table " in text
        assert tables.with_tables(text, rows) == text


def test_tables_average_over_seeds_and_replace_repeated_rows(tmp_path):
    def row(seed, value, split="test"):
        return results.Result(
            "digits-fast", "hyper", seed, "mnist", split, "accuracy", value, 1000, 5, 60.0, "python main.py", "", ""
        )

    results.write(tmp_path / "all.csv", [row(0, 0.5)])
    results.write(
        tmp_path / "new.csv", [row(s, v, split) for split in ("test", "validation") for s, v in ((0, 0.98), (1, 0.99))]
    )
    (tmp_path / "README.md").write_text(
        "a\n<!-- table accuracy -->\nold\n<!-- end -->\nb\n<!-- table noise -->\n<!-- end -->\n"
    )
    settings = tables.Tables((str(tmp_path / "new.csv"),), str(tmp_path / "all.csv"), (str(tmp_path / "README.md"),))
    tables.main(settings)
    assert len(results.read(tmp_path / "all.csv")) == 4
    text = (tmp_path / "README.md").read_text()
    assert "| mnist | fast | hyper | 1,000 | 98.50 ± 0.71 | 98.50 ± 0.71 | 2 | 5 | 60 |" in text
    assert "old" not in text


@pytest.mark.parametrize("arm", ("hyper", "normal"))
def test_shipped_checkpoints_load_and_are_small(arm):
    path = ROOT / "lightning_logs" / f"version_{arm}" / "best.ckpt"
    assert path.stat().st_size <= 3_000_000
    model = MNISTClassifier.load_from_checkpoint(path)
    assert model.hparams["conv"] == arm
    assert model.hparams["data"] == "mnist"
    assert path.with_name("metrics.csv").is_file()
    assert path.with_name("hparams.yaml").is_file()


def test_benchmarks_run_and_write_their_figures(tmp_path):
    command = [sys.executable, "benchmarks/train_step.py", "--batch-size", "2", "--rounds", "2"]
    subprocess.run([*command, "--json", str(tmp_path / "steps.json")], cwd=ROOT, check=True, timeout=300)
    figures = json.loads((tmp_path / "steps.json").read_text())["figures"]
    assert {"hyper", "normal", "ancestor's formulation"} < set(figures)
    assert all(len(figures[side]["to normal"]) == 3 for side in ("hyper", "ancestor's formulation"))
