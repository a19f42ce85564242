"""Fair timing on noisy machines: every side in turn, round after round, in one process; ratios round by round.

Everything here needs torch alone, flags included, so that a machine that has little else can run it.
"""

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, get_args, get_origin, get_type_hints

# the profiler, which measures memory, reports its own comings and goings
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hyperconv.errors import InputError
from hyperconv.files import renamed_into_place

Run = Callable[[], Any]
Seconds = dict[str, list[float]]
Precision = Literal["float32", "tf32", "bf16"]
Given = TypeVar("Given")
_TURN_S, _LONG_S = 0.05, 0.5  # what takes less is lost in noise; what takes more fills the caches itself
FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Machine:
    """Where it runs and in which arithmetic.

    Attributes:
        device: cpu or cuda.
        precision: of products and convolutions. ``tf32`` rounds the inputs of those of float32 to 10 bits, as only a
            GPU can; ``bf16`` is single operators on bfloat16 tensors, and networks under autocast.
    """

    device: torch.device
    precision: Precision = "float32"

    @property
    def factory(self) -> dict[str, Any]:
        """Device and type of the tensors and parameters of an operator."""
        return {"device": self.device, "dtype": torch.bfloat16 if self.precision == "bf16" else torch.float32}

    def mixed(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same under autocast, where the precision is bf16."""
        if self.precision != "bf16":
            return run

        def under_autocast(*inputs: Any) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                return run(*inputs)

        return under_autocast

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """TF32 as the precision says, within the block."""
        settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [each.allow_tf32 for each in settings]
        for each in settings:
            each.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            for each, value in zip(settings, before, strict=True):
                each.allow_tf32 = value

    @property
    def name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' * (threads > 1)}"

    @property
    def instruction_set(self) -> str:
        if self.device.type == "cuda":
            return "sm_{}{}".format(*torch.cuda.get_device_capability())
        return torch.backends.cpu.get_cpu_capability()

    @property
    def dtype(self) -> str:
        return {"float32": "float32", "tf32": "float32 (tf32)", "bf16": "bfloat16"}[self.precision]

    def __str__(self) -> str:
        return f"{self.name}, {self.instruction_set}, {self.dtype}, torch {torch.__version__}"


class Spread(NamedTuple):
    """Lower quartile, median, upper quartile."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        digits = 2 if self.middle >= 0.1 else 4
        low, middle, high = (f"{value:.{digits}f}" for value in self)
        return f"{middle} ({low} to {high})"


class Row(NamedTuple):
    """One side of one case.

    Attributes:
        ratio: of its time to that of the case's reference, or what ``side`` says.
        ms: median time in milliseconds.
        peak_mb: most megabytes of tensors that exist at once during a run, over those before it; NaN where unknown.
    """

    case: str
    side: str
    ratio: Spread
    ms: float
    peak_mb: float


class Comparison(NamedTuple):
    """One more ratio of a case.

    Attributes:
        over: sides whose times are added.
        under: sides the fastest of which they are divided by.
    """

    side: str
    over: tuple[str, ...]
    under: tuple[str, ...]


class Case(ABC):
    """Something to be measured."""

    name: str

    @abstractmethod
    def rows(self, machine: Machine, rounds: int, seconds: float | None) -> list[Row]:
        """Measure, in so many rounds at most, and in about so many seconds if any are given."""


@dataclass(frozen=True)
class Sides(Case):
    """Sides that do the same work, timed in turn.

    Attributes:
        make: returns what each side runs; called once it is the case's turn, so that one case lies in memory at a time.
        to: the side that the others are divided by.
    """

    name: str
    make: Callable[[], Mapping[str, Run]]
    to: str
    comparisons: tuple[Comparison, ...] = ()

    def rows(self, machine: Machine, rounds: int, seconds: float | None) -> list[Row]:
        torch.manual_seed(0)
        sides = self.make()
        times = alternate(sides, machine.device, rounds, seconds)
        memory = {side: peak_memory(run, machine.device) / 1e6 for side, run in sides.items()}
        rows = [
            Row(self.name, side, ratio(each, times[self.to]), statistics.median(each) * 1e3, memory[side])
            for side, each in times.items()
        ]
        for side, over, under in self.comparisons:
            total = [sum(each) for each in zip(*(times[name] for name in over), strict=True)]
            fastest = min(under, key=lambda name: statistics.median(times[name]))
            title = side if len(under) == 1 else f"{side} ({fastest})"
            peak = max(memory[name] for name in over)
            rows.append(Row(self.name, title, ratio(total, times[fastest]), statistics.median(total) * 1e3, peak))
        return rows


def alternate(sides: Mapping[str, Run], device: torch.device, rounds: int, seconds: float | None = None) -> Seconds:
    """Seconds a run of each side, one value a round.

    The order changes from round to round, and before short runs that are timed comes one that is not: whoever comes
    after a side that fills the caches is slower.

    Args:
        seconds: in all, about; there are fewer rounds then, but for `FEWEST_ROUNDS`.
    """
    for run in sides.values():
        run()  # whatever is chosen, compiled or allocated once
    once = {side: _seconds_a_run(run, 1, device) for side, run in sides.items()}
    warm = {side: each < _LONG_S for side, each in once.items()}
    turn = _TURN_S if seconds is None else min(_TURN_S, seconds / len(sides) / 10)
    runs = {side: max(1, round(turn / each)) for side, each in once.items()}
    if seconds is not None:
        a_round = sum((runs[side] + warm[side]) * each for side, each in once.items())
        rounds = max(FEWEST_ROUNDS, min(rounds, int(seconds / a_round)))
    times: Seconds = {side: [] for side in sides}
    order, shuffle = list(sides), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for side in order:
            if warm[side]:
                sides[side]()
            times[side].append(_seconds_a_run(sides[side], runs[side], device))
    return times


def _seconds_a_run(run: Run, runs: int, device: torch.device) -> float:
    """Mean of so many runs.

    On a GPU between two events in its queue, around runs that nothing synchronises. That is what a step takes in a
    training loop: launches that Python makes too slowly count, as gaps between kernels; the wait at the end, which such
    a loop does not have, does not count. ``torch.utils.benchmark`` would add that wait to every timing.
    """
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / runs
    started = time.perf_counter()
    for _ in range(runs):
        run()
    return (time.perf_counter() - started) / runs


def gradients(run: Callable[[], Tensor], leaves: Iterable[Tensor]) -> Run:
    """Forward and backward to the leaves."""
    leaves = list(leaves)
    return lambda: torch.autograd.grad(run().square().mean(), leaves) and None


def inference(run: Callable[[], Tensor]) -> Run:
    @torch.inference_mode()
    def forward() -> None:
        run()

    return forward


def quartiles(values: Sequence[float]) -> Spread:
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Quartiles of the ratios round by round."""
    return quartiles([a / b for a, b in zip(over, under, strict=True)])


def peak_memory(run: Run, device: torch.device) -> int:
    """Most bytes of tensors that exist at once during a run, over those before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
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
    """Floating point operations a second of a large matrix product of float32 tensors, the best of ten."""
    left, right = torch.randn(2, size, size, device=device)
    return 2 * size**3 / min(_seconds_a_run(lambda: left @ right, 1, device) for _ in range(10))


def show(rows: Sequence[Row]) -> None:
    """Print a line a side."""
    for row in rows:
        print(f"  {row.side:<52}{row.ratio!s:>22}{row.ms:>12.3f} ms{row.peak_mb:>11.2f} MB", flush=True)


@dataclass(frozen=True)
class Settings:
    """What every benchmark is asked for.

    Args:
        device: cpu or cuda; auto takes a GPU where there is one.
        precision: float32; tf32, for a GPU; or bf16.
        json: also write the figures to this file.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    json: str | None = None

    def machine(self) -> Machine:
        """
        Raises:
            InputError: a GPU that is not there, or an arithmetic that only a GPU has.
        """
        device = device_of(self.device)
        if device.type == "cpu" and self.precision == "tf32":
            raise InputError("--precision tf32 needs a GPU; give float32 or bf16")
        return Machine(device, self.precision)


def device_of(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("--device cuda: torch finds no GPU here; give --device cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def measure(title: str, cases: Sequence[Case], settings: Settings, rounds: int) -> list[Row]:
    """Measure, print and, if a file is asked for, write all cases of a benchmark that is run by itself."""
    machine = settings.machine()
    if machine.device.type == "cpu":
        keep_freed_memory()
    print(f"{title}: ratio, median of {rounds} rounds (quartiles), on {machine}")
    rows: list[Row] = []
    with machine.arithmetic():
        for case in cases:
            print(case.name, flush=True)
            rows += (found := case.rows(machine, rounds, None))
            show(found)
    if settings.json:
        figures = {"machine": str(machine), "rows": [{**row._asdict(), "ratio": row.ratio._asdict()} for row in rows]}
        with renamed_into_place(Path(settings.json)) as path:
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return rows


def keep_freed_memory() -> None:
    """As training does, which needs more than torch; a GPU's memory is kept anyway."""
    try:
        from hyperconv.training.fit import keep_freed_memory
    except ModuleNotFoundError as error:
        print(f"{error}: freed memory goes back to the system, unlike in training")
    else:
        keep_freed_memory()


def only(cases: Sequence[Case], part: str) -> list[Case]:
    """
    Raises:
        InputError: no case has ``part`` in its name.
    """
    chosen = [case for case in cases if part in case.name]
    if not chosen:
        raise InputError(f"no case has {part!r} in its name")
    return chosen


def command(main: Callable[[Given], int | None], settings: type[Given], args: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line into ``settings``, a dataclass whose docstring is the help, call ``main`` with it, exit.

    Exit codes: what ``main`` returns; 2 bad input, after one line that says what is wrong; 130 interrupted.
    """
    try:
        sys.exit(main(settings(**vars(_parser(settings).parse_args(args)))))
    except InputError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _stop(f"{message} (see --help)", 2)


def _parser(settings: type) -> argparse.ArgumentParser:
    helps = {
        name: " ".join(text.split())
        for kind in settings.__mro__
        for name, text in re.findall(r"^ +(\w+): (.+(?:\n {9,}.+)*)", kind.__doc__ or "", re.MULTILINE)
    }
    parser = _Parser(description=(settings.__doc__ or "").strip().splitlines()[0], allow_abbrev=False)
    hints = get_type_hints(settings)
    for field in fields(settings):
        kind = hints[field.name]
        names = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
        options: dict[str, Any] = {"help": helps[field.name], "default": field.default}
        if kind is bool:
            options["action"] = "store_true"
        elif get_origin(kind) is tuple:
            options |= {"type": _FLAGS.get(get_args(kind)[0], str), "nargs": "+"}
        elif get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        else:
            options["type"] = _FLAGS.get(kind, str)
        parser.add_argument(*names, **options)
    return parser


def _positive_int(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**31:
        raise ValueError
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


_positive_int.__name__, _positive_float.__name__ = "positive int", "positive number"
_FLAGS = {int: _positive_int, float: _positive_float}


def _stop(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
