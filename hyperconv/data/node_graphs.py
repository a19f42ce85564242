"""Graphs with nodes to classify: articles that cite one another, pages of a wiki, digits and their nearest.

Needs the extra ``graphs``. All features are divided by their sum over the node; where most are zero, they come in
compressed rows (``torch.sparse_csr``).
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from ..files import renamed_into_place
from .batches import Splits
from .digits import CLASSES, LOCAL_FOLDER, SIDE, load_digits
from .graphs import no_download
from .npz import read_npz

if TYPE_CHECKING:
    from torch_geometric.data import Data

STEPS = 10
FOLDS = 10
_ROLES = ("train", "validation", "test")
_DIGITS = {"train": 1000, "validation": 500, "test": 500}
_FEW = 20
_FEW_VALIDATION, _FEW_TEST = 100, 1000
# share of features that are not zero, below which only these are kept
_FEW_FEATURES = 0.1
_NEIGHBOURS = 5
_SEED = 1
_CITATIONS_FOLDER = LOCAL_FOLDER / "citations"
_WIKI_FOLDER = LOCAL_FOLDER / "heterophilous"


class Sizes(NamedTuple):
    """Of a graph's nodes: features and classes."""

    features: int
    classes: int


DIGITS = Sizes((SIDE // 2) ** 2, CLASSES)
CITATIONS = {"Cora": Sizes(1433, 7), "CiteSeer": Sizes(3703, 6)}
WIKI = {"chameleon": Sizes(2325, 5), "chameleon_filtered": Sizes(2325, 5)}
# sha256 of edges, features, labels and splits of the public files
_DIGESTS = {
    "Cora": "e797d95cfa9c499cee24b6a3b05c483e741b26325f84815958871276751a50a1",
    "CiteSeer": "eb392dbbbe4c653050449a5228596d997c4d9b17344f8fd65c3d393483ba7b6b",
}


class OfNodes(Dataset):
    """A graph as its only batch, ``times`` over; ``graph.nodes`` are those of the split, which all have labels."""

    def __init__(self, graph: "Data", nodes: Tensor, times: int = 1) -> None:
        self.graph = graph.clone()
        self.graph.nodes = nodes
        self.times = times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: Tensor) -> "Data":
        return self.graph


def node_splits(
    name: str, features: np.ndarray, edges: np.ndarray, labels: np.ndarray, nodes: Sequence[np.ndarray], origin: str
) -> Splits:
    """Splits of one graph's nodes; an epoch is ten steps on the whole of it.

    Args:
        features: ``(N, F)``.
        edges: ``(2, E)``, from first to second row.
        labels: ``(N,)``, below 0 where there is none: such nodes are in no split.
        nodes: of the training, validation and test split.

    Raises:
        InputError: arrays that contradict one another, splits that share nodes, or a split without labels.
    """
    from torch_geometric.data import Data

    count = len(features)

    def check(sound: bool, fault: str) -> None:
        if not sound:
            raise InputError(f"{origin} holds no sound {name}: {fault}; get it anew")

    check(len(labels) == count, f"{count} nodes have {len(labels)} labels")
    for what, numbers in {"edges": edges, "splits": np.concatenate(nodes)}.items():
        check(
            not numbers.size or (numbers.min() >= 0 and numbers.max() < count), f"{what} lead out of the {count} nodes"
        )
    check(len(np.unique(np.concatenate(nodes))) == sum(map(len, nodes)), "splits have nodes in common")
    check(np.isfinite(features).all(), "features are not all numbers")
    labelled = [part[labels[part] >= 0] for part in nodes]
    for role, part, kept in zip(_ROLES, nodes, labelled, strict=True):
        check(len(kept) > 0, f"none of the {len(part)} {role} nodes has a label")
    sums = np.abs(features).sum(axis=1, keepdims=True)
    normed = torch.from_numpy(features / np.where(sums == 0, 1, sums)).float()
    graph = Data(_compact(normed), torch.from_numpy(edges).long(), y=torch.from_numpy(labels).long())
    of_split = [torch.from_numpy(part).long() for part in labelled]
    train, validation, test = (OfNodes(graph, *given) for given in zip(of_split, (STEPS, 1, 1), strict=True))
    sizes = ", ".join(f"{len(part)} {role}" for role, part in zip(_ROLES, labelled, strict=True))
    unlabelled = sum(map(len, nodes)) - sum(map(len, labelled))
    missing = f" ({unlabelled} more have no label)" if unlabelled else ""
    note = f"{origin}: {count} nodes, {edges.shape[1]} edges, of which {homophily(edges, labels):.0%} join one class; "
    return Splits(name, train, validation, test, note=f"{note}{sizes} nodes{missing}")


def _compact(features: Tensor) -> Tensor:
    if features.count_nonzero() >= _FEW_FEATURES * features.numel():
        return features
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return features.to_sparse_csr()


def homophily(edges: np.ndarray, labels: np.ndarray) -> float:
    """The share of edges between nodes of one class, among those between nodes with labels.

    >>> homophily(np.array([[0, 1, 2], [1, 2, 0]]), np.array([4, 4, -1]))
    1.0
    """
    of_source, of_target = labels[edges]
    both = (of_source >= 0) & (of_target >= 0)
    return float((of_source == of_target)[both].mean()) if both.any() else 0.0


def citation_graph(name: str, source: str = "auto") -> Splits:
    """Cora or CiteSeer with the public split: 20 articles of each class, 500 to validate, 1,000 to test.

    Args:
        name: one of `CITATIONS`.
        source: a folder with ``cora.npz`` or ``citeseer.npz``, bare or in a folder of that name: the arrays
            ``edge_index`` ``(2, E)``, both ways, ``y`` ``(N,)``, ``train_idx``, ``val_idx``, ``test_idx``, and features
            in compressed rows, ``x_data``, ``x_indices``, ``x_indptr``, ``x_shape``. ``auto``: ``data/citations``, else
            torch-geometric downloads Planetoid's files and they are kept there in this form.

    Raises:
        InputError: a file that is missing, damaged, or of other sizes.
    """
    file = f"{name.lower()}.npz"
    if source == "auto" and not (_CITATIONS_FOLDER / file).exists():
        _download(_CITATIONS_FOLDER / file, name)
    folder = _CITATIONS_FOLDER if source == "auto" else Path(source)
    path = _found(folder, file, (folder, folder / name, folder / name.lower()), name)
    rows = {
        "x_data": (np.floating, 1),
        "x_indices": (np.integer, 1),
        "x_indptr": (np.integer, 1),
        "x_shape": (np.integer, 1),
    }
    splits = ("train_idx", "val_idx", "test_idx")
    arrays = read_npz(
        path, rows | {"edge_index": (np.integer, 2), "y": (np.integer, 1)} | dict.fromkeys(splits, (np.integer, 1))
    )
    features = _dense(path, *(arrays[key] for key in rows))
    _check_sizes(path, features, arrays["edge_index"], arrays["y"], CITATIONS[name])
    own_name = name.lower() if _digest(arrays) == _DIGESTS[name] else f"{name.lower()}-other"
    return node_splits(
        own_name, features, arrays["edge_index"], arrays["y"], [arrays[key] for key in splits], f"{name} from {path}"
    )


def wiki_graph(name: str, source: str = "auto", fold: int = 0, few_labels: bool = False) -> Splits:
    """Chameleon, or the same without its duplicated nodes, with one of the ten splits that come with it.

    Args:
        name: one of `WIKI`.
        source: a folder with ``chameleon.npz`` or ``chameleon_filtered.npz`` of
            https://github.com/yandex-research/heterophilous-graphs (folder ``data``; Platonov et al., ICLR 2023);
            ``auto``: ``data/heterophilous``.
        fold: 0 ... 9.
        few_labels: 20 nodes of each class to train on, 100 to validate, up to 1,000 to test, drawn anew in each fold:
            close to how LGNN was tested.

    Raises:
        InputError: a file that is missing, damaged, or of other sizes.
    """
    folder = _WIKI_FOLDER if source == "auto" else Path(source)
    path = _found(folder, f"{name}.npz", (folder, folder / "npz"), name)
    masks = ("train_masks", "val_masks", "test_masks")
    kinds: dict[str, tuple[type, int]] = {"node_features": (np.number, 2), "node_labels": (np.integer, 1)}
    arrays = read_npz(path, kinds | {"edges": (np.integer, 2)} | dict.fromkeys(masks, (np.bool_, 2)))
    features, labels, edges = arrays["node_features"], arrays["node_labels"], arrays["edges"].T
    _check_sizes(path, features, edges, labels, WIKI[name])
    for mask in masks:
        if arrays[mask].shape != (FOLDS, len(features)):
            raise InputError(f"{mask} in {path} are {arrays[mask].shape}, not {(FOLDS, len(features))}; get it anew")
    nodes = few_of_each(labels, fold) if few_labels else [arrays[mask][fold].nonzero()[0] for mask in masks]
    both_ways = np.unique(np.concatenate([edges, edges[::-1]], axis=1), axis=1)
    kind = "drawn, few labels" if few_labels else "given"
    return node_splits(
        name, features, both_ways, labels, nodes, f"{name} from {path}, split {fold} of {FOLDS} ({kind})"
    )


def few_of_each(labels: np.ndarray, fold: int) -> list[np.ndarray]:
    """20 nodes of each class, and of the others 100 and up to 1,000."""
    labelled = (labels >= 0).nonzero()[0]
    order = labelled[np.random.default_rng(fold).permutation(len(labelled))]
    train = np.concatenate([order[labels[order] == label][:_FEW] for label in np.unique(labels[labelled])])
    rest = order[~np.isin(order, train)]
    return [train, rest[:_FEW_VALIDATION], rest[_FEW_VALIDATION : _FEW_VALIDATION + _FEW_TEST]]


def digit_graph(source: str = "auto", rewired: float = 0.0) -> Splits:
    """Digits, each joined to its five nearest: 1,000 training digits, 20 of each class with labels, 500 and 500.

    Each of the three is taken from the split of `load_digits` that has its name. Features are the digit at half its
    resolution, 14x14. An edge leads both ways.

    Args:
        rewired: the share of edges of which one end is then moved to a node at random.

    Raises:
        InputError: as `load_digits`.
    """
    from sklearn.neighbors import NearestNeighbors

    digits = load_digits(source)
    parts = [getattr(digits, role)[: _DIGITS[role]] for role in _ROLES]
    images = torch.cat([images for images, _ in parts])
    features = F.avg_pool2d(images.float(), 2).flatten(1).numpy() / 255
    labels = torch.cat([labels for _, labels in parts]).numpy()
    trained, validated, tested = np.split(np.arange(len(labels)), np.cumsum([len(each) for _, each in parts])[:-1])
    near = min(_NEIGHBOURS, len(features) - 1)
    neighbours = NearestNeighbors(n_neighbors=near).fit(features).kneighbors(return_distance=False)
    pairs = np.stack([np.arange(len(features)).repeat(near), neighbours.ravel()])
    pairs = np.unique(np.sort(pairs, axis=0), axis=1)
    draws = np.random.default_rng(_SEED)
    moved = draws.permutation(pairs.shape[1])[: round(rewired * pairs.shape[1])]
    # either end: the first is that of lower number, and nodes to train on come first
    pairs[draws.integers(2, size=len(moved)), moved] = draws.integers(len(features), size=len(moved))
    edges = np.unique(np.concatenate([pairs, pairs[::-1]], axis=1), axis=1)
    known = np.concatenate([trained[labels[trained] == label][:_FEW] for label in np.unique(labels)])
    name = f"{digits.name}-rewired" if rewired else digits.name
    return node_splits(name, features, edges, labels, [known, validated, tested], f"digits of {digits.note}")


def _found(folder: Path, file: str, places: Sequence[Path], name: str) -> Path:
    for place in places:
        if (place / file).is_file():
            return place / file
    raise InputError(f"there is no {file} in {folder}; give the folder of {name} with --data")


def _check_sizes(path: Path, features: np.ndarray, edges: np.ndarray, labels: np.ndarray, sizes: Sizes) -> None:
    classes = labels.max(initial=-1) + 1
    if features.shape[1] != sizes.features or classes != sizes.classes or len(edges) != 2:
        raise InputError(
            f"{path} has {features.shape[1]} features, {classes} classes and edges of {len(edges)} ends; expected "
            f"{sizes.features}, {sizes.classes} and 2"
        )


def _dense(path: Path, data: np.ndarray, columns: np.ndarray, starts: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Features of compressed rows."""
    from scipy.sparse import csr_array

    try:
        rows = csr_array((data, columns, starts), shape=tuple(shape.tolist()))
        rows.check_format()
        if max(rows.shape) > 1 << 20 or rows.shape[0] * rows.shape[1] > 1 << 28:
            raise ValueError(f"{rows.shape} features are more than this data set has")
        return rows.toarray()
    except (ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"the features in {path} are no compressed rows ({reason}); get it anew") from error


def _digest(arrays: Mapping[str, Any]) -> str:
    edges = np.unique(arrays["edge_index"].astype(np.int64), axis=1)
    names = ("x_indptr", "x_indices", "y", "train_idx", "val_idx", "test_idx")
    parts = (edges, *(arrays[name] for name in names))
    return hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()


def _download(path: Path, name: str) -> None:
    from tempfile import TemporaryDirectory

    from scipy.sparse import csr_array
    from torch_geometric.datasets import Planetoid

    try:
        with TemporaryDirectory() as folder:
            graph = Planetoid(folder, name)[0]
        rows = csr_array(graph.x.numpy())
        arrays = {
            "x_data": rows.data,
            "x_indices": rows.indices,
            "x_indptr": rows.indptr,
            "x_shape": np.array(rows.shape),
        }
        arrays |= {"edge_index": graph.edge_index.numpy(), "y": graph.y.numpy()}
        masks = {"train_idx": graph.train_mask, "val_idx": graph.val_mask, "test_idx": graph.test_mask}
        arrays |= {key: mask.nonzero().flatten().numpy() for key, mask in masks.items()}
        if _digest(arrays) != _DIGESTS[name]:
            raise OSError("what was sent is not what was published")
        with renamed_into_place(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except Exception as error:  # whatever kept us from the data
        raise no_download(name, path, error) from error
