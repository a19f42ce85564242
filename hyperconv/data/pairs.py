"""Pairs of images to register: two digits of one class, or the hippocampi of two patients."""

from collections.abc import Sequence, Sized
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ..errors import InputError
from .batches import Splits
from .digits import SIDE, DigitDataset, load_digits
from .folds import fold_of
from .hippocampus import CLASSES, FOLDS, folder_of, patients_of, slices_of, volumes_of

_DIGIT_PAIRS = {"train": 20_000, "validation": 500, "test": 1_000}
_PADDED_SIDE = 32
_HIPPOCAMPUS_PAIRS = {
    2: {"train": 4_000, "validation": 200, "test": 400},
    3: {"train": 1_000, "validation": 50, "test": 100},
}
_DIVISOR = 8
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


class CasePairs(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Moving and fixed images ``(1, *sides)``, uint8, and their parts ``(parts, *sides)``, bool, of pairs of cases.

    Args:
        images: ``(cases, 1, *sides)``.
        parts: ``(cases, parts, *sides)``.
        moving, fixed: ``(pairs,)``, numbers of cases.
    """

    def __init__(self, images: Tensor, parts: Tensor, moving: Tensor, fixed: Tensor) -> None:
        self.images, self.parts = images, parts
        self.moving, self.fixed = moving, fixed

    def __len__(self) -> int:
        return len(self.moving)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        moving, fixed = self.moving[index], self.fixed[index]
        return self.images[moving], self.images[fixed], self.parts[moving], self.parts[fixed]


def hippocampus_pairs(source: str = "auto", dims: Literal[2, 3] = 2) -> Splits:
    """Pairs of hippocampi of different patients, none of whom is in two splits: slices, or volumes.

    Each lies in the middle of an image of the sides that hold all of them and that 8 divides, the rest 0.

    Args:
        source: as in `hippocampus_slices`, or in `hippocampus_volumes`.

    Returns:
        `CasePairs`.

    Raises:
        InputError: as these; or patients too few to be paired.
    """
    numbers, cases = (slices_of if dims == 2 else volumes_of)(source)
    images, labels = _of_one_size([image for image, _ in cases]), _of_one_size([label for _, label in cases])
    parts = torch.cat([labels == part for part in range(1, CLASSES)], dim=1)
    patients = patients_of(numbers)
    splits, of_cases = {}, []
    draws = torch.Generator().manual_seed(_PAIRS_SEED)
    for (split, count), members in zip(
        _HIPPOCAMPUS_PAIRS[dims].items(), fold_of(len(cases), 0, FOLDS, groups=patients), strict=True
    ):
        first, second = torch.cartesian_prod(members, members).unbind(1)
        others = (patients[first] != patients[second]).nonzero().flatten()
        if not len(others):
            raise InputError(f"the {split} split has no two patients to pair; give more cases with --data")
        chosen = others[torch.randint(len(others), (count,), generator=draws)]
        splits[split] = CasePairs(images, parts, first[chosen], second[chosen])
        of_cases.append(f"{len(members)} {split}")
    note = f"hippocampus from {folder_of(source)}: {', '.join(of_cases)} cases; {_sizes(**splits)}"
    return Splits("hippocampus", **splits, note=note)


def _of_one_size(images: Sequence[Tensor]) -> Tensor:
    """Images ``(1, *sides)``, each in the middle of one as large as the largest, of sides that the networks halve."""
    largest = torch.tensor([image.shape[1:] for image in images]).amax(0)
    sides = ((largest + _DIVISOR - 1) // _DIVISOR * _DIVISOR).tolist()
    padded = torch.zeros(len(images), 1, *sides, dtype=images[0].dtype)
    for place, image in zip(padded, images, strict=True):
        starts = [(side - own) // 2 for side, own in zip(sides, image.shape[1:], strict=True)]
        place[:, *(slice(start, start + own) for start, own in zip(starts, image.shape[1:], strict=True))] = image
    return padded


def _sizes(train: Sized, validation: Sized, test: Sized) -> str:
    return f"{len(train)} training, {len(validation)} validation, {len(test)} test pairs"
