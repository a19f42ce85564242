import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import hyperconv
from hyperconv.extras import needing
from hyperconv.training.classifier import MNISTClassifier

ROOT = Path(__file__).parents[1]
HEAVY = (
    "huggingface_hub",
    "jsonargparse",
    "lightning",
    "matplotlib",
    "mlxtend",
    "pandas",
    "pytorch_lightning",
    "rich",
    "safetensors",
    "scipy",
    "seaborn",
    "sklearn",
    "torch_geometric",
    "torchdiffeq",
    "torchmetrics",
    "torchvision",
    "yaml",
)

HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        shown = name.partition(".")[0] in SHOWN or name.startswith("_sysconfigdata")
        return self.finder.find_spec(name, path, target) if shown else None

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""

CORE = """
from functools import partial
import torch
from torch import nn
import hyperconv
import hyperconv.convert, hyperconv.errors, hyperconv.functional, hyperconv.generators
import hyperconv.zoo.digit_classifier, hyperconv.zoo.hyper_lstm, hyperconv.zoo.hypermorph

generator = partial(hyperconv.DenseGenerator, context_dim=2)
layer = hyperconv.HyperConv2d(3, 4, 3, padding=1, generator=generator)
layer(torch.randn(2, 3, 5, 5), torch.randn(2, 2)).square().sum().backward()
assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())

plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
images = torch.randn(2, 3, 9, 9)
hyper = hyperconv.hyperize(plain, keep_function=True)
torch.testing.assert_close(hyper(images), plain(images), rtol=1e-4, atol=1e-5)
baked = hyperconv.bake(hyper, check=images)
assert [type(each) for each in baked] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
with torch.inference_mode(), hyperconv.cached(hyper):
    torch.testing.assert_close(hyper(images), baked(images), rtol=1e-4, atol=1e-5)
"""


def run(code: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(hyperconv.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)


def required_by(package: str, seen: set[str]) -> set[str]:
    """The distributions that a package needs, its own extras left out, that are installed."""
    if package in seen:
        return seen
    try:
        requirements = [Requirement(text) for text in metadata.requires(package) or ()]
    except metadata.PackageNotFoundError:
        return seen
    seen.add(package)
    for requirement in requirements:
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            required_by(normal(requirement.name), seen)
    return seen


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def only_torch() -> str:
    """Code after which a process finds torch, numpy, what they need, and the standard library."""
    distributions = required_by("torch", required_by("numpy", set()))
    modules = {
        module
        for module, owners in metadata.packages_distributions().items()
        if distributions & {normal(owner) for owner in owners}
    }
    assert not modules & set(HEAVY)
    return f"SHOWN = { ({'hyperconv', 'torch', 'numpy'} | modules | set(sys.stdlib_module_names))!r}\n{HIDE}"


def test_the_core_works_where_there_is_torch_alone(only_torch):
    done = run(only_torch + CORE)
    assert done.returncode == 0, done.stderr


def test_nothing_is_imported_with_the_core_that_it_does_not_need():
    done = run(f"{CORE}\nimport sys\nprint(*sorted(set(sys.modules) & {set(HEAVY)!r}))")
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize(
    "asked",
    [
        "from hyperconv import MNISTClassifier",
        "import hyperconv, torch; hyperconv.cost(torch.nn.Identity())",
        "import hyperconv.zoo.neural_ode",
    ],
)
def test_a_missing_package_is_answered_with_the_command_that_brings_it(only_torch, asked):
    done = run(only_torch + asked)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"ImportError: hyperconv\.\S+ needs \w+: pip install hyperconv\[experiments\]", last), last


def test_a_fault_of_the_package_itself_is_not_taken_for_a_missing_extra():
    with pytest.raises(ModuleNotFoundError, match=r"hyperconv\.nothing"), needing("experiments", "this"):
        importlib.import_module("hyperconv.nothing")


def test_public_names_are_there_and_listed():
    assert len(set(hyperconv.__all__)) == len(hyperconv.__all__)
    assert set(hyperconv.__all__) <= set(dir(hyperconv))
    assert all(getattr(hyperconv, name) is not None for name in hyperconv.__all__)
    assert hyperconv.MNISTClassifier is MNISTClassifier
    with pytest.raises(AttributeError, match="no attribute 'HyperConv4d'"):
        _ = hyperconv.HyperConv4d


def imported(path: Path) -> set[str]:
    """The top-level modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named(requirements: list[str]) -> set[str]:
    return {normal(Requirement(text).name) for text in requirements}


def test_what_the_code_imports_is_declared(project):
    """The library and scripts need the core and its extras, and no more; what tests import, the extra ``test`` adds."""
    extras = {name: named(texts) for name, texts in project["optional-dependencies"].items()}
    shipped = named(project["dependencies"]).union(*(extras[name] for name in extras if name != "test"))
    owners = {module: set(map(normal, names)) for module, names in metadata.packages_distributions().items()}
    for folder, pattern, declared in (
        (ROOT / "hyperconv", "**/*.py", shipped),
        (ROOT, "*.py", shipped),
        (ROOT / "tests", "*.py", shipped | extras["test"]),
    ):
        files = list(folder.glob(pattern))
        assert files
        own = {"hyperconv", *(path.stem for path in [*ROOT.glob("*.py"), *(ROOT / "tests").glob("*.py")])}
        for path in files:
            foreign = {name for name in imported(path) - own - set(sys.stdlib_module_names) if name in owners}
            unknown = {name for name in foreign if not owners[name] & declared}
            assert not unknown, f"{path} imports {unknown}"


def test_the_core_depends_on_torch_and_numpy_alone(project):
    assert named(project["dependencies"]) == {"torch", "numpy"}


def test_requirements_bring_the_experiments_and_tests_bring_everything_else_that_they_run_through(project):
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["-e .[experiments]"]
    (own,) = [each for each in map(Requirement, project["optional-dependencies"]["test"]) if each.name == "hyperconv"]
    assert own.extras == {
        "docs",
        "experiments",
        "graphs",
        "hub",
        "images",
        "medical",
        "networks",
        "notebook",
        "sweep",
    }


def test_one_version_everywhere(project):
    assert project["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hyperconv.__version__
    newest = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == hyperconv.__version__


def test_metadata_files_are_shipped(project):
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert (project["license"], project["license-files"], project["readme"]) == ("MIT", ["LICENSE"], "README.md")
    assert (Path(hyperconv.__file__).parent / "py.typed").is_file()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == project["license"]
