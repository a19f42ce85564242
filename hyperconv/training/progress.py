"""One bar for a whole run, with the time left."""

from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .objectives import Metric


class RunProgress(pl.callbacks.ProgressBar):
    """Steps done of all epochs' steps, elapsed and remaining time, and the last validation figure.

    Where the output is no terminal, one line an epoch instead.
    """

    def __init__(self, title: str, metric: Metric) -> None:
        super().__init__()
        self._title = title
        self._metric = metric
        self._bar: Progress | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # not before: a console cannot be sent to the processes of several devices
        self._console = Console(stderr=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enabled = trainer.is_global_zero
        if not self._enabled or not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False, compact=True),
            console=self._console,
            speed_estimate_period=120,
        )
        self._bar.start()
        steps = int(trainer.estimated_stepping_batches)
        self._task = self._bar.add_task(self._describe(trainer), total=steps, completed=trainer.global_step)

    def _describe(self, trainer: pl.Trainer) -> str:
        value = trainer.callback_metrics.get(f"val_{self._metric.column}")
        seen = "" if value is None else f", validation {self._metric.text(float(value))}"
        epochs = trainer.max_epochs or 0
        return f"{self._title}: epoch {min(trainer.current_epoch + 1, epochs)}/{epochs}{seen}"

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, description=self._describe(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is None and trainer.is_global_zero and trainer.state.fn == "fit":
            self._console.print(self._describe(trainer), highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
