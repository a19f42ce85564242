"""A kernel a sample: which way to apply it is fastest, and does a layer find it; see --help.

python benchmarks/per_sample.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from common import Case, Comparison, Machine, Run, Settings, Sides, command, gradients, measure, only
from torch import Tensor, nn

from hyperconv import (
    DenseGenerator,
    HyperConv2d,
    HyperLinear,
    contracted_convolution,
    contracted_linear,
    convolution_per_sample,
    linear_per_sample,
)

_AUTO = "auto"


@dataclass(frozen=True)
class PerSample(Settings):
    """Time the ways to apply a convolution or a linear map a sample, forward and backward, all alternating.

    "Auto" is a `HyperConv2d` or a `HyperLinear` with a `DenseGenerator`, which choose; what they take is compared with
    the fastest of the ways.

    Args:
        rounds: how often each way is timed at each size.
        hidden: width of the vector that the kernels are generated from.
        only: time just the sizes with this in their name, e.g. linear.
    """

    rounds: int = 7
    hidden: int = 16
    only: str = ""


def cases(machine: Machine, quick: bool = False, hidden: int = 16) -> list[Case]:
    if quick:
        return [linear(machine, 2, 3, 3, 2), convolutional(machine, 2, 2, 3, 3, 2)]
    return [
        *(linear(machine, batch, 784, 32, hidden) for batch in (16, 64, 1024)),
        *(
            convolutional(machine, batch, channels, size, kernel, hidden)
            for batch, (channels, size), kernel in product((4, 64), ((8, 28), (32, 14), (64, 7), (64, 2)), (3, 5))
        ),
    ]


def linear(machine: Machine, batch: int, inputs: int, outputs: int, hidden: int) -> Case:
    def make() -> dict[str, Run]:
        generator = partial(DenseGenerator, context_dim=hidden)
        layer = HyperLinear(inputs, outputs, bias=False, generator=generator, **machine.factory)
        rows = torch.randn(batch, inputs, **machine.factory)
        backends = ("loop", "grouped", "bmm")
        ways = {backend: partial(linear_per_sample, backend=backend) for backend in backends}
        return sides(layer, rows, hidden, ways, contracted_linear)

    return case(f"linear {inputs} to {outputs}, B {batch}", make)


def convolutional(machine: Machine, batch: int, channels: int, size: int, kernel: int, hidden: int) -> Case:
    def make() -> dict[str, Run]:
        generator = partial(DenseGenerator, context_dim=hidden)
        padding = kernel // 2
        layer = HyperConv2d(
            channels, channels, kernel, padding=padding, bias=False, generator=generator, **machine.factory
        )
        images = torch.randn(batch, channels, size, size, **machine.factory)
        backends = ("loop", "grouped", "unfold")
        ways = {backend: partial(convolution_per_sample, padding=padding, backend=backend) for backend in backends}
        return sides(layer, images, hidden, ways, partial(contracted_convolution, padding=padding))

    return case(f"convolution {channels} channels, {size}x{size}, k {kernel}, B {batch}", make)


def sides(
    layer: nn.Module,
    input: Tensor,
    hidden: int,
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]],
    contracted: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> dict[str, Run]:
    """The layer itself, kernels built and applied in several ways, and the kernels' factors contracted."""
    input.requires_grad_()
    context = torch.randn(len(input), hidden, device=input.device, dtype=input.dtype, requires_grad=True)
    runs: dict[str, Callable[[], Tensor]] = {
        _AUTO: lambda: layer(input, context),
        **{name: partial(lambda way: way(input, layer.generator(context)), way) for name, way in ways.items()},
        "contraction": lambda: contracted(input, *layer.generator.factors(context)),
    }
    return {name: gradients(run, [input, context, *layer.parameters()]) for name, run in runs.items()}


def case(name: str, make: Callable[[], dict[str, Run]]) -> Case:
    others = ("loop", "grouped", "bmm" if name.startswith("linear") else "unfold", "contraction")
    return Sides(name, make, _AUTO, (Comparison("auto to the best of the others", (_AUTO,), others),))


def main(settings: PerSample) -> None:
    chosen = only(cases(settings.machine(), hidden=settings.hidden), settings.only)
    measure(f"A kernel a sample, from {settings.hidden} numbers", chosen, settings, settings.rounds)


if __name__ == "__main__":
    command(main, PerSample)
