"""A generated kernel's few filters applied one by one, beside the kernel built and applied; see --help.

python benchmarks/decomposition.py
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from common import alternate, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from hyperconv import CoordinateMLP, cli, functional
from hyperconv.training.fit import keep_freed_memory

_CHANNELS, _SIDES, _KERNELS, _STRIDES, _BATCH = (32, 64, 128, 256, 512), (4, 7, 14, 28), (3, 5, 7), (1, 2), 16
_MOST_PRODUCTS = 5e9


class Case(NamedTuple):
    """A convolution of a batch of square images, as large a side out as in, or half of it with stride 2."""

    batch: int
    inputs: int
    outputs: int
    side: int
    size: int
    stride: int
    hidden: int

    def __str__(self) -> str:
        wide = f"{self.inputs} to {self.outputs} channels, k {self.size}, {self.batch}x{self.side}x{self.side}"
        return wide + (f", stride {self.stride}" if self.stride > 1 else "")


_OTHERS = (
    Case(16, 3, 64, 14, 7, 1, 4),
    Case(64, 3, 256, 14, 5, 1, 4),
    Case(64, 3, 64, 28, 7, 2, 4),
    Case(64, 4, 64, 14, 7, 1, 4),
    Case(64, 16, 64, 14, 7, 1, 4),
    Case(64, 32, 64, 14, 7, 1, 4),
    Case(16, 64, 256, 7, 5, 1, 4),
    Case(16, 256, 64, 7, 5, 1, 4),
    Case(1, 256, 256, 7, 3, 1, 4),
    Case(1, 256, 256, 14, 7, 1, 4),
    Case(1, 512, 512, 4, 3, 1, 4),
    Case(64, 64, 64, 7, 5, 1, 4),
    Case(64, 256, 256, 7, 3, 1, 4),
    Case(128, 64, 64, 3, 5, 1, 4),
    Case(128, 256, 256, 4, 3, 1, 4),
    Case(64, 8, 256, 14, 7, 1, 16),
    Case(64, 32, 256, 14, 7, 1, 16),
    Case(16, 128, 128, 14, 7, 1, 16),
    Case(64, 128, 128, 7, 7, 1, 16),
    Case(16, 256, 256, 7, 7, 1, 16),
)


@dataclass(frozen=True)
class Decomposition:
    """Time a training step of a convolution: stored, generated and built, generated and never built.

    A grid with 16 images a batch, as many channels out as in, or twice as many with stride 2; then cases unlike these.

    Args:
        rounds: how often each side is timed.
        hidden: last hidden width of the generators in the grid.
        json: also write the figures to this file.
    """

    rounds: PositiveInt = 7
    hidden: PositiveInt = 4
    json: str | None = None


def cases(hidden: int) -> Iterator[Case]:
    for stride, channels, side, size in product(_STRIDES, _CHANNELS, _SIDES, _KERNELS):
        if _BATCH * (channels * side * size) ** 2 / stride <= _MOST_PRODUCTS:
            yield Case(_BATCH, channels, channels * stride, side, size, stride, hidden)
    yield from _OTHERS


def sides(case: Case) -> tuple[Tensor, dict[str, Callable[[], None]]]:
    generator = CoordinateMLP((case.outputs, case.inputs, case.size, case.size), hidden=(16, 16, case.hidden))
    images = torch.randn(case.batch, case.inputs, case.side, case.side)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    stored = nn.Parameter(generator().detach().clone())

    def step(convolve: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
        return lambda: torch.autograd.grad(convolve().square().mean(), [*parameters, images]) and None

    learned = list(generator.parameters())
    settings = {"stride": case.stride, "padding": case.size // 2}
    built = partial(functional.convolution, images, **settings)
    return images, {
        "stored": step(lambda: built(stored), [stored]),
        "built": step(lambda: built(generator()), learned),
        "decomposed": step(
            lambda: functional.decomposed_convolution(images, *generator.filters(None), **settings), learned
        ),
    }


def main(settings: Decomposition) -> None:
    torch.manual_seed(0)
    keep_freed_memory()  # as in main.py's training
    rows, figures = [], {}
    for case in cases(settings.hidden):
        images, timed = sides(case)
        seconds = alternate(timed, settings.rounds)
        ratios = {name: ratio(seconds[name], seconds["stored"]) for name in ("built", "decomposed")}
        shape = (case.outputs, case.inputs, case.size, case.size)
        strides, pads = (case.stride, case.stride), (case.size // 2, case.size // 2)
        chosen = functional.decomposition_pays(images, shape, case.hidden + 1, strides, pads)
        stored = f"{quartiles(seconds['stored'])[1] * 1e3:.1f}"
        choice = "decomposed" if chosen else "built"
        rows.append((str(case), str(case.hidden + 1), stored, *(spread(each, 2) for each in ratios.values()), choice))
        milliseconds = {way: quartiles(times)[1] * 1e3 for way, times in seconds.items()}
        name = f"{case}, {case.hidden + 1} filters"
        figures[name] = {**ratios, "milliseconds": milliseconds, "chosen": chosen, **case._asdict()}
    columns = ("convolution, images", "filters", "stored, ms", "built", "decomposed", "the layer's choice")
    title = "Training step to that of a stored kernel: ratio (quartiles)"
    report(title, columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, Decomposition)
