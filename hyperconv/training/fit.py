"""One network trained, kept and tested: everything between a LightningModule and its figures."""

import contextlib
import csv
import ctypes
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from ..errors import InputError
from ..files import renamed_into_place
from .learner import Learner, read_checkpoint
from .metrics_log import MetricsLog
from .objectives import ACCURACY, Metric
from .progress import RunProgress

BEST = "best.ckpt"
LAST = "last.ckpt"
# mallopt's names for them
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Loaders:
    """What a network is trained on, chosen by, and reported on."""

    train: DataLoader
    validation: DataLoader
    test: DataLoader


@dataclass(frozen=True)
class Report:
    """Figures of one trained network; losses and metrics are those of the best checkpoint."""

    parameters: int
    epochs: int
    seconds: float
    val_loss: float
    val_metric: float
    test_loss: float
    test_metric: float


def fit(
    model: Learner,
    loaders: Loaders,
    folder: Path,
    *,
    title: str,
    metric: Metric = ACCURACY,
    resume: bool = False,
    compile: Literal["auto", "yes", "no"] = "auto",
    **trainer_options: Any,
) -> Report:
    """Train a network, keep the checkpoint with the best validation loss, and test that one, which ``model`` is then.

    Args:
        folder: receives ``metrics.csv``, ``best.ckpt`` (weights only) and ``last.ckpt`` (all that resuming needs).
        title: shown beside the progress bar.
        metric: logged and reported beside the loss.
        resume: continue from ``last.ckpt`` where there is one, to the result of an uninterrupted run.
        compile: run training through torch.compile; ``auto``: on a GPU only, since on a CPU the minute that it
            takes is about what it saves.
        trainer_options: for ``pl.Trainer``: accelerator, devices, strategy, precision.

    Raises:
        InputError: a damaged ``last.ckpt``.
        NonFiniteLoss: training diverged; the checkpoints of the last good epoch are kept.
    """
    keep_freed_memory()
    recipe = model.recipe
    last = folder / LAST
    resume_from = last if resume and last.exists() else None
    resume_at = _step_of(last, model) if resume_from else 0
    timer = Timer()
    callbacks: list[pl.Callback] = [timer, RunProgress(title, metric), CompileTraining(compile)]
    if recipe.patience is not None:
        callbacks.append(StopForGood("val_loss", patience=recipe.patience, mode="min"))
    keep: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks.append(MovableCheckpoint(filename="best", monitor="val_loss", save_weights_only=True, **keep))
    callbacks.append(MovableCheckpoint(filename="last", monitor=None, **keep))
    with warnings.catch_warnings():
        _silence_lightning()
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.clip,
            callbacks=callbacks,
            logger=MetricsLog(folder, metric.column, resume_at),
            log_every_n_steps=max(1, min(50, len(loaders.train) // trainer_options.get("devices", 1))),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            deterministic="warn" if torch.cuda.is_available() else None,
            use_distributed_sampler=False,
            plugins=[RenamingCheckpointIO()],
            **trainer_options,
        )
        try:
            trainer.fit(model, loaders.train, loaders.validation, ckpt_path=resume_from, weights_only=True)
        except SystemExit as stop:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from stop
        model.load_state_dict(read_checkpoint(folder / BEST)["state_dict"])
        tested = trainer.test(model, loaders.test, verbose=False)[0]
    # from files, since with several processes this one has not trained
    epochs = _validation_rows(folder / "metrics.csv", metric)
    chosen = min(epochs, key=lambda row: row["val_loss"])
    return Report(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=len(epochs),
        seconds=read_checkpoint(last)["callbacks"][timer.state_key]["time_elapsed"]["train"],
        val_loss=chosen["val_loss"],
        val_metric=chosen["val_metric"],
        test_loss=tested["test_loss"],
        test_metric=tested[f"test_{metric.column}"],
    )


def check_trainer(**options: Any) -> None:
    """Raise InputError where Lightning can make no trainer of these options on this machine."""
    try:
        with warnings.catch_warnings():
            _silence_lightning()
            pl.Trainer(logger=False, enable_checkpointing=False, **options)
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        given = ", ".join(f"{name} {value}" for name, value in options.items())
        raise InputError(f"no training is possible with {given}: {str(error).splitlines()[0]}") from error


class CompileTraining(pl.Callback):
    """Compiles in the process that trains, since compiled code cannot be sent to another."""

    def __init__(self, when: Literal["auto", "yes", "no"]) -> None:
        self.when = when

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if self.when == "yes" or (self.when == "auto" and on_gpu):
            pl_module.compile_training()


class RenamingCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; Lightning's own way may copy it there bit by bit."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with renamed_into_place(Path(path)) as beside:
            torch.save(checkpoint, beside)


class MovableCheckpoint(ModelCheckpoint):
    """Keeps its best score when the run's folder has been moved in the meantime."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class StopForGood(EarlyStopping):
    """A run that had stopped early stays stopped when it is resumed."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


def _step_of(last: Path, model: Learner) -> int:
    """The step that a ``last.ckpt`` of this model was saved at."""
    checkpoint = read_checkpoint(last)
    try:
        model.load_state_dict(checkpoint["state_dict"])
        return checkpoint["global_step"]
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{last} is no checkpoint that this run can continue from: {reason}") from error


def keep_freed_memory() -> None:
    """Let glibc keep the memory that one step frees for the next one, instead of getting it page by page anew.

    With its defaults, activations of some megabytes are unmapped and mapped again: an eighth of a step's time.
    """
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # glibc refuses more
        allocator.mallopt(_M_TRIM_THRESHOLD, -1)


def _validation_rows(path: Path, metric: Metric) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    return [{"val_loss": float(row["val_loss"]), "val_metric": float(row[f"val_{metric.column}"])} for row in rows]


def _silence_lightning() -> None:
    """Its advice is about worker processes for data that lies in memory here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", advice)
