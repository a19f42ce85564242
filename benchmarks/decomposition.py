"""A generated kernel's few filters applied one by one, beside the kernel built and applied; see --help.

python benchmarks/decomposition.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from common import alternate, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from hyperconv import CoordinateMLP, cli, functional
from hyperconv.training.fit import keep_freed_memory

_CHANNELS, _SIDES, _KERNELS, _STRIDES, _BATCH = (32, 64, 128, 256, 512), (4, 7, 14, 28), (3, 5, 7), (1, 2), 16
_MOST_PRODUCTS = 5e9


@dataclass(frozen=True)
class Decomposition:
    """Time a training step of a convolution: stored, generated and built, generated and never built.

    Args:
        rounds: how often each side is timed.
        hidden: last hidden width of the generators.
        json: also write the figures to this file.
    """

    rounds: PositiveInt = 7
    hidden: PositiveInt = 4
    json: str | None = None


def sides(
    channels: int, side: int, size: int, stride: int, hidden: int
) -> tuple[Tensor, dict[str, Callable[[], None]]]:
    """A strided convolution has twice as many output channels, as in residual networks."""
    generator = CoordinateMLP((channels * stride, channels, size, size), hidden=(16, 16, hidden))
    images = torch.randn(_BATCH, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
    stored = nn.Parameter(generator().detach().clone())

    def step(convolve: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
        return lambda: torch.autograd.grad(convolve().square().mean(), [*parameters, images]) and None

    learned = list(generator.parameters())
    settings = {"stride": stride, "padding": size // 2}
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
    for stride, channels, side, size in product(_STRIDES, _CHANNELS, _SIDES, _KERNELS):
        if _BATCH * (channels * side * size) ** 2 / stride > _MOST_PRODUCTS:
            continue
        images, timed = sides(channels, side, size, stride, settings.hidden)
        seconds = alternate(timed, settings.rounds)
        ratios = {name: ratio(seconds[name], seconds["stored"]) for name in ("built", "decomposed")}
        shape = (channels * stride, channels, size, size)
        strides, pads = (stride, stride), (size // 2, size // 2)
        chosen = functional.decomposition_pays(images, shape, settings.hidden + 1, strides, pads)
        name = f"{channels} to {channels * stride} channels, k {size}, {_BATCH}x{side}x{side}"
        stored = f"{quartiles(seconds['stored'])[1] * 1e3:.1f}"
        rows.append((name, stored, *(spread(each, 2) for each in ratios.values()), "decomposed" if chosen else "built"))
        milliseconds = {way: quartiles(times)[1] * 1e3 for way, times in seconds.items()}
        figures[name] = {**ratios, "milliseconds": milliseconds, "chosen": chosen, "shape": shape, "side": side}
    columns = ("convolution, images", "stored, ms", "built", "decomposed", "the layer's choice")
    title = f"Training step to that of a stored kernel, {settings.hidden + 1} filters: ratio (quartiles)"
    report(title, columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, Decomposition)
