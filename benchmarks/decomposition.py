"""A generated kernel's few filters applied one by one, beside the kernel built and applied; see --help.

python benchmarks/decomposition.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from common import Comparison, Machine, Run, Settings, Sides, command, gradients, measure, only
from torch import nn

from hyperconv import CoordinateMLP, HyperConv2d, convolution, decomposed_convolution

_CHANNELS, _SIDES, _KERNELS, _STRIDES, _BATCH = (32, 64, 128, 256, 512), (4, 7, 14, 28), (3, 5, 7), (1, 2), 16
_MOST_PRODUCTS = 5e9
_STORED, _BUILT, _DECOMPOSED, _LAYER = "stored", "built", "decomposed", "the layer"
_ONE_PRODUCT, _MOST_PIXELS = "decomposed, in one product", 14**2


class Size(NamedTuple):
    """A convolution of a batch of square images, as large a side out as in, or half of it with stride 2."""

    batch: int
    inputs: int
    outputs: int
    side: int
    size: int
    stride: int = 1
    hidden: int = 4

    def __str__(self) -> str:
        wide = f"{self.inputs} to {self.outputs} channels, k {self.size}, {self.batch}x{self.side}x{self.side}"
        return f"{wide}{f', stride {self.stride}' * (self.stride > 1)}, {self.hidden + 1} filters"


_OTHERS = (
    Size(16, 3, 64, 14, 7),
    Size(64, 3, 256, 14, 5),
    Size(64, 3, 64, 28, 7, stride=2),
    Size(64, 4, 64, 14, 7),
    Size(64, 16, 64, 14, 7),
    Size(64, 32, 64, 14, 7),
    Size(16, 64, 256, 7, 5),
    Size(16, 256, 64, 7, 5),
    Size(1, 256, 256, 7, 3),
    Size(1, 256, 256, 14, 7),
    Size(1, 512, 512, 4, 3),
    Size(64, 64, 64, 7, 5),
    Size(64, 256, 256, 7, 3),
    Size(128, 64, 64, 3, 5),
    Size(128, 256, 256, 4, 3),
    Size(64, 8, 256, 14, 7, hidden=16),
    Size(64, 32, 256, 14, 7, hidden=16),
    Size(16, 128, 128, 14, 7, hidden=16),
    Size(64, 128, 128, 7, 7, hidden=16),
    Size(16, 256, 256, 7, 7, hidden=16),
)
# of every kind one or two, for all.py
_SOME = (
    Size(16, 64, 64, 14, 3),
    Size(16, 64, 64, 14, 5),
    Size(16, 64, 64, 14, 7),
    Size(16, 64, 64, 28, 3),
    Size(16, 64, 64, 28, 7),
    Size(16, 128, 128, 14, 3),
    Size(16, 128, 128, 14, 5),
    Size(16, 256, 256, 7, 3),
    Size(16, 256, 256, 7, 5),
    Size(16, 512, 512, 4, 3),
    Size(16, 64, 128, 14, 5, stride=2),
    Size(16, 128, 256, 14, 3, stride=2),
    Size(16, 256, 512, 7, 3, stride=2),
    Size(1, 256, 256, 7, 3),
    Size(128, 64, 64, 3, 5),
    Size(64, 32, 64, 14, 7),
    Size(16, 128, 128, 14, 7, hidden=16),
)


@dataclass(frozen=True)
class Decomposition(Settings):
    """Time a training step of a convolution: its kernel stored; generated and built; generated, but never
    built, its filters applied one by one or all at once.

    "The layer" is a `HyperConv2d`, which chooses; what it takes is compared with the fastest of the ways.

    Sizes: all of 32 to 512 channels and images of 4 to 28 pixels that take less than half a minute, as many channels
    out as in, or twice as many with stride 2; then others.

    Args:
        rounds: how often each side is timed.
        hidden: last hidden width of the generators in the grid.
        only: time just the sizes with this in their name, e.g. "k 5" or "stride 2".
    """

    rounds: int = 7
    hidden: int = 4
    only: str = ""


def cases(machine: Machine, quick: bool = False) -> list[Sides]:
    return [case(machine, size) for size in ((Size(1, 4, 4, 4, 3),) if quick else _SOME)]


def every(hidden: int) -> Iterator[Size]:
    for stride, channels, side, size in product(_STRIDES, _CHANNELS, _SIDES, _KERNELS):
        if _BATCH * (channels * side * size) ** 2 / stride <= _MOST_PRODUCTS:
            yield Size(_BATCH, channels, channels * stride, side, size, stride, hidden)
    yield from _OTHERS


def case(machine: Machine, size: Size) -> Sides:
    settings = {"stride": size.stride, "padding": size.size // 2}
    # its matrix grows with the square of the pixels
    one_product = size.side**2 <= _MOST_PIXELS
    ways = (_BUILT, _DECOMPOSED, *(_ONE_PRODUCT,) * one_product)

    def make() -> dict[str, Run]:
        generator = partial(CoordinateMLP, hidden=(16, 16, size.hidden))
        layer = HyperConv2d(
            size.inputs, size.outputs, size.size, bias=False, generator=generator, **settings, **machine.factory
        )
        images = torch.randn(size.batch, size.inputs, size.side, size.side, **machine.factory)
        images = images.to(memory_format=torch.channels_last).requires_grad_()
        stored = nn.Parameter(layer.weight.detach().clone())
        runs = {
            _STORED: lambda: convolution(images, stored, **settings),
            _BUILT: lambda: convolution(images, layer.generator(), **settings),
            _DECOMPOSED: lambda: decomposed_convolution(images, *layer.generator.filters(None), **settings),
            _ONE_PRODUCT: lambda: decomposed_convolution(
                images, *layer.generator.filters(None), **settings, in_one_product=True
            ),
            _LAYER: lambda: layer(images),
        }
        runs = {side: run for side, run in runs.items() if side in (_STORED, _LAYER, *ways)}
        learned = list(layer.parameters())
        return {
            side: gradients(run, [images, *([stored] if side == _STORED else learned)]) for side, run in runs.items()
        }

    return Sides(str(size), make, _STORED, (Comparison("the layer to the best way", (_LAYER,), ways),))


def main(settings: Decomposition) -> None:
    machine = settings.machine()
    chosen = only([case(machine, size) for size in every(settings.hidden)], settings.only)
    measure("Training step to that of a stored kernel", chosen, settings, settings.rounds)


if __name__ == "__main__":
    command(main, Decomposition)
