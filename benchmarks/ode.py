"""A training step of a neural ODE with a network a trajectory: all at once against one after the other; see --help.

python benchmarks/ode.py
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from common import Case, Machine, Run, Settings, Sides, command, measure
from torch import Tensor

from hyperconv.zoo.neural_ode import GeneratedDynamics, NeuralODE

_OPERATOR = "per-sample operator"
# as in --experiment ode
_WIDTH, _CONTEXT, _OBSERVED = 24, 4, 20


@dataclass(frozen=True)
class ODE(Settings):
    """Time a training step on positions of pendulums, each way of applying a network a trajectory in turn.

    Args:
        rounds: how often each way is timed.
        batch: trajectories a step.
    """

    rounds: int = 7
    batch: int = 64


def one_by_one(network: NeuralODE) -> Callable[[Tensor], Tensor]:
    return lambda observed: torch.cat([network(trajectory) for trajectory in observed.split(1)])


def training_step(network: NeuralODE, forward: Callable[[Tensor], Tensor], observed: Tensor, positions: Tensor) -> Run:
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (forward(observed) - positions).square().mean().backward()
        optimizer.step()

    return step


def swinging(batch: int, times: int, device: torch.device) -> Tensor:
    """Positions ``(B, T, 2)`` on the unit circle, to the right and upwards."""
    angle = torch.rand(batch, 1, device=device) * torch.cos(0.3 * torch.arange(times, device=device))
    return torch.stack([angle.sin(), -angle.cos()], dim=-1)


def cases(machine: Machine, quick: bool = False) -> list[Case]:
    return [case(machine, 2, observed=2) if quick else case(machine, 16)]


def case(machine: Machine, batch: int, observed: int = _OBSERVED) -> Case:
    def make() -> dict[str, Run]:
        positions = swinging(batch, 2 * observed, machine.device)
        seen = positions[:, :observed]
        network = NeuralODE(GeneratedDynamics(_WIDTH, _CONTEXT), observed, 2 * observed).to(machine.device)
        ways: dict[str, tuple[NeuralODE, Callable[[Tensor], Tensor]]] = {}
        for name, backend in (
            (_OPERATOR, "bmm"),
            ("grouped convolution", "grouped"),
            ("loop in the operator", "loop"),
        ):
            own = deepcopy(network)
            own.dynamics.backend = backend
            ways[name] = own, own
        own = deepcopy(network)
        ways["one trajectory after the other"] = own, one_by_one(own)
        expected = network(seen)
        for _, forward in ways.values():
            torch.testing.assert_close(forward(seen), expected, rtol=1e-2, atol=1e-2)
        return {name: training_step(own, machine.mixed(run), seen, positions) for name, (own, run) in ways.items()}

    return Sides(f"a network for each of {batch} trajectories, training step", make, _OPERATOR)


def main(settings: ODE) -> None:
    measure("Neural ODE", [case(settings.machine(), settings.batch)], settings, settings.rounds)


if __name__ == "__main__":
    command(main, ODE)
