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
from hyperconv.zoo.dynamic_filter_network import LocalFilterNetwork


@dataclass(frozen=True)
class LocalFilter(Settings):
    """Time and peak memory of local filtering, forward and backward, ours and with torch's unfold, alternating.

    Args:
        size: of the square image.
        kernel: of the square filters, odd.
        channels: of the image.
        batch: images.
        groups: of channels, each with filters of its own.
        clips: in a training step of the network of --experiment dfn.
        rounds: how often each side is timed.
    """

    size: int = 64
    kernel: int = 9
    channels: int = 1
    batch: int = 16
    groups: int = 1
    clips: int = 16
    rounds: int = 20


def unfolded(images: Tensor, filters: Tensor, kernel: int) -> Tensor:
    batch, _, height, width = images.shape
    groups = filters.shape[1] // kernel**2
    patches = F.unfold(images, kernel, padding=kernel // 2).view(batch, groups, -1, kernel**2, height, width)
    filtered = torch.einsum("bgckhw,bgkhw->bgchw", patches, filters.unflatten(1, (groups, -1)))
    return filtered.reshape(images.shape)


class UnfoldingNetwork(LocalFilterNetwork):
    def next_frame(self, last: Tensor, state: Tensor) -> Tensor:
        return unfolded(last, self.filters(state), self.size)


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    if quick:
        return [*both(machine, 8, 3, 1, 2), *both(machine, 8, 3, 4, 2, groups=2), training_step(machine, 2, width=1)]
    sizes = ((64, 9, 1, 16, 1), (28, 5, 16, 32, 1), (28, 7, 64, 16, 4))
    return [*(case for size in sizes for case in both(machine, *size)), training_step(machine, 16)]


def both(machine: Machine, size: int, kernel: int, channels: int, batch: int, groups: int = 1) -> list[Case]:
    """Forward, and forward and backward."""

    def make(backward: bool) -> dict[str, Run]:
        images = torch.randn(batch, channels, size, size, **machine.factory, requires_grad=True)
        filters = torch.randn(batch, groups * kernel**2, size, size, **machine.factory, requires_grad=True)
        sides = {
            "unfolding": partial(unfolded, images, filters, kernel),
            "local_filter": partial(local_filter, images, filters, kernel),
        }
        return {side: gradients(run, (images, filters)) if backward else inference(run) for side, run in sides.items()}

    of_groups = f" for {groups} groups" if groups > 1 else ""
    name = f"{kernel}x{kernel} filters{of_groups}, {batch}x{channels}x{size}x{size}"
    return [
        Sides(f"{name}, {what}", partial(make, backward), "unfolding")
        for what, backward in (("forward", False), ("forward and backward", True))
    ]


def training_step(machine: Machine, clips: int, width: int = 8) -> Case:
    """As in --experiment dfn: the filters of every predicted frame are part of the graph."""

    def make() -> dict[str, Run]:
        frames = torch.rand(clips, 5, 32, 32, device=machine.device)
        unfolding = UnfoldingNetwork(predicted=5, width=width).to(machine.device)
        filtering = LocalFilterNetwork(predicted=5, width=width).to(machine.device)
        filtering.load_state_dict(unfolding.state_dict())
        return {
            side: gradients(partial(machine.mixed(network), frames), network.parameters())
            for side, network in (("unfolding", unfolding), ("local_filter", filtering))
        }

    return Sides(f"dynamic filter network, {clips} clips of 5 + 5 frames of 32x32, gradients", make, "unfolding")


def main(settings: LocalFilter) -> None:
    machine = settings.machine()
    operator = both(machine, settings.size, settings.kernel, settings.channels, settings.batch, settings.groups)
    measure("A filter a position", [*operator, training_step(machine, settings.clips)], settings, settings.rounds)


if __name__ == "__main__":
    command(main, LocalFilter)
