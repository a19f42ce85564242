"""Every benchmark of this folder, in a few minutes, to one CSV file; see --help.

python benchmarks/all.py --device cpu
python benchmarks/all.py --device cuda
"""

import csv
import importlib
import io
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from common import Case, Machine, Precision, Row, command, device_of, keep_freed_memory, show

from hyperconv.errors import InputError
from hyperconv.files import check_writable, renamed_into_place

# and each one's share of the time
_BENCHMARKS = {
    "train_step": 8,
    "layers": 28,
    "decomposition": 28,
    "per_sample": 20,
    "mlp": 4,
    "ode": 4,
    "local_filter": 4,
    "per_patch": 4,
    "peers": 2,
    "time_to_accuracy": 17,
}
_COLUMNS = (
    "benchmark",
    "case",
    "side",
    "ratio",
    "low",
    "high",
    "ms",
    "peak MB",
    "device",
    "instruction set",
    "dtype",
    "torch version",
    "commit",
)
_ROUNDS = 30


@dataclass(frozen=True)
class All:
    """Run every benchmark, on a GPU in float32, with TF32 and in bfloat16, and write all figures to one CSV file.

    Ctrl-C ends it; the file then holds the cases that were finished.

    Args:
        device: cpu or cuda; auto takes a GPU where there is one.
        minutes: for all of them. Where they run out, the first case of a benchmark still runs, in few rounds.
        only: run just these benchmarks, e.g. layers per_sample.
        quick: tiny sizes, to see that everything runs; the figures mean nothing.
        data: folder of the full MNIST, for time_to_accuracy.
        csv: file to write; default: out/benchmarks-DEVICE.csv.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    minutes: float = 8
    only: tuple[str, ...] = ()
    quick: bool = False
    data: str = "data"
    csv: str | None = None


class Job(NamedTuple):
    """A benchmark's cases in one arithmetic.

    Attributes:
        share: of the time.
    """

    benchmark: str
    machine: Machine
    cases: Sequence[Case]
    share: float


def main(settings: All) -> int:
    unknown = [name for name in settings.only if name not in _BENCHMARKS]
    if unknown:
        raise InputError(f"--only {unknown[0]}: the benchmarks are {', '.join(_BENCHMARKS)}")
    device = device_of(settings.device)
    file = Path(settings.csv or f"out/benchmarks-{device.type}.csv")
    if file.is_dir():
        raise InputError(f"--csv {file} is a folder; give a file")
    check_writable(file.parent)
    if device.type == "cpu":
        keep_freed_memory()
    jobs = [job for name in settings.only or _BENCHMARKS for job in jobs_of(name, device, settings)]
    failed = 0
    rows: list[tuple[Job, Row]] = []
    for job, case, seconds in in_turn(jobs, settings.minutes):
        try:
            with job.machine.arithmetic():
                found = case.rows(job.machine, _ROUNDS, 0 if settings.quick else seconds)
        except Exception as error:  # the other cases' figures are as good without it
            failed += 1
            print(f"  failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        show(found)
        rows += [(job, row) for row in found]
        write(file, rows)
    print(f"\n{len(rows)} rows in {file}" if rows else "\nnothing was measured")
    return 0 if rows and not failed else 1


def in_turn(jobs: Sequence[Job], minutes: float) -> Iterator[tuple[Job, Case, float]]:
    """Every case with the seconds that it may take, which are what the earlier ones have left.

    Says which comes, about how long all will take, and what is left out.
    """
    start = time.monotonic()
    deadline = start + 60 * minutes
    count, done = sum(len(job.cases) for job in jobs), 0
    for number, job in enumerate(jobs):
        before, after = (sum(each.share for each in some) for some in (jobs[:number], jobs[number + 1 :]))
        end = time.monotonic() + max(0, deadline - time.monotonic()) * job.share / (job.share + after)
        print(f"\n{job.benchmark}: ratio, median (quartiles), on {job.machine}")
        for index, case in enumerate(job.cases):
            now = time.monotonic()
            part = (before + job.share * index / len(job.cases)) / (before + job.share + after)
            left = min(deadline - now, (now - start) * (1 / part - 1)) if part else deadline - now
            done += 1
            print(f"[{done} of {count}, about {max(0, left):.0f} s left] {case.name}", flush=True)
            if index and now > deadline:
                print("  skipped: no time left; give more --minutes")
            else:
                yield job, case, max(0, end - now) / (len(job.cases) - index)


def jobs_of(name: str, device: torch.device, settings: All) -> list[Job]:
    """The benchmark in every arithmetic; none, and a line that says why, where it cannot run here."""
    precisions: tuple[Precision, ...] = ("float32", "tf32", "bf16") if device.type == "cuda" else ("float32",)
    machines = [Machine(device, precision) for precision in precisions]
    arguments = {"data": settings.data} if name == "time_to_accuracy" else {}
    try:
        cases = importlib.import_module(name).cases
        return [
            Job(name, machine, cases(machine, settings.quick, **arguments), _BENCHMARKS[name]) for machine in machines
        ]
    except (ModuleNotFoundError, InputError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("hyperconv"):
            raise
        print(f"skipped: {name}: {error}")
        return []


def write(file: Path, rows: Sequence[tuple[Job, Row]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for job, row in rows:
        figures = (row.ratio.middle, row.ratio.low, row.ratio.high, row.ms, row.peak_mb)
        where = (job.machine.name, job.machine.instruction_set, job.machine.dtype)
        texts = ("" if math.isnan(each) else f"{each:.4g}" for each in figures)
        writer.writerow((job.benchmark, row.case, row.side, *texts, *where, torch.__version__, _commit()))
    with renamed_into_place(file) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


@cache
def _commit() -> str:
    """Of the code that runs, "+" after it where files differ from it; nothing where that is not known."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    command(main, All)
