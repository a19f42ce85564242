"""Clips of digits that all move as one, or of two that move apart."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .batches import Splits
from .digits import SIDE, DigitDataset, load_digits

WINDOW = 64
FASTEST = 8
SEEN, PREDICTED = 4, 6
_CLIPS = {"train": 4_000, "validation": 200, "test": 400}
_TRAINED_ON = SEEN + 1
_PIXELS_A_DIGIT = 1_200
_APART = (1.0, 4.0)
_SEED = 3
_AT_ONCE = 500


def one_motion(source: str = "auto") -> Splits:
    """Digits strewn over a plane, seen through a window that moves steadily: one motion a clip.

    Training, validation and test clips hold digits of those splits of `load_digits`, and velocities of their own: of
    any direction, and evenly up to 8 pixels a frame.

    Args:
        source: as of `load_digits`.

    Returns:
        4,000 / 200 / 400 clips ``(B, T, 64, 64)``, uint8: to train on, 4 frames to be seen and 1 to be predicted; else
        4 and 6.

    Raises:
        InputError: as `load_digits`.
    """
    return _splits(source, _strewn, "clips of digits that move as one")


def two_motions(source: str = "auto") -> Splits:
    """Two digits that move apart, 1 to 4 pixels a frame each, in any direction; else as `one_motion`."""
    return _splits(source, _parting, "clips of two digits that move apart")


def _splits(source: str, clips: Callable[[Tensor, int, int, torch.Generator], Tensor], what: str) -> Splits:
    digits = load_digits(source)
    made = {}
    for number, (split, count) in enumerate(_CLIPS.items()):
        draws = torch.Generator().manual_seed(1000 * _SEED + number)
        of_split: DigitDataset = getattr(digits, split)
        frames = _TRAINED_ON if split == "train" else SEEN + PREDICTED
        parts = [
            clips(of_split.images, min(_AT_ONCE, count - start), frames, draws) for start in range(0, count, _AT_ONCE)
        ]
        made[split] = TensorDataset(torch.cat(parts))
    sizes = ", ".join(f"{count:,} {split}" for split, count in _CLIPS.items())
    return Splits(digits.name, **made, note=f"{digits.note}; {sizes} {what}")


def _strewn(digits: Tensor, count: int, frames: int, draws: torch.Generator) -> Tensor:
    side = WINDOW + FASTEST * (frames - 1)
    planes = torch.zeros(count, side, side, dtype=torch.uint8)
    for _ in range(round(side**2 / _PIXELS_A_DIGIT)):
        chosen = digits[torch.randint(len(digits), (count,), generator=draws)]
        corners = torch.randint(side - SIDE + 1, (2, count), generator=draws)
        _paste(planes, chosen, corners)
    return _seen(planes, _velocities(count, 0.0, FASTEST, draws), frames, start=-(frames - 1) / 2)


def _parting(digits: Tensor, count: int, frames: int, draws: torch.Generator) -> Tensor:
    velocities = _velocities(count, *_APART, draws)
    side = WINDOW + 2 * math.ceil(_APART[1] * frames)
    middle = torch.full((2, count), (side - SIDE) // 2)
    each = []
    for way in (1, -1):
        planes = torch.zeros(count, side, side, dtype=torch.uint8)
        _paste(planes, digits[torch.randint(len(digits), (count,), generator=draws)], middle)
        each.append(_seen(planes, way * velocities, frames, start=0))
    return torch.maximum(*each)


def _velocities(count: int, slowest: float, fastest: float, draws: torch.Generator) -> Tensor:
    """Down and to the right, ``(count, 2)``, in pixels a frame."""
    speed, angle = torch.rand(2, count, generator=draws)
    speed, angle = slowest + (fastest - slowest) * speed, 2 * math.pi * angle
    return torch.stack([speed * angle.sin(), speed * angle.cos()], dim=1)


def _paste(planes: Tensor, digits: Tensor, corners: Tensor) -> None:
    """Digits ``(N, 28, 28)`` onto planes ``(N, side, side)``, where their upper left corners ``(2, N)`` are to be."""
    samples, rows, columns = _places(corners, SIDE)
    planes[samples, rows, columns] = torch.maximum(planes[samples, rows, columns], digits)


def _seen(planes: Tensor, velocities: Tensor, frames: int, start: float) -> Tensor:
    """What windows onto planes ``(N, side, side)`` show, ``(N, frames, 64, 64)``, between pixels bilinearly.

    Args:
        velocities: of what is shown, ``(N, 2)``; windows move the other way.
        start: time of the first frame; at time 0, the window is in the plane's middle.
    """
    middle = (planes.shape[1] - WINDOW) / 2
    shown = []
    for frame in range(frames):
        corners = middle - velocities.T * (start + frame)
        whole = corners.floor().clamp(0, planes.shape[1] - WINDOW - 1)
        down, right = (corners - whole)[:, :, None, None]
        samples, rows, columns = _places(whole.long(), WINDOW + 1)
        around = planes[samples, rows, columns].float()
        between = around[:, :-1].lerp(around[:, 1:], down)
        between = between[:, :, :-1].lerp(between[:, :, 1:], right)
        shown.append(between.round().to(torch.uint8))
    return torch.stack(shown, dim=1)


def _places(corners: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of squares whose upper left corners are at ``(2, N)``."""
    along = torch.arange(side)
    rows, columns = corners[:, :, None] + along
    return torch.arange(corners.shape[1])[:, None, None], rows[:, :, None], columns[:, None, :]
