"""Draw the loss curves of runs; see --help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from hyperconv import cli, plotting
from hyperconv.errors import InputError

METRICS = "metrics.csv"


@dataclass(frozen=True)
class TrainingGraph:
    """Draw training (dashed) and validation (solid) losses of any runs on a log scale.

    Args:
        runs: metrics.csv files or folders that hold one, e.g. lightning_logs/NAME/hyper.
        format: of the figure.
        out: folder for the figure.
    """

    runs: tuple[str, ...] = ("lightning_logs/version_hyper", "lightning_logs/version_normal")
    format: Literal["png", "pdf", "svg"] = "png"
    out: str = "out"


def main(settings: TrainingGraph) -> None:
    if not settings.runs:
        raise InputError("--runs is empty; give at least one metrics.csv or a folder with one")
    paths = [_metrics_file(Path(run)) for run in settings.runs]
    labels = [_label(path) for path in paths]
    if len(set(labels)) < len(labels):
        labels = [str(path.parent) if path.name == METRICS else str(path) for path in paths]
    runs = {label: _read(path) for label, path in zip(labels, paths, strict=True)}
    digits = sorted({name for path in paths if (name := _digits(path))})
    title = "Training on " + " and ".join(digits) if digits else "Training"
    plotting.training_curves(runs, Path(settings.out) / f"training_graph.{settings.format}", title)


def _label(path: Path) -> str:
    return path.parent.name.removeprefix("version_") if path.name == METRICS else path.stem


def _metrics_file(run: Path) -> Path:
    path = run / METRICS if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"there is no {path}; give a metrics.csv or a folder that holds one")
    return path


def _read(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path)
        losses = rows[["epoch", "step", "train_loss", "val_loss"]].astype(float)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no table of epoch, step, train_loss and val_loss: {error}") from error
    if losses["val_loss"].isna().all() or losses["train_loss"].isna().all():
        raise InputError(f"{path} has no training or no validation losses yet")
    return losses


def _digits(metrics: Path) -> str | None:
    path = metrics.with_name("hparams.yaml")
    try:
        content = yaml.safe_load(path.read_text()) if path.is_file() else None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())[:100]}") from error
    return content.get("data") if isinstance(content, dict) else None


if __name__ == "__main__":
    cli.run(main, TrainingGraph)
