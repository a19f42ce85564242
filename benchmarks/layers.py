"""A hyper layer beside torch's, over sizes: forward, training step, baked; and a whole residual network; see --help.

python benchmarks/layers.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from common import alternate, quartiles, ratio, report, runs_of, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from hyperconv import CoordinateMLP, GeneratedTogether, HyperConv1d, HyperConv2d, HyperConv3d, bake, cli, hyperize
from hyperconv.errors import InputError
from hyperconv.training.fit import keep_freed_memory

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


@dataclass(frozen=True)
class Layers:
    """Time hyper layers, plain layers and baked layers, all alternating.

    Args:
        rounds: how often each side is timed.
        hidden: last hidden width of the generators.
        only: time just the cases with this in their name, e.g. resnet18.
        json: also write the figures to this file.
    """

    rounds: PositiveInt = 15
    hidden: PositiveInt = 4
    only: str = ""
    json: str | None = None


def training_step(module: nn.Module, images: Tensor) -> Callable[[], None]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def step() -> None:
        torch.autograd.grad(module(images).square().mean(), parameters)
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def inference(module: nn.Module, images: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def forward() -> None:
        module(images)
        if images.is_cuda:
            torch.cuda.synchronize()

    return forward


def sides(plain: nn.Module, hyper: nn.Module, images: Tensor) -> dict[str, Callable[[], None]]:
    baked = bake(hyper).to(memory_format=_format(images))
    made = {
        f"{what} {name}": run(module, images)
        for what, run in (("train", training_step), ("infer", inference))
        for name, module in (("plain", plain), ("hyper", hyper))
    }
    return {**made, "infer baked": inference(baked, images)}


def _format(images: Tensor) -> torch.memory_format:
    return torch.channels_last if images.dim() == 4 else torch.preserve_format


def main(settings: Layers) -> None:
    torch.manual_seed(0)
    keep_freed_memory()  # as in main.py's training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = partial(CoordinateMLP, hidden=(16, 16, settings.hidden))
    cases: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {}
    for kind, channels, kernel, shape in _CASES:
        arguments = (channels, channels, kernel)
        plain = kind(*arguments, padding="same").to(device)
        hyper = _HYPER[kind](*arguments, padding="same", generator=generator).to(device)
        images = torch.randn(shape, device=device)
        cases[f"{kind.__name__} {channels} channels, k {kernel}, {'x'.join(map(str, shape))}"] = plain, hyper, images
    network = torchvision.models.resnet18().to(device)

    def three_by_three(name: str, layer: nn.Module) -> bool:
        return getattr(layer, "kernel_size", None) == (3, 3)

    small = partial(CoordinateMLP, hidden=(16, 16, 4))
    hyperized = hyperize(network, select=three_by_three, generator=small)
    images = torch.randn(16, 3, 112, 112, device=device)
    cases["resnet18, its 3x3, 16x3x112x112"] = network, GeneratedTogether(hyperized), images
    cases = {name: case for name, case in cases.items() if settings.only in name}
    if not cases:
        raise InputError(f"no case has {settings.only!r} in its name")
    rows, figures = [], {}
    for name, (plain, hyper, images) in cases.items():
        layout = _format(images)
        plain, hyper, images = (each.to(memory_format=layout) for each in (plain, hyper, images))
        timed = sides(plain, hyper, images)
        seconds = alternate(timed, settings.rounds, runs_of(timed["infer plain"]))
        ratios = {
            "training step": ratio(seconds["train hyper"], seconds["train plain"]),
            "inference": ratio(seconds["infer hyper"], seconds["infer plain"]),
            "baked": ratio(seconds["infer baked"], seconds["infer plain"]),
        }
        milliseconds = [f"{quartiles(seconds[side])[1] * 1e3:.2f}" for side in ("train plain", "infer plain")]
        rows.append((name, *milliseconds, *(spread(each, 2) for each in ratios.values())))
        figures[name] = {**ratios, "seconds": {side: quartiles(times) for side, times in seconds.items()}}
    columns = ("layer", "plain step, ms", "plain inference, ms", "hyper step", "hyper inference", "baked inference")
    title = f"Hyper to plain layer, last hidden width {settings.hidden}: ratio (quartiles) of {settings.rounds} rounds"
    report(title, columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, Layers)
