"""Metrics as a CSV file that survives being killed and resumed."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ..errors import InputError
from ..files import read_text, write_whole
from .objectives import LOSS

METRICS = "metrics.csv"
SPLITS = ("train", "val", "test")


class MetricsLog(Logger):
    """Appends one row a call to ``FOLDER/metrics.csv``.

    Lightning's own CSVLogger deletes the file that a resumed run should continue, and orders its columns anew.

    Args:
        folder: where ``metrics.csv`` lies or is made.
        metrics: columns of each split.
        resume_at: keep the rows of steps before this one, drop what a killed run wrote after its last checkpoint.

    Raises:
        InputError: the file to continue is another one.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], resume_at: int = 0) -> None:
        super().__init__()
        self.columns = ("epoch", "step", *(f"{split}_{metric}" for split in SPLITS for metric in metrics))
        self.folder = folder
        self.path = folder / METRICS
        kept = [row for row in self._rows() if self._is_before(resume_at, row)] if resume_at else []
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_whole(self.path, text.getvalue())

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def version(self) -> str:
        return self.folder.name

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are written as hparams.yaml by whoever starts the run."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {name: value for name, value in metrics.items() if name in self.columns}
        row["step"] = step
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def _rows(self) -> list[dict[str, Any]]:
        """Those of the file as it is; none where it is gone or empty."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return []
        reader = csv.DictReader(io.StringIO(read_text(self.path), newline=""))
        try:
            rows = list(reader)
        except csv.Error as error:
            raise InputError(
                f"{self.path} is no table of metrics ({error}); move it away to go on without it"
            ) from error
        if tuple(reader.fieldnames or ()) != self.columns:
            raise InputError(
                f"{self.path} has other columns than {', '.join(self.columns)}; move it away to go on without it"
            )
        return rows

    def _is_before(self, step: int, row: Mapping[str, Any]) -> bool:
        """Whether a row was written before a step; one that was cut short counts as written after any."""
        if row.keys() != set(self.columns) or None in row.values() or not _are_numbers(row.values()):
            return False
        return row["step"].isdecimal() and int(row["step"]) < step and not row[f"test_{LOSS}"]


def _are_numbers(cells: Iterable[str]) -> bool:
    try:
        return all(cell == "" or float(cell) is not None for cell in cells)
    except ValueError:
        return False
