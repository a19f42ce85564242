"""Draw every kernel of a layer of a run's two networks, and the hyper ones as continuous functions; see --help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt
from torch import nn

from hyperconv import CoordinateMLP, HyperConv2d, ResidualBlock, cli, kernel_grid, plotting
from hyperconv.errors import InputError
from hyperconv.experiments.pair import SHIPPED, pair

SAMPLES_A_TAP = 9


@dataclass(frozen=True)
class ConvWeights:
    """Draw every kernel of one layer of a normal and a hyper network on one colour scale centred at zero.

    Beside them the hyper kernels as the continuous functions that they are, sampled 9 times finer than the taps.

    Args:
        run: a folder in lightning_logs with the arms hyper and normal.
        layer: which of the 16 convolutions in the residual blocks, counted from 0 at the input.
        hyper: checkpoint of the hyper arm, in place of the run's.
        normal: checkpoint of the normal arm, in place of the run's.
        format: of the figure.
        out: folder for the figure.
    """

    run: str = SHIPPED
    layer: NonNegativeInt = 0
    hyper: str | None = None
    normal: str | None = None
    format: Literal["png", "pdf", "svg"] = "png"
    out: str = "out"


@torch.no_grad()
def main(settings: ConvWeights) -> None:
    networks = pair(settings.run, hyper=settings.hyper, normal=settings.normal)
    stored, generated = (_convolution(networks[arm].network, settings.layer) for arm in ("normal", "hyper"))
    if not isinstance(getattr(generated, "generator", None), CoordinateMLP):
        raise InputError(f"convolution {settings.layer} of the hyper network has no kernels of coordinates to draw")
    sizes = ["x".join(map(str, layer.kernel_size)) for layer in (stored, generated)]
    panels = {
        f"normal: stored, {sizes[0]}": stored.weight.numpy(),
        f"hyper: generated, {sizes[1]}": generated.weight.numpy(),
        "hyper: between the taps": _continuous(generated.generator).numpy(),
    }
    digits = " and ".join(sorted({each.data for each in networks.values()}))
    channels = f"{stored.in_channels} x {stored.out_channels}"
    title = f"The {channels} kernels of convolution {settings.layer}, trained on {digits}"
    path = Path(settings.out) / f"conv_weights_layer{settings.layer}.{settings.format}"
    plotting.save(plotting.kernels(panels, title), path)


def _convolution(network: nn.Module, layer: int) -> Any:
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    convolutions = [
        module for block in blocks for module in block.branch if isinstance(module, nn.Conv2d | HyperConv2d)
    ]
    if not convolutions:
        raise InputError("there are no residual blocks in these networks; give a run of digits")
    if layer >= len(convolutions):
        raise InputError(f"--layer {layer} does not exist; the residual blocks have 0 to {len(convolutions) - 1}")
    return convolutions[layer]


def _continuous(generator: CoordinateMLP) -> torch.Tensor:
    """The kernels ``(O, I, h, w)`` on a grid that splits each tap into 9x9."""
    size = [taps * SAMPLES_A_TAP for taps in generator.kernel_shape[2:]]
    return generator.sample(kernel_grid(size) / SAMPLES_A_TAP).unflatten(1, size).movedim(-1, 1)


if __name__ == "__main__":
    cli.run(main, ConvWeights)
