"""One conditioned CNN in several hypernetwork libraries; see --help.

pip install --no-deps -r benchmarks/peers-requirements.txt
python benchmarks/peers.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from common import alternate, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from hyperconv import DenseGenerator, HyperConv2d, HyperLinear, cli

CONTEXT, HIDDEN = 4, 16
SHAPES = {
    "first.weight": (8, 1, 5, 5),
    "first.bias": (8,),
    "second.weight": (16, 8, 5, 5),
    "second.bias": (16,),
    "last.weight": (10, 784),
    "last.bias": (10,),
}


@dataclass(frozen=True)
class Peers:
    """Time training steps of a CNN for digits all of whose weights come from one context of 4 numbers for the batch.

    Two 5x5 convolutions (8 and 16 channels) and a linear layer, 11,274 weights, made by one hidden layer of 16.
    Libraries that are not installed, or fail, are listed with the reason.

    Args:
        batch_size: digits a step.
        rounds: how often each side is timed.
        json: also write the figures to this file.
    """

    batch_size: PositiveInt = 64
    rounds: PositiveInt = 30
    json: str | None = None


class PlainCNN(nn.Module):
    """The main network, for libraries that take one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 5, padding=2)
        self.second = nn.Conv2d(8, 16, 5, padding=2)
        self.last = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.first(images).relu(), 2)
        return self.last(F.max_pool2d(self.second(hidden).relu(), 2).flatten(1))


def apply_weights(images: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The main network, for libraries that only make weights."""
    return torch.func.functional_call(_SKELETON, weights, (images,))


_SKELETON = PlainCNN()


class OurCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = partial(DenseGenerator, context_dim=CONTEXT, hidden=(HIDDEN,))
        self.first = HyperConv2d(1, 8, 5, padding=2, bias="generated", generator=generator)
        self.second = HyperConv2d(8, 16, 5, padding=2, bias="generated", generator=generator)
        self.last = HyperLinear(784, 10, bias="generated", generator=generator)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.first(images, context).relu(), 2)
        hidden = F.max_pool2d(self.second(hidden, context).relu(), 2)
        return self.last(hidden.flatten(1), context)


def ours() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    network = OurCNN()
    return network, network


def hypnettorch() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    from hypnettorch.hnets import HMLP

    shapes = [list(shape) for shape in SHAPES.values()]
    hyper = HMLP(shapes, uncond_in_size=CONTEXT, cond_in_size=0, layers=[HIDDEN], num_cond_embs=0, verbose=False)

    def run(images: Tensor, context: Tensor) -> Tensor:
        weights = hyper.forward(uncond_input=context.unsqueeze(0))
        return apply_weights(images, dict(zip(SHAPES, weights, strict=True)))

    return hyper, run


def hyperlight() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    import hyperlight as hl

    network = PlainCNN()
    network = hl.hypernetize(network, modules=hl.find_modules_of_type(network, [nn.Conv2d, nn.Linear]))
    hyper = hl.HyperNet(input_shapes={"h": (CONTEXT,)}, output_shapes=network.external_shapes(), hidden_sizes=[HIDDEN])

    def run(images: Tensor, context: Tensor) -> Tensor:
        with network.using_externals(hyper(h=context)):
            return network(images)

    return hyper, run


def hyper_nn() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    from hypernn.torch.hypernet import TorchHyperNetwork

    class Conditioned(TorchHyperNetwork):
        def __init__(self, target_network: nn.Module) -> None:
            super().__init__(target_network)
            numbers = sum(prod(shape) for shape in SHAPES.values())
            self.made = nn.Sequential(nn.Linear(CONTEXT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, numbers))

        def generate_params(self, context: Tensor) -> tuple[Tensor, dict]:
            return self.made(context), {}

    hyper = Conditioned(PlainCNN())

    def run(images: Tensor, context: Tensor) -> Tensor:
        return hyper(images, generate_params_kwargs={"context": context})

    return hyper.made, run


_LIBRARIES = {
    "hyperconv": ours,
    "hypnettorch": hypnettorch,
    "hyperlight": hyperlight,
    "hyper-nn": hyper_nn,
}


def main(settings: Peers) -> None:
    torch.manual_seed(0)
    images = torch.rand(settings.batch_size, 1, 28, 28)
    labels = torch.randint(0, 10, (settings.batch_size,))
    context = torch.rand(CONTEXT)
    steps, numbers, failed = {}, {}, []
    for name, make in _LIBRARIES.items():
        try:
            module, run = make()
            parameters = list(module.parameters())

            def step(run: Callable[..., Tensor] = run, parameters: list[Tensor] = parameters) -> None:
                torch.autograd.grad(F.cross_entropy(run(images, context), labels), parameters, allow_unused=True)

            step()
        except Exception as error:  # whatever an old library raises is its result
            failed.append((name, f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"))
            continue
        steps[name], numbers[name] = step, sum(parameter.numel() for parameter in parameters)
    seconds = alternate(steps, settings.rounds)
    rows, figures = [], {}
    for name, times in seconds.items():
        slower = ratio(times, seconds["hyperconv"])
        rows.append((name, f"{numbers[name]:,}", spread(quartiles(times), 2, 1e3), spread(slower, 2)))
        figures[name] = {"seconds": quartiles(times), "to ours": slower, "parameters": numbers[name]}
    columns = ("library", "parameters", "ms a step", "ratio to ours")
    title = f"A conditioned CNN, batch {settings.batch_size}: median (quartiles) of {settings.rounds} rounds"
    report(title, columns, rows, {**figures, "failed": dict(failed)}, settings.json)
    for name, reason in failed:
        print(f"{name} did not run: {reason}")


if __name__ == "__main__":
    cli.run(main, Peers)
