"""A kernel a patch, against unfolding the image; and networks with one a patch, one a sample, or none; see --help.

python benchmarks/per_patch.py
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from common import Case, Machine, Run, Settings, Sides, command, gradients, inference, measure, only
from torch import Tensor

from hyperconv import patch_convolution
from hyperconv.functional import Backend
from hyperconv.zoo.hyperseg import HyperSeg, MetaDecoder, StaticDecoder

_BACKENDS: tuple[Backend, ...] = ("grouped", "unfold", "loop")


@dataclass(frozen=True)
class PerPatch(Settings):
    """Time and peak memory of a convolution with a kernel a patch, and the latency of the arms of hyperseg.

    Args:
        rounds: how often each side is timed.
        only: just the cases with this in their name, e.g. arms.
    """

    rounds: int = 20
    only: str = ""


def unfolded(images: Tensor, kernels: Tensor) -> Tensor:
    """All of the image in columns, sorted by patch, times the patches' kernels."""
    batch, rows, columns, outputs, channels, size, _ = kernels.shape
    height, width = images.shape[2:]
    tall, wide = height // rows, width // columns
    spread = F.unfold(images, size, padding=size // 2).view(batch, -1, rows, tall, columns, wide)
    of_patches = spread.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * size**2, tall * wide)
    output = torch.bmm(kernels.reshape(-1, outputs, channels * size**2), of_patches)
    output = output.view(batch, rows, columns, outputs, tall, wide).permute(0, 3, 1, 4, 2, 5)
    return output.reshape(batch, outputs, height, width)


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    if quick:
        return [*operator(machine, 2, 3, 4, 8, 3), arms(machine, 1, side=32)]
    sizes = ((32, 66, 24, 8, 1), (32, 34, 16, 32, 3), (32, 16, 16, 64, 3), (1, 16, 16, 256, 3))
    return [*(case for size in sizes for case in operator(machine, *size)), *(arms(machine, n) for n in (1, 32))]


def operator(machine: Machine, batch: int, inputs: int, outputs: int, side: int, size: int) -> list[Case]:
    """In 4x4 patches; forward, and forward and backward."""

    def make(backward: bool) -> dict[str, Run]:
        images = torch.randn(batch, inputs, side, side, **machine.factory, requires_grad=True)
        kernels = torch.randn(batch, 4, 4, outputs, inputs, size, size, **machine.factory, requires_grad=True)
        ways = {f"patch_convolution, {each}": partial(patch_convolution, backend=each) for each in _BACKENDS}
        sides = {name: partial(way, images, kernels) for name, way in {"unfolding": unfolded, **ways}.items()}
        return {name: gradients(run, (images, kernels)) if backward else inference(run) for name, run in sides.items()}

    name = f"{size}x{size} kernels, {batch}x{inputs}x{side}x{side} to {outputs}"
    return [
        Sides(f"{name}, {what}", partial(make, backward), "unfolding")
        for what, backward in (("forward", False), ("forward and backward", True))
    ]


def arms(machine: Machine, batch: int, side: int = 64) -> Case:
    """Networks in evaluation whose decoders have a kernel a patch, a kernel a sample, and stored ones."""

    def make() -> dict[str, Run]:
        decoders = {"static": StaticDecoder, "hyper": MetaDecoder, "global": partial(MetaDecoder, one_kernel=True)}
        images = torch.rand(batch, 1, side, side, device=machine.device)
        networks = {arm: HyperSeg(decoder, classes=11).to(machine.device).eval() for arm, decoder in decoders.items()}
        return {arm: inference(partial(machine.mixed(network), images)) for arm, network in networks.items()}

    return Sides(f"arms of hyperseg, {batch} of {side}x{side}", make, "static")


def main(settings: PerPatch) -> None:
    measure("A kernel a patch", only(cases(settings.machine()), settings.only), settings, settings.rounds)


if __name__ == "__main__":
    command(main, PerPatch)
