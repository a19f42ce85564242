"""A trained arm packed into a small folder, and its figures measured again from that."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run

from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.run import run as run_experiment
from hyperconv.experiments.settings import Run
from hyperconv.experiments.shipped import pack
from hyperconv.experiments.trained import load_trained

hub = pytest.importorskip("hyperconv.hub", reason="needs huggingface_hub and safetensors")
load_file = pytest.importorskip("safetensors.torch").load_file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits_folder) -> Path:
    """A run of two seeds."""
    logs = tmp_path_factory.mktemp("logs")
    places = {"logs": str(logs), "out": str(logs / "out"), "accelerator": "cpu", "name": "small"}
    run_experiment(Run(experiment="mlp", arms=("chunked",), data=str(digits_folder), epochs=2, seeds=(3, 4), **places))
    return logs / "small"


@pytest.fixture(scope="module")
def packed(finished) -> Path:
    return pack(finished / "chunked" / "seed4", finished / "networks")


@pytest.fixture
def folder(packed, tmp_path) -> Path:
    return shutil.copytree(packed, tmp_path / "mlp-chunked")


def evaluated(capsys, folder, data, *flags):
    return run(capsys, "--evaluate", str(folder), "--data", str(data), "--accelerator", "cpu", *flags)


def test_a_packed_arm_is_the_trained_one_and_tells_its_figures(finished, packed):
    assert packed.name == "mlp-epochs-2-chunked"
    assert {each.name for each in packed.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    network, images = hub.HubNetwork.from_pretrained(packed), torch.randn(3, 1, 28, 28)
    assert torch.equal(network(images), load_trained(finished / "chunked" / "seed4" / "best.ckpt")(images))
    config = json.loads((packed / "config.json").read_text())
    rows = [row for row in results.read(finished / "results.csv") if (row.seed, row.split) == (4, "test")]
    told = config["trained"]
    assert {each["metric"]: each["value"] for each in told["figures"]} == {row.metric: row.value for row in rows}
    assert (config["network"], told["seed"], told["settings"], told["licence"]) == ("mlp/chunked", 4, "epochs=2", "mit")
    assert {"data", "commit", "command", "recipe", "versions", "fold"} <= told.keys()
    card = (packed / "README.md").read_text()
    assert f"- Data: {rows[0].data}" in card and f"`{rows[0].command}`" in card


def test_its_figures_are_measured_again_by_one_command(capsys, packed, digits_folder):
    code, out, err = evaluated(capsys, packed, digits_folder)
    assert code == 0, err
    told = json.loads((packed / "config.json").read_text())["trained"]["figures"]
    for each in told:
        assert out.count(f"{each['value']:.7g}") >= 2
    assert "differs" not in out


def rewritten(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_figures_that_differ_are_shown_and_the_exit_code_is_1(capsys, folder, digits_folder):
    rewritten(folder, lambda config: config["trained"]["figures"][0].update(value=0.123))
    code, out, _ = evaluated(capsys, folder, digits_folder)
    assert (code, out.count("differs")) == (1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda config: config["trained"].update(data="other"), "tells figures of other, and .* gives .*: --data"),
        (lambda config: config["trained"].update(fold=3), "tells figures of fold 3"),
        (lambda config: config["trained"].pop("figures"), "tells no figures"),
        (lambda config: config["trained"].update(figures=[1]), "figures are rows of metric, at and value"),
        (lambda config: config["trained"]["figures"][0].update(metric="x"), "a figure 'x', which mlp does not measure"),
        (lambda config: config.update(network="zoo/PlainCNN"), "names no arm of an experiment"),
        (lambda config: config.update(network="mlp/full"), "holds another network"),
    ),
)
def test_files_that_tell_no_figures_of_these_data_are_refused_in_a_line(capsys, folder, digits_folder, change, message):
    rewritten(folder, change)
    code, _, err = evaluated(capsys, folder, digits_folder)
    assert (code, len(err.splitlines())) == (2, 1)
    assert re.search(message, err), err


def test_packing_by_a_command_and_what_it_refuses(capsys, finished, tmp_path):
    place = finished / "chunked" / "seed3"
    code, out, err = run(capsys, "--pack", str(place / "best.ckpt"), "--out", str(tmp_path / "out"))
    assert (code, "mlp-epochs-2-chunked" in out) == (0, True), err
    code, _, err = run(capsys, "--pack", str(place), "--out", str(tmp_path / "out"))
    assert (code, "mlp-epochs-2-chunked exists; remove it" in err) == (2, True)
    with pytest.raises(InputError, match="there is no checkpoint"):
        pack(tmp_path / "nothing", tmp_path)
    alone = shutil.copytree(place, tmp_path / "alone")
    with pytest.raises(InputError, match=r"no folder above .* has a results\.csv"):
        pack(alone, tmp_path / "other")
    run_folder = shutil.copytree(finished, tmp_path / "run")
    kept = [row for row in results.read(run_folder / "results.csv") if row.seed == 4]
    results.write(run_folder / "results.csv", kept)
    with pytest.raises(InputError, match="has no test figures of"):
        pack(run_folder / "chunked" / "seed3", tmp_path / "other")
    assert not (tmp_path / "other").exists()


SHIPPED = sorted((ROOT / "lightning_logs" / "networks").iterdir())
# within data/, of those that are not of digits
DATA = {
    "weather-clips-radar": "radar_fmi",
    "graph-hyper-graphs-PROTEINS": "tu",
    "lgnn-graph-cora": "cora_citeseer",
    "unet": "hippocampus",
    "superres-natural": "superres/Set5",
    "hyperlstm-characters": "tinyshakespeare",
    "ode": "auto",  # simulated
}


def test_shipped_networks_are_small_and_listed():
    sizes = [(folder / "model.safetensors").stat().st_size for folder in SHIPPED]
    assert max(sizes) <= 4_000_000
    assert sum(sizes) <= 25_000_000
    page = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)) == [folder.name for folder in SHIPPED]


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_networks_are_found_again(folder):
    pytest.importorskip("monai" if "unet" in folder.name else "torch")
    pytest.importorskip("torch_geometric" if "graph" in folder.name else "torch")
    network, config = hub.HubNetwork.from_pretrained(folder), hub.read_config(folder / "config.json")
    assert network.config == config and config["trained"]["figures"]
    weights = load_file(folder / "model.safetensors")
    found = network.network.state_dict()
    assert weights.keys() <= found.keys() and weights
    assert all(torch.equal(weight, found[name]) for name, weight in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_fresh_process_measures_the_figures_of_shipped_networks(folder):
    own = next((own for name, own in DATA.items() if folder.name.startswith(name)), "MNIST")
    data = own if own == "auto" else ROOT / "data" / own
    if own != "auto" and not data.is_dir():
        pytest.skip(f"needs data/{own}")
    done = subprocess.run(
        [sys.executable, "main.py", "--evaluate", str(folder), "--data", str(data), "--accelerator", "cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
