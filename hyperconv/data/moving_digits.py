"""Clips in which two digits move and bounce off the edges (Srivastava et al., ICML 2015, arXiv 1502.04681)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from .batches import Splits
from .digits import load_digits

_DIGITS = 2
# of the way from edge to edge, in a frame
_STEP = 0.1
_COUNTS = {"train": 10_000, "validation": 500, "test": 1_000}
_SEEDS = {"train": 1, "validation": 2, "test": 3}


class MovingDigits(Dataset[tuple[Tensor, Tensor]]):
    """Clips of two digits that move in straight lines over each other, put together when they are asked for.

    Args:
        digits: ``(N, 28, 28)``, uint8.
        count: clips. Which digits are in a clip, and how they move, is drawn once.
        seen: frames to predict from; ``predicted``: those that follow.
        side: of a frame; digits are shrunk to 7/16 of it.
        seed: of the draws.
    """

    def __init__(self, digits: Tensor, count: int, seen: int, predicted: int, side: int, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        wide = side * 7 // 16
        chosen = digits[torch.randint(len(digits), (count, _DIGITS), generator=draws)]
        self.images = F.adaptive_avg_pool2d(chosen.float(), wide).round().to(torch.uint8)
        self.places = trajectories((count, _DIGITS), seen + predicted, side - wide, draws)
        self.side = side
        self.seen = seen

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, Tensor]:
        """Frames ``(B, seen, side, side)`` and ``(B, predicted, side, side)``, uint8, of a batch of indices."""
        clips = drawn(self.images[index], self.places[index], self.side)
        return clips[..., : self.seen, :, :], clips[..., self.seen :, :, :]


def trajectories(shape: tuple[int, ...], frames: int, free: int, draws: torch.Generator) -> Tensor:
    """Rows and columns ``(*shape, frames, 2)``, int64: even motion within 0 ... free that bounces off both ends.

    Places and directions are drawn evenly; the speed is a tenth of ``free`` a frame.
    """
    place = torch.rand(*shape, 1, 2, generator=draws)
    angle = torch.rand(*shape, 1, generator=draws) * (2 * torch.pi)
    step = _STEP * torch.stack([angle.sin(), angle.cos()], dim=-1)
    way = place + step * torch.arange(frames).unsqueeze(1)
    # 0 ... 1 is there, and 1 ... 2 back again
    return (free * (1 - (way % 2 - 1).abs())).round().long()


def drawn(images: Tensor, places: Tensor, side: int) -> Tensor:
    """Images on black frames, the brightest on top.

    Args:
        images: ``(*, D, h, w)``, uint8.
        places: ``(*, D, T, 2)``, the first row and column of each in every frame.

    Returns:
        ``(*, T, side, side)``, uint8.

    >>> drawn(torch.ones(1, 1, 1, dtype=torch.uint8), torch.tensor([[[0, 0], [1, 1]]]), 2).tolist()
    [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    """
    height, width = images.shape[-2:]
    rows, columns = (places[..., axis, None] + torch.arange(size) for axis, size in enumerate((height, width)))
    pixels = (rows.unsqueeze(-1) * side + columns.unsqueeze(-2)).flatten(-2)
    frames = images.new_zeros(*places.shape[:-1], side * side)
    frames.scatter_(-1, pixels, images.flatten(-2).unsqueeze(-2).expand(pixels.shape))
    return frames.amax(dim=-3).unflatten(-1, (side, side))


def moving_digits(source: str = "auto", side: int = 32, seen: int = 5, predicted: int = 5) -> Splits:
    """Clips of digits from the splits of `load_digits`, 10,000, 500 and 1,000; no digit is in two splits.

    Args:
        source: as of `load_digits`.
        side, seen, predicted: as of `MovingDigits`.

    Raises:
        InputError: as `load_digits`.
    """
    digits = load_digits(source)
    splits = {
        split: MovingDigits(getattr(digits, split).images, count, seen, predicted, side, _SEEDS[split])
        for split, count in _COUNTS.items()
    }
    clips = ", ".join(f"{count} {split}" for split, count in _COUNTS.items())
    return Splits(digits.name, **splits, note=f"{digits.note}; {clips} clips of {_DIGITS}, {seen} + {predicted} frames")
