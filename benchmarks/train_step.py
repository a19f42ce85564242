"""Time of a training step: hyper, normal, and the first release's formulation; see --help.

python benchmarks/train_step.py
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from ancestor import ancestor
from common import alternate, matrix_product_rate, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hyperconv import MNISTClassifier, cli
from hyperconv.training.fit import keep_freed_memory


@dataclass(frozen=True)
class TrainStep:
    """Time training steps of the digit classifier, all sides alternating in one process.

    Args:
        batch_size: digits a step.
        rounds: how often each side is timed.
        compile: put both of our arms through torch.compile.
        json: also write the figures to this file.
    """

    batch_size: PositiveInt = 128
    rounds: PositiveInt = 30
    compile: bool = False
    json: str | None = None


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Callable:
    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def our_step(arm: str, images: Tensor, labels: Tensor, compiled: bool = False, bare: bool = False) -> Callable:
    """A step of an arm with the defaults of main.py, but for the schedule and the turning of digits.

    Args:
        bare: without normalisation and ReLU.
    """
    model = MNISTClassifier(arm)
    if bare:
        leave_out(model.network, nn.BatchNorm2d, nn.ReLU)
    model.recipe = replace(model.recipe, batch_size=len(labels), schedule="constant")
    if compiled:
        model.compile_training()
    return training_step(model.to(images.device), model.configure_optimizers(), images, labels)


def leave_out(network: nn.Module, *kinds: type[nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kinds):
                setattr(module, name, nn.Identity())


def ancestor_step(images: Tensor, labels: Tensor) -> Callable:
    network, optimizer = ancestor()
    return training_step(network.to(images.device), optimizer, images / 255, labels)


def main(settings: TrainStep) -> None:
    torch.manual_seed(0)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randint(0, 256, (settings.batch_size, 1, 28, 28), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (settings.batch_size,), device=device)
    steps = {
        "hyper": our_step("hyper", images, labels, settings.compile),
        "normal": our_step("normal", images, labels, settings.compile),
        "normal, no normalisation, no ReLU": our_step("normal", images, labels, settings.compile, bare=True),
        "ancestor's formulation": ancestor_step(images, labels),
    }
    with FlopCounterMode(display=False) as counter:
        our_step("normal", images, labels)()
    seconds = alternate(steps, settings.rounds)
    rate = matrix_product_rate(device)
    floor = counter.get_total_flops() / rate
    rows, figures = [], {}
    for name, times in seconds.items():
        to_normal, to_ancestor = (ratio(times, seconds[other]) for other in ("normal", "ancestor's formulation"))
        rows.append(
            (
                name,
                spread(quartiles(times), 1, 1e3),
                spread(to_normal),
                spread(to_ancestor),
                f"{floor / quartiles(times)[1]:.0%}",
            )
        )
        figures[name] = {
            "seconds": quartiles(times),
            "to normal": to_normal,
            "to ancestor": to_ancestor,
            "fraction of matrix-product rate": floor / quartiles(times)[1],
        }
    title = f"Training step, batch {settings.batch_size}: median (quartiles) of {settings.rounds} rounds"
    columns = ("side", "ms a step", "ratio to normal", "ratio to ancestor", "of matrix-product rate")
    report(title, columns, rows, {**figures, "matrix-product flop/s": rate}, settings.json)
    print(f"floor: {floor * 1e3:.1f} ms, the step's products at the machine's {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    cli.run(main, TrainStep)
