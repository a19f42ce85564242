"""A filter a position, against unfolding the image; see --help.

python benchmarks/local_filter.py
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from common import Case, Machine, Run, Settings, Sides, command, gradients, inference, measure
from torch import Tensor

from hyperconv import local_filter


@dataclass(frozen=True)
class LocalFilter(Settings):
    """Time and peak memory of local filtering, forward and backward, ours and with torch's unfold, alternating.

    Args:
        size: of the square image.
        kernel: of the square filters, odd.
        channels: of the image.
        batch: images.
        rounds: how often each side is timed.
    """

    size: int = 64
    kernel: int = 9
    channels: int = 1
    batch: int = 16
    rounds: int = 20


def unfolded(images: Tensor, filters: Tensor, kernel: int) -> Tensor:
    batch, channels, height, width = images.shape
    patches = F.unfold(images, kernel, padding=kernel // 2).view(batch, channels, -1, height, width)
    return torch.einsum("bckhw,bkhw->bchw", patches, filters)


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    sizes = ((8, 3, 1, 2),) if quick else ((64, 9, 1, 16), (28, 5, 16, 32))
    return [case for size in sizes for case in both(machine, *size)]


def both(machine: Machine, size: int, kernel: int, channels: int, batch: int) -> list[Case]:
    """Forward, and forward and backward."""

    def make(backward: bool) -> dict[str, Run]:
        images = torch.randn(batch, channels, size, size, **machine.factory, requires_grad=True)
        filters = torch.randn(batch, kernel**2, size, size, **machine.factory, requires_grad=True)
        sides = {
            "unfolding": partial(unfolded, images, filters, kernel),
            "local_filter": partial(local_filter, images, filters, kernel),
        }
        return {side: gradients(run, (images, filters)) if backward else inference(run) for side, run in sides.items()}

    name = f"{kernel}x{kernel} filters, {batch}x{channels}x{size}x{size}"
    return [
        Sides(f"{name}, {what}", partial(make, backward), "unfolding")
        for what, backward in (("forward", False), ("forward and backward", True))
    ]


def main(settings: LocalFilter) -> None:
    size = settings.size, settings.kernel, settings.channels, settings.batch
    measure("A filter a position", both(settings.machine(), *size), settings, settings.rounds)


if __name__ == "__main__":
    command(main, LocalFilter)
