"""Pairs of images to register: two digits of one class, or the hippocampi of two cases."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from ..errors import InputError
from .batches import Splits
from .digits import LOCAL_FOLDER, SIDE, DigitDataset, load_digits
from .hippocampus import CLASSES, SLICES_FILE, read_slices

_DIGIT_PAIRS = {"train": 20_000, "validation": 500, "test": 1_000}
_PADDED_SIDE = 32
_HIPPOCAMPUS_PAIRS = {"train": 4_000, "validation": 200, "test": 400}
_SPLIT_SEED = 1
_PAIRS_SEED = 2


def digit_pairs(source: str = "auto") -> Splits:
    """Pairs of different digits of one class, at most 20,000 / 500 / 1,000, from the splits of `load_digits`.

    Returns:
        Datasets of moving and fixed images ``(B, 1, 32, 32)``, uint8.

    Raises:
        InputError: as `load_digits`.
    """
    digits = load_digits(source)
    draws = torch.Generator().manual_seed(_PAIRS_SEED)
    splits = {split: _same_class(getattr(digits, split), count, draws) for split, count in _DIGIT_PAIRS.items()}
    return Splits(digits.name, **splits, note=f"{digits.note}; {_sizes(**splits)}")


def _same_class(digits: DigitDataset, count: int, draws: torch.Generator) -> TensorDataset:
    """Each digit is moved to one other of its class, until there are so many pairs."""
    moving, fixed = [], []
    for label in digits.labels.unique():
        members = (digits.labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=draws)]
        if len(members) > 1:
            moving.append(members)
            fixed.append(members.roll(1))
    if not moving:
        raise InputError("no class has two digits, so there are no pairs to register; give more digits with --data")
    order = torch.randperm(sum(map(len, moving)), generator=draws)[:count]
    images = F.pad(digits.images, [(_PADDED_SIDE - SIDE) // 2] * 4).unsqueeze(1)
    return TensorDataset(images[torch.cat(moving)[order]], images[torch.cat(fixed)[order]])


def hippocampus_pairs(source: str = "auto") -> Splits:
    """Pairs of slices through the hippocampi of different cases; no case is in two splits.

    Args:
        source: the folder of ``hippocampus_2d_64.npz``, or ``auto`` for ``data/hippocampus``. The file holds
            ``images`` (N, H, W), uint8, and ``labels`` of the same shape: 0 background, 1 anterior, 2 posterior.

    Returns:
        Datasets of moving and fixed images ``(B, 1, H, W)``, uint8, and moving and fixed labels ``(B, 2, H, W)``,
        bool, one channel for each of the two parts.

    Raises:
        InputError: a file that is missing, damaged or of other shapes.
    """
    folder = LOCAL_FOLDER / "hippocampus" if source == "auto" else Path(source)
    images, labels = read_slices(folder / SLICES_FILE)
    parts = F.one_hot(labels.long(), CLASSES)[..., 1:].movedim(-1, 1).bool()
    cases = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out = len(cases) // 6
    of_split = dict(zip(_HIPPOCAMPUS_PAIRS, cases.split([len(cases) - 2 * held_out, held_out, held_out]), strict=True))
    draws = torch.Generator().manual_seed(_PAIRS_SEED)
    splits = {}
    for split, members in of_split.items():
        count = _HIPPOCAMPUS_PAIRS[split]
        first = torch.randint(len(members), (count,), generator=draws)
        second = (first + torch.randint(1, len(members), (count,), generator=draws)) % len(members)
        moving, fixed = members[first], members[second]
        splits[split] = TensorDataset(images[moving], images[fixed], parts[moving], parts[fixed])
    of_cases = ", ".join(f"{len(members)} {split}" for split, members in of_split.items())
    return Splits("hippocampus", **splits, note=f"hippocampus from {folder}: {of_cases} cases; {_sizes(**splits)}")


def _sizes(train: TensorDataset, validation: TensorDataset, test: TensorDataset) -> str:
    return f"{len(train)} training, {len(validation)} validation, {len(test)} test pairs"
