"""Fair timing on noisy machines: every side in turn, round after round, in one process; ratios round by round."""

import json
import random
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from hyperconv.files import write_whole


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int, runs: int = 1) -> dict[str, list[float]]:
    """Seconds a run of each side, one value a round, after two rounds to warm up.

    The order changes from round to round: whoever comes after a side that fills the caches is slower.
    """
    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()) for name, run in sides.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order, shuffle = list(timers), random.Random(0).shuffle
    for number in range(rounds + 2):
        shuffle(order)
        for name in order:
            mean = timers[name].timeit(runs).mean
            if number >= 2:
                seconds[name].append(mean)
    return seconds


def runs_of(run: Callable[[], Any]) -> int:
    """As many as take a twentieth of a second, since what takes less is lost in noise."""
    return max(1, round(0.05 / min(alternate({"": run}, 3)[""])))


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def ratio(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """Quartiles of the ratios round by round."""
    return quartiles([a / b for a, b in zip(over, under, strict=True)])


def spread(values: tuple[float, float, float], digits: int = 3, scale: float = 1.0) -> str:
    low, middle, high = (f"{value * scale:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Most bytes of tensors that exist at once during a run, over those before it."""
    run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def matrix_product_rate(device: torch.device, size: int = 2048) -> float:
    """Floating point operations a second of a large float32 matrix product, the best of ten."""
    left, right = torch.randn(2, size, size, device=device)
    timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
    return 2 * size**3 / min(timer.timeit(1).mean for _ in range(10))


def machine() -> dict[str, Any]:
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": _device_name()}


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"


def report(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], figures: Any, file: str | None) -> None:
    """Print a table; write the figures behind it to ``file`` if one is given."""
    table = Table(title=title, caption=", ".join(f"{key} {value}" for key, value in machine().items()))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)
    if file:
        write_whole(Path(file), json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
