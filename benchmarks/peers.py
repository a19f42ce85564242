"""One conditioned CNN in several hypernetwork libraries; see --help.

pip install --no-deps -r benchmarks/peers-requirements.txt
python benchmarks/peers.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from common import Case, Machine, Run, Settings, Sides, command, measure
from torch import Tensor, nn

from hyperconv import conditional

_OURS = "hyperconv"
_VMAP, _BY_HAND, _STORED = "torch.func.vmap", "torch, one product by hand", "stored weights"
CONTEXT, HIDDEN = 4, 16
SHAPES = {
    "first.weight": (8, 1, 5, 5),
    "first.bias": (8,),
    "second.weight": (16, 8, 5, 5),
    "second.bias": (16,),
    "last.weight": (10, 784),
    "last.bias": (10,),
}


# images, context to outputs
Told = Callable[[Tensor, Tensor], Tensor]
Library = tuple[nn.Module, Told]


@dataclass(frozen=True)
class Peers(Settings):
    """Time training steps of a CNN for digits all of whose weights come from a context of 4 numbers.

    Two 5x5 convolutions (8 and 16 channels) and a linear layer, 11,274 weights, made by one hidden layer of 16. There
    is one context for the batch, beside a few lines by hand and the network with stored weights, which nothing can be
    faster than; then one a sample, for which the libraries loop over samples, beside weights made at once and vmap over
    functional_call. Libraries that are not installed, or fail, are skipped with the reason.

    Args:
        batch_size: digits a step.
        rounds: how often each side is timed.
    """

    batch_size: int = 64
    rounds: int = 30


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


def ours() -> Library:
    network = conditional(PlainCNN(), CONTEXT, hidden=(HIDDEN,))
    return network, lambda images, context: network(images, context=context)


def hypnettorch() -> Library:
    from hypnettorch.hnets import HMLP

    shapes = [list(shape) for shape in SHAPES.values()]
    hyper = HMLP(shapes, uncond_in_size=CONTEXT, cond_in_size=0, layers=[HIDDEN], num_cond_embs=0, verbose=False)

    def run(images: Tensor, context: Tensor) -> Tensor:
        weights = hyper.forward(uncond_input=context.unsqueeze(0))
        return apply_weights(images, dict(zip(SHAPES, weights, strict=True)))

    return hyper, run


def hyperlight() -> Library:
    import hyperlight as hl

    network = PlainCNN()
    network = hl.hypernetize(network, modules=hl.find_modules_of_type(network, [nn.Conv2d, nn.Linear]))
    hyper = hl.HyperNet(input_shapes={"h": (CONTEXT,)}, output_shapes=network.external_shapes(), hidden_sizes=[HIDDEN])

    def run(images: Tensor, context: Tensor) -> Tensor:
        with network.using_externals(hyper(h=context)):
            return network(images)

    return hyper, run


def hyper_nn() -> Library:
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


def all_weights() -> tuple[nn.Module, Callable[[Tensor], dict[str, Tensor]]]:
    """What makes all weights in one product, and from contexts ``(..., CONTEXT)`` makes them by name."""
    sizes = [prod(shape) for shape in SHAPES.values()]
    made = nn.Sequential(nn.Linear(CONTEXT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, sum(sizes)))

    def weights(contexts: Tensor) -> dict[str, Tensor]:
        parts = made(contexts).split(sizes, dim=-1)
        return {name: part.unflatten(-1, shape) for part, (name, shape) in zip(parts, SHAPES.items(), strict=True)}

    return made, weights


def by_hand() -> Library:
    """As little as a hypernetwork of these weights can be."""
    made, weights = all_weights()
    return made, lambda images, context: apply_weights(images, weights(context))


def stored() -> Library:
    """No hypernetwork: what no hypernetwork can be faster than."""
    network = PlainCNN()
    return network, lambda images, context: network(images)


def vmapped() -> Library:
    """Contexts ``(B, CONTEXT)``, one a sample."""
    made, weights = all_weights()
    apply = torch.func.vmap(lambda image, own: apply_weights(image.unsqueeze(0), own).squeeze(0))
    return made, lambda images, contexts: apply(images, weights(contexts))


def one_by_one(library: Callable[[], Library]) -> Callable[[], Library]:
    """A library that makes one network at a time, given a context a sample."""

    def looping() -> Library:
        module, run = library()

        def loop(images: Tensor, contexts: Tensor) -> Tensor:
            return torch.cat([run(image, context) for image, context in zip(images.split(1), contexts, strict=True)])

        return module, loop

    return looping


_PEERS: dict[str, Callable[[], Library]] = {"hypnettorch": hypnettorch, "hyperlight": hyperlight, "hyper-nn": hyper_nn}


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    batch = 2 if quick else 64
    return [case(machine, batch, a_sample=False), case(machine, batch, a_sample=True)]


def case(machine: Machine, batch: int, a_sample: bool) -> Case:
    libraries: dict[str, Callable[[], Library]] = {_OURS: ours}
    if a_sample:
        libraries |= {_VMAP: vmapped}
        libraries |= {f"{name}, a loop": one_by_one(library) for name, library in _PEERS.items()}
    else:
        libraries |= {**_PEERS, _BY_HAND: by_hand, _STORED: stored}

    def make() -> dict[str, Run]:
        images = torch.rand(batch, 1, 28, 28, device=machine.device)
        labels = torch.randint(0, 10, (batch,), device=machine.device)
        context = torch.rand(*[batch] * a_sample, CONTEXT, device=machine.device)
        _SKELETON.to(machine.device)
        steps: dict[str, Run] = {}
        for name, library in libraries.items():
            try:
                with machine.device:
                    module, run = library()
                steps[name] = step(module.to(machine.device), machine.mixed(run), images, context, labels)
                steps[name]()
            except Exception as error:  # whatever an old library raises is its result
                if name in (_OURS, _VMAP, _BY_HAND, _STORED):
                    raise
                steps.pop(name, None)
                reason = next(iter(str(error).splitlines()), "")[:100]
                print(f"  skipped: {name}: {type(error).__name__}: {reason}")
        return steps

    told = ", a context a sample" if a_sample else ""
    return Sides(f"a conditioned CNN{told}, training step, batch {batch}", make, _OURS)


def step(module: nn.Module, run: Told, images: Tensor, context: Tensor, labels: Tensor) -> Run:
    parameters = list(module.parameters())

    def once() -> None:
        torch.autograd.grad(F.cross_entropy(run(images, context).float(), labels), parameters, allow_unused=True)

    return once


def main(settings: Peers) -> None:
    machine, batch = settings.machine(), settings.batch_size
    both = [case(machine, batch, a_sample) for a_sample in (False, True)]
    measure("Other libraries", both, settings, settings.rounds)


if __name__ == "__main__":
    command(main, Peers)
