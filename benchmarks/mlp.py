"""A perceptron with weights for every sample, applied in five ways: a training step's time; see --help.

python benchmarks/mlp.py
"""

from dataclasses import dataclass
from functools import partial

import torch
from common import Case, Comparison, Machine, Run, Settings, Sides, command, gradients, measure
from torch import Tensor

from hyperconv.functional import linear_per_sample
from hyperconv.zoo.generated_mlp import PerSampleMLP

_LAYERS = "the layers' own way"
_BACKENDS = ("bmm", "grouped", "loop")


@dataclass(frozen=True)
class PerSampleSteps(Settings):
    """Time a training step of the 784-32-10 perceptron of `--experiment mlp`, all ways alternating.

    Args:
        batch_sizes: samples a step.
        rounds: how often each way is timed.
    """

    batch_sizes: tuple[int, ...] = (64, 1024)
    rounds: int = 15


def built(network: PerSampleMLP, images: Tensor, backend: str) -> Tensor:
    """The network's logits by way of weights that are built for every sample."""
    features = images.flatten(1)
    context = network.encoder(features)
    for number, layer in enumerate(network.layers):
        features = features.relu() if number else features
        weights, biases = layer.generator(context), layer.bias_generator(context)
        features = linear_per_sample(features, weights, biases, backend=backend)
    return features


def sequential(network: PerSampleMLP, images: Tensor) -> Tensor:
    """Sample after sample, the hypernetwork included."""
    return torch.cat([built(network, image, "bmm") for image in images.split(1)])


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    return [case(machine, batch) for batch in ((2,) if quick else (64, 1024))]


def case(machine: Machine, batch: int) -> Case:
    def make() -> dict[str, Run]:
        network = PerSampleMLP((784, 32, 10)).to(machine.device)
        images = torch.rand(batch, 1, 28, 28, device=machine.device)
        ways = {
            _LAYERS: network,
            **{backend: partial(built, network, backend=backend) for backend in _BACKENDS},
            "one sample after the other": partial(sequential, network),
        }
        expected = network(images)
        for name, run in ways.items():
            torch.testing.assert_close(run(images), expected, rtol=1e-2, atol=1e-2, msg=name)
        parameters = list(network.parameters())
        return {name: gradients(partial(machine.mixed(run), images), parameters) for name, run in ways.items()}

    return Sides(
        f"perceptron 784-32-10, training step, B {batch}",
        make,
        _LAYERS,
        (Comparison("the layers to the best of the others", (_LAYERS,), _BACKENDS),),
    )


def main(settings: PerSampleSteps) -> None:
    machine = settings.machine()
    measure("A perceptron a sample", [case(machine, each) for each in settings.batch_sizes], settings, settings.rounds)


if __name__ == "__main__":
    command(main, PerSampleSteps)
