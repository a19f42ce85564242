"""A kernel a sample: which way to apply it is fastest, and does `auto` find it; see --help.

python benchmarks/per_sample.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from common import alternate, peak_memory, quartiles, ratio, report, runs_of, spread
from jsonargparse.typing import PositiveInt
from torch import Tensor

from hyperconv import cli, functional
from hyperconv.training.fit import keep_freed_memory


@dataclass(frozen=True)
class PerSample:
    """Time the ways to apply a convolution or a linear map a sample, forward and backward, all alternating.

    Args:
        rounds: how often each way is timed at each size.
        hidden: width of the vector that the kernels are generated from.
        json: also write the figures to this file.
    """

    rounds: PositiveInt = 7
    hidden: PositiveInt = 16
    json: str | None = None


def step(run: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], None]:
    def forward_and_backward() -> None:
        output = run(*leaves)
        torch.autograd.grad(output.sum(), leaves)
        if output.is_cuda:
            torch.cuda.synchronize()

    return forward_and_backward


def linear_ways(batch: int, inputs: int, outputs: int, hidden: int, device: torch.device) -> dict[str, Callable]:
    rows = torch.randn(batch, inputs, device=device, requires_grad=True)
    coefficients = torch.randn(batch, hidden, device=device, requires_grad=True)
    basis = torch.randn(hidden, outputs, inputs, device=device, requires_grad=True)

    def built(backend: str) -> Callable[..., Tensor]:
        apply = partial(functional.linear_per_sample, backend=backend)
        return lambda rows, coefficients, basis: apply(rows, torch.tensordot(coefficients, basis, dims=1))

    def auto(rows: Tensor, coefficients: Tensor, basis: Tensor) -> Tensor:
        if functional.contraction_pays(batch, 1, hidden):
            return functional.contracted_linear(rows, coefficients, basis)
        return built("auto")(rows, coefficients, basis)

    ways = {
        "auto": auto,
        **{backend: built(backend) for backend in ("loop", "grouped", "bmm")},
        "contraction": functional.contracted_linear,
    }
    return {name: step(run, rows, coefficients, basis) for name, run in ways.items()}


def convolution_ways(
    batch: int, channels: int, size: int, kernel: int, hidden: int, device: torch.device
) -> dict[str, Callable]:
    images = torch.randn(batch, channels, size, size, device=device, requires_grad=True)
    coefficients = torch.randn(batch, hidden, device=device, requires_grad=True)
    basis = torch.randn(hidden, channels, channels, kernel, kernel, device=device, requires_grad=True)

    def built(backend: str) -> Callable[..., Tensor]:
        apply = partial(functional.convolution_per_sample, padding=kernel // 2, backend=backend)
        return lambda images, coefficients, basis: apply(images, torch.tensordot(coefficients, basis, dims=1))

    def auto(images: Tensor, coefficients: Tensor, basis: Tensor) -> Tensor:
        if functional.contraction_pays(batch, size**2, hidden):
            return functional.contracted_convolution(images, coefficients, basis, padding=kernel // 2)
        return built("auto")(images, coefficients, basis)

    ways = {
        "auto": auto,
        **{backend: built(backend) for backend in ("loop", "grouped", "unfold")},
        "contraction": partial(functional.contracted_convolution, padding=kernel // 2),
    }
    return {name: step(run, images, coefficients, basis) for name, run in ways.items()}


def main(settings: PerSample) -> None:
    torch.manual_seed(0)
    keep_freed_memory()  # as in main.py's training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases: dict[str, dict[str, Callable]] = {}
    for batch in (16, 64, 1024):
        cases[f"linear 784 to 32, B {batch}"] = linear_ways(batch, 784, 32, settings.hidden, device)
    for batch, (channels, size), kernel in product((4, 64), ((8, 28), (32, 14), (64, 7), (64, 2)), (3, 5)):
        name = f"convolution {channels} channels, {size}x{size}, k {kernel}, B {batch}"
        cases[name] = convolution_ways(batch, channels, size, kernel, settings.hidden, device)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, ways in cases.items():
        seconds = alternate(ways, settings.rounds, runs_of(ways["auto"]))
        median = {way: quartiles(times)[1] for way, times in seconds.items()}
        memory = {way: peak_memory(run, device) for way, run in ways.items()}
        figures[name] = {way: {"seconds": median[way], "peak bytes": memory[way]} for way in ways}
        best = min((way for way in ways if way != "auto"), key=median.__getitem__)
        to_best = ratio(seconds["auto"], seconds[best])
        cells = [f"{median[way] * 1e3:.1f} ms, {memory[way] / 1e6:.0f} MB" for way in ways]
        columns = ("forward and backward", *ways, "auto to best")
        tables.setdefault(columns, []).append((name, *cells, spread(to_best, 2)))
    for columns, rows in tables.items():
        report(f"A kernel a sample, from {settings.hidden} numbers", columns, rows, figures, settings.json)


if __name__ == "__main__":
    cli.run(main, PerSample)
