"""Results as tidy rows, one a figure, in files that are never half-written."""

import csv
import io
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import read_text, write_whole

FAILED = "failed"
NOISE_METRIC = "accuracy under noise"


class TrainingKey(NamedTuple):
    """What tells one training, or one measurement of a trained network, from another."""

    experiment: str
    settings: str
    arm: str
    data: str
    seed: int | None
    noise_seed: int | None
    fold: int | None


@dataclass(frozen=True)
class Result:
    """One figure: what was measured, on what, by which command.

    Attributes:
        settings: what differs from the experiment's defaults, e.g. ``recipe=robust epochs=2``.
        seed: of the training, where its checkpoint tells; ``noise_seed`` of the noise on the digits, if any.
        fold: of the data, where they come in folds.
        at: the condition that ``metric`` was measured in, e.g. ``λ=0.1``; empty where there is one only.
        value: of ``metric`` on ``split`` of ``data``; accuracies are fractions. A failed training has the value 1 of
            the metric ``failed``.
        operations: multiplications and additions of products and convolutions, for each sample of an evaluation batch.
        seconds: the training's wall time.
        commit: of the code, with a plus where it had been changed.
    """

    experiment: str
    settings: str
    arm: str
    seed: int | None
    noise_seed: int | None
    fold: int | None
    data: str
    split: str
    metric: str
    at: str
    value: float
    parameters: int
    operations: int | None
    epochs: int
    seconds: float
    command: str
    date: str
    versions: str
    commit: str

    @property
    def training(self) -> TrainingKey:
        return TrainingKey(*(getattr(self, name) for name in TrainingKey._fields))


COLUMNS = tuple(field.name for field in fields(Result))


def provenance() -> dict[str, str]:
    """The columns that say what made a row."""
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
        "commit": _commit(),
    }


def _versions() -> str:
    packages = ("torch", "pytorch-lightning")
    return ", ".join(
        [f"python {platform.python_version()}", *(f"{package} {version(package)}" for package in packages)]
    )


@cache
def _commit() -> str:
    """The short hash, with a plus where the code differs from it; empty outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--", "hyperconv", ":(glob)*.py") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def read(path: Path) -> list[Result]:
    """The rows of a results file; none where there is no file.

    Raises:
        InputError: other columns, or a row that is not of them.
    """
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{path} holds no results: expected the columns {', '.join(COLUMNS)}")
        return [_parsed(row, f"{path}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _parsed(row: dict[Any, Any], place: str) -> Result:
    if None in row or None in row.values():
        raise InputError(f"{place}: expected {len(COLUMNS)} columns")
    values = {}
    for field in fields(Result):
        try:
            values[field.name] = _value(row[field.name], field.type)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{place}: {field.name} cannot be {row[field.name]!r}") from error
    return Result(**values)


def _value(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind == int | None:
        return int(text) if text else None
    number = kind(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def write(path: Path, results: Iterable[Result]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(result) for result in results)
    write_whole(path, text.getvalue())


def append(path: Path, results: Sequence[Result]) -> None:
    write(path, [*read(path), *results])


def with_trainings(gathered: Sequence[Result], added: Sequence[Result]) -> list[Result]:
    """Rows of both, the added ones in place of what was gathered of the same trainings."""
    anew = {row.training for row in added}
    latest = {(row.training, row.split, row.metric, row.at): row for row in added}
    return [*(row for row in gathered if row.training not in anew), *latest.values()]
