"""Metrics as a CSV file that survives being killed and resumed."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ..files import renamed_into_place

SPLITS = ("train", "val", "test")


class MetricsLog(Logger):
    """Appends one row a call to ``FOLDER/metrics.csv``.

    Lightning's own CSVLogger deletes the file that a resumed run should continue, and orders its columns anew.

    Args:
        folder: where ``metrics.csv`` lies or is made.
        metrics: columns of each split.
        resume_at: keep the rows of steps before this one, drop what a killed run wrote after its last checkpoint.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], resume_at: int = 0) -> None:
        super().__init__()
        self.columns = ("epoch", "step", *(f"{split}_{metric}" for split in SPLITS for metric in metrics))
        self.folder = folder
        self.path = folder / "metrics.csv"
        self._keep_rows_before(resume_at)

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
        row = {name: value for name, value in metrics.items() if name in self.columns}
        row["step"] = step
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _keep_rows_before(self, step: int) -> None:
        kept = []
        if step and self.path.is_file():
            with self.path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if self._step(row) < step and not row["test_loss"]]
        with renamed_into_place(self.path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)

    def _step(self, row: Mapping[str, str | None]) -> float:
        """A row's step; a row cut short by a kill has none and counts as written after any checkpoint."""
        complete = row[self.columns[-1]] is not None and (row["step"] or "").isdigit()
        return int(row["step"]) if complete else float("inf")
