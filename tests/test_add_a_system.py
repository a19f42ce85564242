"""The example of docs/add-a-system.md, followed."""

import re
import sys

import pytest
import torch
from helpers import ROOT, run

import hyperconv.experiments
import hyperconv.zoo
from hyperconv.experiments import results
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.trained import load_trained

PAGE = (ROOT / "docs" / "add-a-system.md").read_text(encoding="utf-8")
FILES = re.findall(r"`hyperconv/(\w+)/(\w+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's files where the package finds them."""
    for package, name, content in FILES:
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    known = set(sys.modules)
    for package in (hyperconv.zoo, hyperconv.experiments):
        folder = str(tmp_path / package.__name__.rpartition(".")[2])
        monkeypatch.setattr(package, "__path__", [*package.__path__, folder])
    experiments.cache_clear()
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]
    experiments.cache_clear()


def test_the_example_is_two_files_of_under_sixty_lines_and_runs(tmp_path, added, digits_folder, capsys):
    assert [package for package, _, _ in FILES] == ["zoo", "experiments"]
    lines = [line for _, _, content in FILES for line in content.splitlines() if line.strip()]
    assert len(lines) < 60
    assert "mixed-convolution" in run(capsys, "--list")[1]
    _, told, _ = run(capsys, "--experiment", "mixed-convolution", "--help")
    assert "how many kernels are mixed" in told
    flags = ("--experiment", "mixed-convolution", "--data", str(digits_folder), "--epochs", "1", "--experts", "3")
    code, _, err = run(capsys, *flags, "--logs", str(tmp_path), "--out", str(tmp_path), "--name", "mixed")
    assert code == 0, err
    rows = results.read(tmp_path / "mixed" / "results.csv")
    assert {(row.arm, row.split) for row in rows} == {
        (a, s) for a in ("hyper", "normal") for s in ("validation", "test")
    }
    network = load_trained(tmp_path / "mixed" / "hyper" / "best.ckpt")
    assert network.second.generator.context_dim == 3
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert (tmp_path / "mixed-convolution-experts3-epochs1.png").is_file()


def test_commands_of_the_page_name_the_example():
    commands = re.findall(r"^python main.py --experiment (\S+)", PAGE, re.MULTILINE)
    assert len(commands) == 4
    assert set(commands) == {"mixed-convolution"}
