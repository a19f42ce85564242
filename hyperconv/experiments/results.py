"""Results as tidy rows, one a figure, in files that are never half-written."""

import csv
import io
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One figure: what was measured, on what, by which command.

    Attributes:
        experiment: what was run, e.g. ``digits-fast``.
        value: of ``metric`` on ``split`` of ``data``; accuracies are fractions.
        seconds: the training's wall time.
    """

    experiment: str
    arm: str
    seed: int
    data: str
    split: str
    metric: str
    value: float
    parameters: int
    epochs: int
    seconds: float
    command: str
    date: str
    versions: str


COLUMNS = tuple(field.name for field in fields(Result))


def this_command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def these_versions() -> str:
    packages = ("torch", "pytorch-lightning")
    return ", ".join(
        [f"python {platform.python_version()}", *(f"{package} {version(package)}" for package in packages)]
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and rename it, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    os.replace(beside, path)


def read(path: Path) -> list[Result]:
    """The rows of a results file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Result(
                **{
                    **row,
                    "seed": int(row["seed"]),
                    "value": float(row["value"]),
                    "parameters": int(row["parameters"]),
                    "epochs": int(row["epochs"]),
                    "seconds": float(row["seconds"]),
                }
            )
            for row in csv.DictReader(file)
        ]


def write(path: Path, results: Iterable[Result]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(result) for result in results)
    write_whole(path, text.getvalue())


def append(path: Path, results: Sequence[Result]) -> None:
    write(path, [*read(path), *results])
