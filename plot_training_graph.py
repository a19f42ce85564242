"""Draw the loss curves of runs; see --help."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hyperconv import cli, plotting
from hyperconv.errors import InputError
from hyperconv.experiments.pair import SHIPPED, run_folder
from hyperconv.files import read_yaml

METRICS = "metrics.csv"


@dataclass(frozen=True)
class TrainingGraph:
    """Draw training (dashed) and validation (solid) losses, on a log scale where they are positive.

    Args:
        run: a folder in lightning_logs, all of whose arms are shown.
        runs: in place of it, any metrics.csv files or folders that hold one, e.g. lightning_logs/NAME/hyper.
        format: of the figure.
        out: folder for the figure.
    """

    run: str = SHIPPED
    runs: tuple[str, ...] = ()
    format: Literal["png", "pdf", "svg"] = "png"
    out: str = "out"


def main(settings: TrainingGraph) -> None:
    if settings.runs:
        paths = [_metrics_file(Path(run)) for run in settings.runs]
        labels = [path.parent.name if path.name == METRICS else path.stem for path in paths]
        if len(set(labels)) < len(labels):
            labels = [str(path.parent) if path.name == METRICS else str(path) for path in paths]
    else:
        folder = run_folder(settings.run)
        paths = sorted(folder.glob(f"**/{METRICS}"))
        labels = [str(path.parent.relative_to(folder)) for path in paths]
    if not paths:
        raise InputError(f"there is no {METRICS} in {folder}; give a run that has been trained")
    runs = {label: plotting.read_losses(path) for label, path in zip(labels, paths, strict=True)}
    print("\n".join(f"{label}: {path}" for label, path in zip(labels, paths, strict=True)))
    described = [_described(path) for path in paths]
    data = " and ".join(_values(described, "data"))
    title = f"Training on {data}" if data else "Training"
    loss = " or ".join(_values(described, "loss")) or "loss"
    figure = plotting.training_curves(runs, title, loss)
    plotting.save(figure, Path(settings.out) / f"training_graph.{settings.format}")


def _metrics_file(run: Path) -> Path:
    path = run / METRICS if run.is_dir() else run
    if not path.is_file():
        raise InputError(f"there is no {path}; give a metrics.csv or a folder that holds one")
    return path


def _described(metrics: Path) -> dict[str, Any]:
    """What hparams.yaml says of a training, for names only: nothing where it is missing or damaged."""
    with contextlib.suppress(InputError):
        return read_yaml(metrics.with_name("hparams.yaml"))
    return {}


def _values(described: Sequence[dict[str, Any]], name: str) -> list[str]:
    return sorted({value for each in described if isinstance(value := each.get(name), str)})


if __name__ == "__main__":
    cli.run(main, TrainingGraph)
