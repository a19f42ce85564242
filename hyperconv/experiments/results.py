"""Results as tidy rows, one a figure, in files that are never half-written."""

import csv
import io
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ..errors import InputError
from ..files import write_whole


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


def read(path: Path) -> list[Result]:
    """The rows of a results file; none where there is no file."""
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in fields(Result)}
    try:
        with path.open(newline="") as file:
            return [Result(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no results: expected the columns {', '.join(COLUMNS)}") from error


def write(path: Path, results: Iterable[Result]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(result) for result in results)
    write_whole(path, text.getvalue())


def append(path: Path, results: Sequence[Result]) -> None:
    write(path, [*read(path), *results])
