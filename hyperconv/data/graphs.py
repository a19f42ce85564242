"""Graphs to classify: digits as superpixels, molecules and proteins of the TU collection. Needs extra ``graphs``."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..files import read_text, renamed_into_place
from .batches import Splits
from .digits import LOCAL_FOLDER, SIDE, DigitDataset, load_digits
from .folds import fold_of

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

SUPERPIXELS = 75
PIXEL_FEATURES, EDGE_FEATURES = 3, 2
_GRAPHS = {"train": 3000, "validation": 500, "test": 1000}
_NEIGHBOURS = 8
_COMPACTNESS = 0.25


class Collection(NamedTuple):
    """One of the TU collection's data sets.

    Attributes:
        labels: kinds of nodes, each a feature.
        edge_labels: kinds of edges, 0 where edges have none.
        digest: sha256 of its files as they are published, ordered by name.
    """

    labels: int
    edge_labels: int
    digest: str


COLLECTIONS = {
    "MUTAG": Collection(7, 4, "7e02aca6050a6f38f9318819b2a7ac4269131a1b5548de5481c699a55fa149bb"),
    "PROTEINS": Collection(3, 0, "b039793ca04f1c9e62e0b7b790cb7df1f779ced4802a33179e1d202f2186078b"),
}
FOLDS = 10


def collate(graphs: Sequence["Data"]) -> "Batch":
    """Graphs as one of parts that are not connected."""
    from torch_geometric.data import Batch

    return Batch.from_data_list(list(graphs))


def superpixel_digits(source: str = "auto") -> Splits:
    """The splits of `load_digits` as graphs, at most 3,000 / 500 / 1,000.

    A digit is cut into about 75 superpixels (SLIC of scikit-image), its nodes. Features ``(N, 3)``: brightness 0 ... 1,
    row and column of the centroid, -1 ... 1. From each of its 8 nearest an edge comes to a node, with the row and the
    column of the way that it goes.

    Raises:
        InputError: as `load_digits`.
    """
    digits = load_digits(source)
    splits = {split: _graphs(getattr(digits, split), count) for split, count in _GRAPHS.items()}
    return Splits(digits.name, **splits, note=f"{digits.note}; {_sizes(splits)} digits as graphs of superpixels")


def _sizes(splits: Mapping[str, Sequence["Data"]]) -> str:
    return ", ".join(f"{len(graphs)} {split}" for split, graphs in splits.items())


def _graphs(digits: DigitDataset, count: int) -> list["Data"]:
    images, labels = digits[:count]
    return [superpixels(image[0], label) for image, label in zip(images, labels, strict=True)]


def superpixels(image: Tensor, label: Tensor) -> "Data":
    """A digit ``(28, 28)`` uint8 and its label ``()`` as `superpixel_digits` says."""
    from skimage.segmentation import slic
    from torch_geometric.data import Data

    pixels = image.numpy().astype(np.float32) / 255
    regions = slic(pixels, SUPERPIXELS, _COMPACTNESS, channel_axis=None, start_label=0).ravel()
    places = np.linspace(-1, 1, SIDE, dtype=np.float32)
    values = (pixels.ravel(), np.repeat(places, SIDE), np.tile(places, SIDE))
    sums = np.stack([np.bincount(regions, value) for value in values], axis=1)
    features = (sums / np.bincount(regions)[:, None]).astype(np.float32)
    ways = features[:, None, 1:] - features[None, :, 1:]
    # each comes before its nearest
    distances = np.square(ways).sum(axis=2) - np.eye(len(features))
    near = distances.argsort(axis=1, kind="stable")[:, 1 : _NEIGHBOURS + 1]
    target = np.arange(len(features)).repeat(near.shape[1])
    source = near.ravel()
    arrays = features, np.stack([source, target]), ways[target, source]
    return Data(*map(torch.from_numpy, arrays), label.view(1))


def tu_graphs(name: str, source: str = "auto", fold: int = 0) -> Splits:
    """One of ten folds of a data set of the TU collection (https://chrsmrrs.github.io/datasets).

    The graphs are cut once into ten parts of like shares of classes. One is the test split, the next one the validation
    split; the others are trained on. Features are the nodes' labels, and the edges', as ones and zeros.

    Args:
        name: one of `COLLECTIONS`.
        source: a folder with its text files, or one that has them in ``NAME/raw`` or ``NAME``; ``auto``: ``data/tu``,
            else torch-geometric downloads it there.
        fold: 0 ... 9.

    Raises:
        InputError: files that are missing, damaged, or of another data set.
    """
    folder = LOCAL_FOLDER / "tu" if source == "auto" else Path(source)
    if source == "auto" and not any((folder / name).rglob(f"{name}_A.txt")):
        _download(folder / name, name)
    graphs = read_tu(_place_of(folder, name), name)
    labels = torch.cat([graph.y for graph in graphs])
    parts = dict(zip(_GRAPHS, fold_of(len(graphs), fold, FOLDS, labels=labels), strict=True))
    splits = {split: [graphs[number] for number in part] for split, part in parts.items()}
    note = f"{name} from {folder}, fold {fold} of {FOLDS}: {_sizes(splits)} graphs"
    return Splits(name.lower(), **splits, note=note)


def _place_of(folder: Path, name: str) -> Path:
    for place in (folder, folder / "raw", folder / name, folder / name / "raw"):
        if (place / f"{name}_A.txt").is_file():
            return place
    raise InputError(f"there is no {name}_A.txt in {folder} or its {name}/raw; give the folder of {name} with --data")


def read_tu(folder: Path, name: str) -> list["Data"]:
    """The graphs of ``NAME_A.txt``, ``NAME_graph_indicator.txt``, ``NAME_graph_labels.txt``, ``NAME_node_labels.txt``.

    And of ``NAME_edge_labels.txt``, where edges have labels. Classes are numbered from 0.

    Raises:
        InputError: files that are missing, damaged, contradict one another, or are of another data set.
    """
    from torch_geometric.data import Data

    known = COLLECTIONS[name]

    def column(what: str, width: int = 1) -> Tensor:
        return _numbers(folder / f"{name}_{what}.txt", width)

    edges, graph_of_node = column("A", 2).T - 1, column("graph_indicator").flatten() - 1
    classes, labels = column("graph_labels").flatten(), column("node_labels").flatten()
    count, nodes = len(classes), len(graph_of_node)
    kinds = column("edge_labels").flatten() if known.edge_labels else None

    def check(sound: bool | Tensor, fault: str) -> None:
        if not sound:
            raise InputError(f"{folder} holds no sound {name}: {fault}; get it anew")

    check(len(labels) == nodes, f"{nodes} nodes have {len(labels)} labels")
    check(kinds is None or len(kinds) == edges.shape[1], f"{edges.shape[1]} edges have too few or too many labels")
    check((graph_of_node.diff() >= 0).all(), "nodes of one graph do not follow one another")
    check(set(graph_of_node.tolist()) == set(range(count)), f"nodes are not of the {count} graphs that have labels")
    check(((edges >= 0) & (edges < nodes)).all(), f"edges lead out of the {nodes} nodes")
    check((graph_of_node[edges[0]] == graph_of_node[edges[1]]).all(), "edges lead from graph to graph")
    check(((labels >= 0) & (labels < known.labels)).all(), f"labels of nodes are not 0 to {known.labels - 1}")
    if kinds is not None:
        check(
            ((kinds >= 0) & (kinds < known.edge_labels)).all(), f"those of edges are not 0 to {known.edge_labels - 1}"
        )
    check(len(classes.unique()) == 2, f"there are {len(classes.unique())} classes, not 2")

    classes = classes.unique(return_inverse=True)[1]
    features = F.one_hot(labels, known.labels).float()
    edge_features = None if kinds is None else F.one_hot(kinds, known.edge_labels).float()
    held = graph_of_node.bincount(minlength=count)
    first = held.cumsum(0) - held
    graphs = []
    graph_of_edge = graph_of_node[edges[0]]
    order = graph_of_edge.argsort(stable=True)
    for number, of_graph in enumerate(order.split(graph_of_edge.bincount(minlength=count).tolist())):
        start = first[number]
        graphs.append(
            Data(
                features[start : start + held[number]],
                edges[:, of_graph] - start,
                None if edge_features is None else edge_features[of_graph],
                classes[number].view(1),
            )
        )
    return graphs


def _numbers(path: Path, width: int) -> Tensor:
    """Lines of ``width`` whole numbers with commas between them, ``(lines, width)``."""
    text = read_text(path)
    try:
        rows = [[int(number) for number in line.split(",")] for line in text.splitlines() if line.strip()]
        numbers = torch.tensor(rows).view(-1, width)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(f"{path} does not hold lines of {width} whole numbers ({reason}); get it anew") from error
    if not len(numbers) or not all(len(row) == width for row in rows):
        raise InputError(f"{path} does not hold lines of {width} whole numbers; get it anew")
    return numbers


def _download(folder: Path, name: str) -> None:
    from torch_geometric.datasets import TUDataset

    try:
        with renamed_into_place(folder, folder=True) as partial:
            dataset = TUDataset(str(partial), name)
            raw = Path(dataset.raw_dir)
            content = b"".join(path.read_bytes() for path in sorted(raw.glob(f"{name}_*.txt")))
            if hashlib.sha256(content).hexdigest() != COLLECTIONS[name].digest:
                raise OSError(f"what {dataset.url} sent is not what was published")
            raw.rename(partial / "raw")
    except Exception as error:  # whatever kept us from the data
        raise no_download(name, folder, error) from error


def no_download(name: str, path: Path, error: Exception) -> InputError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
    return InputError(f"there is no {path} and no download of {name} ({reason}); give its folder with --data")
