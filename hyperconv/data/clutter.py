"""Digits to be found among pieces of other digits: images or volumes of whose pixels each is of a class."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from .batches import Splits
from .cases import Case, Cases, check_patients
from .digits import DigitDataset, load_digits

Dims = Literal[2, 3]
TARGETS = (3, 8)
SIDE, DEPTH = 48, 16
_SCENES: Mapping[Dims, Mapping[str, int]] = {
    2: {"train": 400, "validation": 100, "test": 200},
    3: {"train": 120, "validation": 30, "test": 60},
}
_FILLED = slice(4, 24)  # what of MNIST's 28 pixels a digit fills
_DIGIT_SIDE, _PIECE_SIDE = 20, 10
_DIGIT_DEPTH, _PIECE_DEPTH = 6, 4
_PIECES: Mapping[Dims, int] = {2: 10, 3: 25}
_SCENES_SEED = 3
_ROUNDS = 2


def digits_in_clutter(source: str = "auto", dims: Dims = 2, patients: int | None = None) -> Splits:
    """A 3 and an 8 in each scene, among pieces of other digits, which are background.

    Args:
        source: as of `load_digits`, whose splits these are.
        dims: 2: images of 48x48; 3: volumes of 48x48x16, of whose slices a digit takes six.
        patients: how many scenes to train on; an epoch is as long as with all. Default: all.

    Returns:
        `Cases` with labels 0 background, 1 where the 3 is brighter than a half, 2 where the 8 is. An epoch has
        each scene twice.

    Raises:
        InputError: as `load_digits`; too few digits or scenes.
    """
    digits = load_digits(source)
    counts = _SCENES[dims]
    kept = check_patients(patients, counts["train"])
    draws = torch.Generator().manual_seed(_SCENES_SEED)
    scenes = {split: _scenes(getattr(digits, split), count, dims, draws) for split, count in counts.items()}
    told = ", ".join(f"{kept if split == 'train' else count} {split}" for split, count in counts.items())
    return Splits(
        digits.name,
        train=Cases(scenes["train"][:kept], _ROUNDS * counts["train"]),
        validation=Cases(scenes["validation"]),
        test=Cases(scenes["test"]),
        note=f"{digits.note}; {told} scenes of digits in clutter",
    )


def _scenes(digits: DigitDataset, count: int, dims: Dims, draws: torch.Generator) -> list[Case]:
    images, classes = digits.images[:, _FILLED, _FILLED], digits.labels
    targets = [images[classes == target] for target in TARGETS]
    others = images[(classes[:, None] != torch.tensor(TARGETS)).all(1)]
    if not all(map(len, [*targets, others])):
        raise InputError(f"a split of the digits lacks a {' or a '.join(map(str, TARGETS))}; give more with --data")
    return [
        _scene([of_class[number % len(of_class)] for of_class in targets], others, dims, draws)
        for number in range(count)
    ]


def _scene(targets: list[Tensor], others: Tensor, dims: Dims, draws: torch.Generator) -> Case:
    """Image and labels, ``(1, 48, 48)`` or ``(1, 48, 48, 16)``."""

    def drawn(below: int) -> int:
        return int(torch.randint(below, (1,), generator=draws))

    image = torch.zeros(1 if dims == 2 else DEPTH, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.zeros_like(image)
    for _ in range(_PIECES[dims]):
        row, column = (drawn(_DIGIT_SIDE - _PIECE_SIDE + 1) for _ in range(2))
        piece = others[drawn(len(others)), row : row + _PIECE_SIDE, column : column + _PIECE_SIDE]
        place = _place(image, _PIECE_DEPTH, _PIECE_SIDE, range(SIDE - _PIECE_SIDE + 1), drawn)
        image[place] = torch.maximum(image[place], piece)
    half, swapped = SIDE // 2, drawn(2)
    for number, digit in enumerate(targets):
        left = half * (number ^ swapped)
        place = _place(image, _DIGIT_DEPTH, _DIGIT_SIDE, range(left, left + half - _DIGIT_SIDE + 1), drawn)
        image[place] = torch.maximum(image[place], digit)
        labels[place] = (digit > 127) * (number + 1)
    if dims == 2:
        return image, labels
    return image.movedim(0, -1).unsqueeze(0), labels.movedim(0, -1).unsqueeze(0)


def _place(
    image: Tensor, depth: int, side: int, lefts: range, drawn: Callable[[int], int]
) -> tuple[slice, slice, slice]:
    """Somewhere in an image ``(depth, height, width)``."""
    depth = min(depth, len(image))
    front, top, left = drawn(len(image) - depth + 1), drawn(SIDE - side + 1), lefts[drawn(len(lefts))]
    return slice(front, front + depth), slice(top, top + side), slice(left, left + side)
