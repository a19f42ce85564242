"""Scenes of several digits, and which digit each of their pixels belongs to."""

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .batches import Splits
from .digits import CLASSES, SIDE, DigitDataset, load_digits

SCENE_SIDE = 64
BACKGROUND = 0
SCENE_CLASSES = CLASSES + 1
_SCENES = {"train": 6_000, "validation": 500, "test": 1_000}
_FEWEST, _MOST = 2, 4
_APART = 16
_INK = 128
_SEED = 3


def digit_scenes(source: str = "auto") -> Splits:
    """6,000 / 500 / 1,000 scenes of 2 to 4 digits, each split's of the digits of that split of `load_digits`.

    Every digit of a split is used before one is used again. Places are drawn evenly, again until no two digits of a
    scene are closer than 16 pixels both down and across; strokes may still touch or cross.

    Returns:
        Datasets of scenes ``(B, 1, 64, 64)``, uint8, and classes ``(B, 64, 64)``, uint8: 0 is background; 1 ... 10 is
        the digit, plus one, that is brightest at a pixel and at least half as bright as can be.

    Raises:
        InputError: as `load_digits`.
    """
    digits = load_digits(source)
    draws = torch.Generator().manual_seed(_SEED)
    scenes = {split: composed(getattr(digits, split), count, draws) for split, count in _SCENES.items()}
    sizes = ", ".join(f"{count:,} {split}" for split, count in _SCENES.items())
    return Splits(digits.name, **scenes, note=f"{digits.note}; scenes of {_FEWEST} to {_MOST} digits: {sizes}")


def composed(digits: DigitDataset, count: int, draws: torch.Generator) -> TensorDataset:
    """So many scenes of these digits."""
    numbers = torch.randint(_FEWEST, _MOST + 1, (count,), generator=draws)
    corners = _corners(numbers, draws)
    images = torch.zeros(count, SCENE_SIDE, SCENE_SIDE, dtype=torch.uint8)
    classes = torch.full_like(images, BACKGROUND)
    used = 0
    order = _in_turn(len(digits), int(numbers.sum()), draws)
    for place in range(_MOST):
        scenes = (numbers > place).nonzero().flatten()
        chosen = order[used : used + len(scenes)]
        used += len(scenes)
        top, left = corners[scenes, place].unsqueeze(-1).unbind(1)
        side = torch.arange(SIDE)
        where = scenes[:, None, None], (top + side).unsqueeze(2), (left + side).unsqueeze(1)
        below, ink = images[where], digits.images[chosen]
        in_front = ink > below
        images[where] = torch.where(in_front, ink, below)
        shown = torch.where(ink >= _INK, digits.labels[chosen].view(-1, 1, 1) + 1, BACKGROUND).to(torch.uint8)
        classes[where] = torch.where(in_front, shown, classes[where])
    return TensorDataset(images.unsqueeze(1), classes)


def _in_turn(available: int, wanted: int, draws: torch.Generator) -> Tensor:
    """Indices in random order, all of them before any comes again."""
    rounds = [torch.randperm(available, generator=draws) for _ in range(-(-wanted // available))]
    return torch.cat(rounds)[:wanted]


def _corners(numbers: Tensor, draws: torch.Generator) -> Tensor:
    """Of the digits in each scene, ``(N, _MOST, 2)``: their top rows and left columns."""
    absent = torch.arange(_MOST) >= numbers.unsqueeze(1)
    exempt = absent.unsqueeze(1) | absent.unsqueeze(2) | torch.eye(_MOST, dtype=torch.bool)
    corners = torch.empty(len(numbers), _MOST, 2, dtype=torch.long)
    waiting = torch.arange(len(numbers))
    while len(waiting):
        drawn = torch.randint(SCENE_SIDE - SIDE + 1, (len(waiting), _MOST, 2), generator=draws)
        corners[waiting] = drawn
        apart = (drawn.unsqueeze(1) - drawn.unsqueeze(2)).abs().amax(-1) >= _APART
        waiting = waiting[~(apart | exempt[waiting]).all((1, 2))]
    return corners
