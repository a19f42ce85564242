"""A filter a position, against unfolding the image; see --help.

python benchmarks/local_filter.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import alternate, peak_memory, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor

from hyperconv import cli, local_filter


@dataclass(frozen=True)
class LocalFilter:
    """Time and peak memory of local filtering, forward and backward, ours and with torch's unfold, alternating.

    Args:
        size: of the square image.
        kernel: of the square filters, odd.
        channels: of the image.
        batch: images.
        rounds: how often each side is timed.
        json: also write the figures to this file.
    """

    size: PositiveInt = 64
    kernel: PositiveInt = 9
    channels: PositiveInt = 1
    batch: PositiveInt = 16
    rounds: PositiveInt = 20
    json: str | None = None


def unfolded(images: Tensor, filters: Tensor, kernel: int) -> Tensor:
    batch, channels, height, width = images.shape
    patches = F.unfold(images, kernel, padding=kernel // 2).view(batch, channels, -1, height, width)
    return torch.einsum("bckhw,bkhw->bchw", patches, filters)


def main(settings: LocalFilter) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = (settings.batch, settings.channels, settings.size, settings.size)
    images = torch.randn(shape, device=device, requires_grad=True)
    taps = settings.kernel**2
    filters = torch.randn(settings.batch, taps, *shape[2:], device=device, requires_grad=True)

    def step(run: Callable[..., Tensor], backward: bool) -> Callable[[], None]:
        def once() -> None:
            if backward:
                torch.autograd.grad(run(images, filters, settings.kernel).sum(), (images, filters))
            else:
                with torch.no_grad():
                    run(images, filters, settings.kernel)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return once

    rows, figures = [], {}
    for backward in (False, True):
        sides = {"ours": step(local_filter, backward), "unfold": step(unfolded, backward)}
        seconds = alternate(sides, settings.rounds)
        memory = {name: peak_memory(run, device) for name, run in sides.items()}
        what = "forward and backward" if backward else "forward"
        faster, smaller = ratio(seconds["unfold"], seconds["ours"]), memory["ours"] / memory["unfold"]
        rows.append(
            (
                what,
                *(f"{quartiles(seconds[name])[1] * 1e3:.1f} ms, {memory[name] / 1e6:.1f} MB" for name in sides),
                spread(faster, 2),
                f"{smaller:.2f}",
            )
        )
        figures[what] = {"times faster": faster, "memory to unfold's": smaller, "peak bytes": memory}
    title = f"Local filters {settings.kernel}x{settings.kernel} at {settings.size}x{settings.size}, B {settings.batch}"
    report(title, ("", "ours", "unfold", "times faster", "memory to unfold's"), rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, LocalFilter)
