"""A training step of a neural ODE with a network a trajectory: all at once against one after the other; see --help.

python benchmarks/ode.py
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from common import alternate, quartiles, ratio, report, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor

from hyperconv import cli
from hyperconv.data.pendulums import load_points
from hyperconv.experiments.ode import generated
from hyperconv.zoo.neural_ode import NeuralODE

_OPERATOR = "per-sample operator"


@dataclass(frozen=True)
class ODE:
    """Time a training step on pendulums, each way of applying a network a trajectory in turn.

    Args:
        rounds: how often each way is timed.
        batch: trajectories a step.
        json: also write the figures to this file.
    """

    rounds: PositiveInt = 7
    batch: PositiveInt = 64
    json: str | None = None


def one_by_one(network: NeuralODE) -> Callable[[Tensor], Tensor]:
    return lambda observed: torch.cat([network(trajectory) for trajectory in observed.split(1)])


def training_step(
    network: NeuralODE, forward: Callable[[Tensor], Tensor], observed: Tensor, positions: Tensor
) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (forward(observed) - positions).square().mean().backward()
        optimizer.step()
        if observed.is_cuda:
            torch.cuda.synchronize()

    return step


def main(settings: ODE) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    observed, positions = (tensor.to(device) for tensor in load_points().train[: settings.batch])
    network = generated().to(device)
    ways: dict[str, tuple[NeuralODE, Callable[[Tensor], Tensor]]] = {}
    for name, backend in ((_OPERATOR, "auto"), ("grouped convolution", "grouped"), ("loop in the operator", "loop")):
        own = deepcopy(network)
        own.dynamics.backend = backend
        ways[name] = own, own
    own = deepcopy(network)
    ways["one trajectory after the other"] = own, one_by_one(own)
    expected = network(observed)
    for _, forward in ways.values():
        torch.testing.assert_close(forward(observed), expected, rtol=1e-3, atol=1e-3)
    sides = {name: training_step(*way, observed, positions) for name, way in ways.items()}
    seconds = alternate(sides, settings.rounds)
    rows = [
        (name, f"{quartiles(times)[1] * 1e3:.0f} ms", spread(ratio(times, seconds[_OPERATOR]), 2))
        for name, times in seconds.items()
    ]
    columns = ("training step", "median", "ratio to the operator")
    figures = {name: quartiles(times) for name, times in seconds.items()}
    report(f"A network for each of {settings.batch} trajectories", columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, ODE)
