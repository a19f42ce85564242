"""A hyper layer beside torch's, over sizes: forward, training step, baked; and a whole residual network; see --help.

python benchmarks/layers.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from common import Case, Comparison, Machine, Run, Settings, Sides, command, gradients, inference, measure, only
from torch import Tensor, nn

from hyperconv import CoordinateMLP, GeneratedTogether, HyperConv1d, HyperConv2d, HyperConv3d, bake, hyperize

_HYPER = {nn.Conv1d: HyperConv1d, nn.Conv2d: HyperConv2d, nn.Conv3d: HyperConv3d}
_CASES: tuple[tuple[type[nn.Module], int, int, tuple[int, ...]], ...] = (
    (nn.Conv1d, 64, 9, (32, 64, 256)),
    (nn.Conv2d, 8, 5, (128, 8, 28, 28)),
    (nn.Conv2d, 16, 5, (128, 16, 14, 14)),
    (nn.Conv2d, 64, 5, (128, 64, 3, 3)),
    (nn.Conv2d, 64, 3, (16, 64, 56, 56)),
    (nn.Conv2d, 128, 7, (16, 128, 14, 14)),
    (nn.Conv3d, 16, 3, (4, 16, 16, 16, 16)),
)
_PLAIN, _HYPER_SIDE, _GENERATOR = "plain", "hyper", "generator alone"
_FLOOR = Comparison("floor: plain and generator", (_PLAIN, _GENERATOR), (_PLAIN,))


@dataclass(frozen=True)
class Layers(Settings):
    """Time hyper layers, plain layers and baked layers, all alternating.

    The floor of a training step that builds its kernel is the plain convolution's and the time that the kernel alone
    takes, forward and backward.

    Args:
        rounds: how often each side is timed.
        hidden: last hidden width of the generators.
        only: time just the cases with this in their name, e.g. resnet18.
    """

    rounds: int = 15
    hidden: int = 4
    only: str = ""


def cases(machine: Machine, quick: bool = False, hidden: int = 4) -> list[Case]:
    if quick:
        return layer(machine, nn.Conv2d, 2, 3, (2, 2, 4, 4), hidden)
    layers = [case for each in _CASES for case in layer(machine, *each, hidden)]
    return [*layers, *both("resnet18, its 3x3, 16x3x112x112", partial(resnet18, machine), machine, ())]


def layer(
    machine: Machine, kind: type[nn.Module], channels: int, kernel: int, shape: tuple[int, ...], hidden: int
) -> list[Case]:
    def make() -> tuple[nn.Module, nn.Module, Tensor]:
        arguments = (channels, channels, kernel)
        generator = partial(CoordinateMLP, hidden=(16, 16, hidden))
        plain = kind(*arguments, padding="same")
        return plain, _HYPER[kind](*arguments, padding="same", generator=generator), torch.randn(shape)

    return both(
        f"{kind.__name__} {channels} channels, k {kernel}, {'x'.join(map(str, shape))}", make, machine, (_FLOOR,)
    )


def resnet18(machine: Machine) -> tuple[nn.Module, nn.Module, Tensor]:
    import torchvision

    network = torchvision.models.resnet18()

    def three_by_three(name: str, layer: nn.Module) -> bool:
        return getattr(layer, "kernel_size", None) == (3, 3)

    hyperized = hyperize(network, select=three_by_three, generator=partial(CoordinateMLP, hidden=(16, 16, 4)))
    return network, GeneratedTogether(hyperized), torch.randn(16, 3, 112, 112)


def both(
    name: str,
    make: Callable[[], tuple[nn.Module, nn.Module, Tensor]],
    machine: Machine,
    comparisons: tuple[Comparison, ...],
) -> list[Case]:
    """A training step, and inference."""

    def placed() -> tuple[nn.Module, nn.Module, Tensor]:
        plain, hyper, images = make()
        layout = torch.channels_last if images.dim() == 4 else torch.preserve_format
        plain, hyper, images = (each.to(machine.device, memory_format=layout) for each in (plain, hyper, images))
        return plain, hyper, images

    def training() -> dict[str, Run]:
        plain, hyper, images = placed()
        sides = {
            side: gradients(partial(machine.mixed(module), images), module.parameters())
            for side, module in ((_PLAIN, plain), (_HYPER_SIDE, hyper))
        }
        if comparisons:
            sides[_GENERATOR] = gradients(hyper.generator, hyper.generator.parameters())
        return sides

    def forward() -> dict[str, Run]:
        plain, hyper, images = placed()
        layout = torch.channels_last if images.dim() == 4 else torch.preserve_format
        modules = {_PLAIN: plain, _HYPER_SIDE: hyper, "baked": bake(hyper).to(memory_format=layout)}
        return {side: inference(partial(machine.mixed(module), images)) for side, module in modules.items()}

    return [
        Sides(f"{name}, training step", training, _PLAIN, comparisons),
        Sides(f"{name}, inference", forward, _PLAIN),
    ]


def main(settings: Layers) -> None:
    chosen = only(cases(settings.machine(), hidden=settings.hidden), settings.only)
    measure(f"Hyper to plain layer, last hidden width {settings.hidden}", chosen, settings, settings.rounds)


if __name__ == "__main__":
    command(main, Layers)
