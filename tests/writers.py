"""Small files of data to load."""

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
    arrays = {"images": np.array(images, np.uint8), "labels": np.array(labels, np.uint8), **changes}
    np.savez(folder / "hippocampus_2d_64.npz", **arrays)
    return folder
