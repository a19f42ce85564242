"""A perceptron with weights for every sample, applied in five ways: a training step's time; see --help.

python benchmarks/mlp.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from common import alternate, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from hyperconv import cli
from hyperconv.functional import linear_per_sample
from hyperconv.zoo.generated_mlp import PerSampleMLP

_LAYERS = "the layers' own way"


@dataclass(frozen=True)
class PerSampleSteps:
    """Time a training step of the 784-32-10 perceptron of `--experiment mlp`, all ways alternating.

    Args:
        batch_sizes: samples a step.
        rounds: how often each way is timed.
        json: also write the figures to this file.
    """

    batch_sizes: tuple[PositiveInt, ...] = (64, 1024)
    rounds: PositiveInt = 15
    json: str | None = None


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


def step(network: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], images: Tensor) -> Callable[[], None]:
    parameters = list(network.parameters())

    def once() -> None:
        torch.autograd.grad(run(network, images).square().mean(), parameters)

    return once


def main(settings: PerSampleSteps) -> None:
    torch.manual_seed(0)
    network = PerSampleMLP((784, 32, 10))
    ways = {
        _LAYERS: lambda network, images: network(images),
        **{backend: partial(built, backend=backend) for backend in ("bmm", "grouped", "loop")},
        "sequential": sequential,
    }
    rows, figures = [], {}
    for batch in settings.batch_sizes:
        images = torch.rand(batch, 1, 28, 28)
        expected = network(images)
        for name, run in ways.items():
            torch.testing.assert_close(run(network, images), expected, rtol=1e-4, atol=1e-5, msg=name)
        seconds = alternate({name: step(network, run, images) for name, run in ways.items()}, settings.rounds)
        figures[batch] = {name: quartiles(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            over = "" if name == _LAYERS else spread(ratio(times, seconds[_LAYERS]), 1)
            rows.append((f"{batch}, {name}", f"{quartiles(times)[1] * 1e3:.1f}", over))
    columns = ("batch, weights applied by", "ms a step", "times as long as the layers")
    report("Per-sample perceptron 784-32-10, a training step", columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, PerSampleSteps)
