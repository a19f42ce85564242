"""Small files of data to load."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_hippocampus(folder: Path, cases: int = 24, **changes) -> Path:
    """Discs of two halves, somewhere; every case with a grey value of its own."""
    rows, columns = np.indices((32, 32))
    draws = np.random.default_rng(0)
    images, labels = [], []
    for case in range(cases):
        y, x = draws.uniform(12, 20, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 49
        labels.append(disc * (1 + (rows > y)))
        images.append(np.where(disc, 150 + case + 50 * (rows > y), 0))
    folder.mkdir(exist_ok=True)
    arrays = {"images": np.array(images, np.uint8), "labels": np.array(labels, np.uint8)}
    arrays |= {"case_id": np.arange(1, cases + 1), **changes}
    np.savez(folder / "hippocampus_2d_64.npz", **arrays)
    return folder


def write_images(folder: Path, name: str = "Set5", sizes: Sequence[tuple[int, ...]] = ((64, 49, 3), (52, 60))) -> Path:
    """Pictures of waves, a file for each of these shapes, in a folder of their own."""
    from skimage.io import imsave

    (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (height, width, *channels) in enumerate(sizes):
        rows, columns = np.indices((height, width))
        waves = 127.5 * (1 + np.sin(rows / (2 + number)) * np.cos(columns / 3))
        image = np.broadcast_to(waves.reshape(height, width, *[1] * len(channels)), (height, width, *channels))
        imsave(folder / name / f"{number}.png", image.astype(np.uint8), check_contrast=False)
    return folder


def write_volumes(folder: Path, cases: int = 20) -> Path:
    """Balls of two halves in volumes of differing sides, as the Medical Segmentation Decathlon lays files out."""
    draws = np.random.default_rng(0)
    for case in range(1, cases + 1):
        sides = draws.integers(17, 23, 3)
        middle = sides / 2 + draws.uniform(-2, 2, 3)
        places = np.indices(sides).transpose(1, 2, 3, 0)
        ball = np.square(places - middle).sum(-1) < 36
        halves = 1 + (places[..., 1] > middle[1])
        image = 50 + 5 * draws.random(sides) + ball * (100 + case + 50 * (halves == 2))
        write_volume(folder / "imagesTr" / f"hippocampus_{case:03}.nii.gz", image.astype(np.float32))
        write_volume(folder / "labelsTr" / f"hippocampus_{case:03}.nii.gz", (ball * halves).astype(np.uint8))
    return folder


def write_volume(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)


def write_tu(folder: Path, name: str = "MUTAG", graphs: int = 40, **changes: str) -> Path:
    """Rings and paths of three to seven nodes, edges both ways; ``changes`` are files' contents by what they hold."""
    edges, edge_labels, of_graph, node_labels, classes = [], [], [], [], []
    for number in range(graphs):
        first, nodes, ring = len(of_graph) + 1, 3 + number % 5, number % 2
        ends = [(first + n, first + (n + 1) % nodes) for n in range(nodes if ring else nodes - 1)]
        edges += [pair for a, b in ends for pair in (f"{a}, {b}", f"{b}, {a}")]
        edge_labels += [str(n % 4) for n in range(len(ends)) for _ in range(2)]
        of_graph += [str(number + 1)] * nodes
        node_labels += [str(n % 3) for n in range(nodes)]
        classes.append(str(2 * ring - 1))
    files = {"A": edges, "graph_indicator": of_graph, "graph_labels": classes, "node_labels": node_labels}
    files["edge_labels"] = edge_labels
    folder.mkdir(parents=True, exist_ok=True)
    for what, lines in files.items():
        (folder / f"{name}_{what}.txt").write_text(changes.get(what, "\n".join(lines) + "\n"))
    return folder


def write_citations(folder: Path, name: str = "cora", nodes: int = 60, **changes) -> Path:
    """Articles of seven classes, each with words of its class, citing the one before and one of their class."""
    widths = {"cora": (1433, 7), "citeseer": (3703, 6)}
    features, classes = widths[name]
    numbers, ring = np.arange(nodes), np.roll(np.arange(nodes), 1)
    labels = numbers % classes
    edges = np.concatenate([[numbers, ring], [numbers[classes:], numbers[:-classes]]], axis=1)
    arrays = {
        "x_data": np.ones(3 * nodes, np.float32),
        "x_indices": np.stack([labels, 10 + labels, 100 + numbers], axis=1).ravel(),
        "x_indptr": np.arange(0, 3 * nodes + 1, 3),
        "x_shape": np.array([nodes, features]),
        "edge_index": np.concatenate([edges, edges[::-1]], axis=1),
        "y": labels,
        "train_idx": numbers[:30],
        "val_idx": numbers[30:40],
        "test_idx": numbers[40:],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **{key: array for key, array in arrays.items() if array is not None})
    return folder


def write_wiki(folder: Path, name: str = "chameleon", nodes: int = 300, **changes) -> Path:
    """Pages of five classes, each linked to one of another class."""
    numbers = np.arange(nodes)
    features = np.zeros((nodes, 2325), np.float32)
    features[numbers, numbers % 5] = 1
    roles = np.stack([np.roll(numbers, split) % 10 for split in range(10)])
    arrays = {
        "node_features": features,
        "node_labels": numbers % 5,
        "edges": np.stack([numbers[1:], numbers[:-1]], axis=1),
        "train_masks": roles < 5,
        "val_masks": (roles >= 5) & (roles < 8),
        "test_masks": roles >= 8,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", **arrays)
    return folder
