"""Time of a training step: hyper, normal, and the first release's formulation; see --help.

python benchmarks/train_step.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from ancestor import ancestor
from common import Case, Comparison, Machine, Run, Settings, Sides, command, matrix_product_rate, measure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hyperconv import CoordinateMLP, HyperConv2d
from hyperconv.zoo.digit_classifier import digit_classifier

_NORMAL, _HYPER, _FIRST = "normal", "hyper", "first release's formulation"


@dataclass(frozen=True)
class TrainStep(Settings):
    """Time training steps of the digit classifier, all sides alternating in one process.

    Args:
        batch_size: digits a step.
        rounds: how often each side is timed.
        compile: put both of our arms through torch.compile.
    """

    batch_size: int = 128
    rounds: int = 30
    compile: bool = False


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    if quick:
        return [case(machine, 2)]
    # a GPU is what main.py compiles for
    return [case(machine, 128, compiled) for compiled in ((False, True) if machine.device.type == "cuda" else (False,))]


def case(machine: Machine, batch_size: int, compiled: bool = False) -> Case:
    def make() -> dict[str, Run]:
        batch = digits(batch_size, machine.device)
        return {
            _NORMAL: our_step(machine, _NORMAL, *batch, compiled),
            _HYPER: our_step(machine, _HYPER, *batch, compiled),
            "normal, no normalisation, no ReLU": our_step(machine, _NORMAL, *batch, compiled, bare=True),
            _FIRST: ancestor_step(*batch, machine),
        }

    comparisons = tuple(Comparison(f"{side} to the first release's", (side,), (_FIRST,)) for side in (_NORMAL, _HYPER))
    name = f"digit classifier, batch {batch_size}" + (", ours compiled" if compiled else "")
    return Sides(name, make, _NORMAL, comparisons)


def digits(batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images of one channel, ``(B, 1, 28, 28)``, in default memory format, and labels."""
    return torch.rand(batch_size, 1, 28, 28, device=device), torch.randint(0, 10, (batch_size,), device=device)


def our_step(
    machine: Machine, arm: str, images: Tensor, labels: Tensor, compiled: bool = False, bare: bool = False
) -> Run:
    """A step of an arm with the defaults of main.py, but for the schedule and the turning of digits.

    Args:
        bare: without normalisation and ReLU.
    """
    hyper = partial(HyperConv2d, bias=False, generator=partial(CoordinateMLP, hidden=(16, 16, 16)))
    network = digit_classifier(conv_layer=hyper if arm == _HYPER else nn.Conv2d)
    if bare:
        leave_out(network, nn.BatchNorm2d, nn.ReLU)
    network.to(images.device, memory_format=torch.channels_last)
    # with one channel both formats fit: it is the strides that tell torch which
    images = images.view(-1, 28, 28, 1).permute(0, 3, 1, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    run = torch.compile(network) if compiled else network
    return optimizer_step(machine.mixed(run), optimizer, images, labels)


def leave_out(network: nn.Module, *kinds: type[nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kinds):
                setattr(module, name, nn.Identity())


def ancestor_step(images: Tensor, labels: Tensor, machine: Machine) -> Run:
    network, optimizer = ancestor()
    return optimizer_step(machine.mixed(network.to(images.device)), optimizer, images, labels)


def optimizer_step(
    run: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> Run:
    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(run(images).float(), labels).backward()
        optimizer.step()

    return step


def main(settings: TrainStep) -> None:
    machine = settings.machine()
    rows = measure("Training step", [case(machine, settings.batch_size, settings.compile)], settings, settings.rounds)
    with FlopCounterMode(display=False) as counter:
        our_step(machine, _NORMAL, *digits(settings.batch_size, machine.device))()
    with machine.arithmetic():
        rate = matrix_product_rate(machine.device)
    floor = counter.get_total_flops() / rate * 1e3
    reached = ", ".join(f"{floor / row.ms:.0%} by {row.side}" for row in rows if row.side in (_NORMAL, _HYPER))
    print(f"floor: {floor:.2f} ms, the step's products at the {rate / 1e9:,.0f} GFLOP/s of a large one: {reached}")


if __name__ == "__main__":
    command(main, TrainStep)
