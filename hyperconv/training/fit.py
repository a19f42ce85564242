"""One network trained, kept and tested: everything between a LightningModule and its figures."""

import csv
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from torch.utils.data import DataLoader

from .classifier import MNISTClassifier, read_checkpoint
from .metrics_log import MetricsLog
from .progress import RunProgress

BEST = "best.ckpt"
LAST = "last.ckpt"
# below this many steps, compiling for about a minute an arm costs more time than it saves
_STEPS_WORTH_COMPILING = 1500


@dataclass(frozen=True)
class Loaders:
    """What a network is trained on, chosen by, and reported on."""

    train: DataLoader
    validation: DataLoader
    test: DataLoader


@dataclass(frozen=True)
class Report:
    """Figures of one trained network; accuracies and losses are those of the best checkpoint."""

    parameters: int
    epochs: int
    seconds: float
    val_loss: float
    val_acc: float
    test_loss: float
    test_acc: float


def fit(
    model: MNISTClassifier,
    loaders: Loaders,
    folder: Path,
    *,
    title: str,
    resume: bool = False,
    compile: Literal["auto", "yes", "no"] = "auto",
    **trainer_options: Any,
) -> Report:
    """Train a network, keep the checkpoint with the best validation loss, and test that one.

    Args:
        folder: receives ``metrics.csv``, ``best.ckpt`` (weights only) and ``last.ckpt`` (all that resuming needs).
        title: shown beside the progress bar.
        resume: continue from ``last.ckpt`` where there is one, to the result of an uninterrupted run.
        compile: run training through torch.compile; ``auto``: where a C++ compiler or GPU is at hand and the run
            is long enough to pay for it.
        trainer_options: for ``pl.Trainer``: accelerator, devices, strategy, precision.

    Raises:
        InputError: a damaged ``last.ckpt``.
        NonFiniteLoss: training diverged; the checkpoints of the last good epoch are kept.
    """
    recipe = model.recipe
    last = folder / LAST
    resume_from = last if resume and last.exists() else None
    resume_at = read_checkpoint(last)["global_step"] if resume_from else 0
    timer = Timer()
    callbacks: list[pl.Callback] = [timer, RunProgress(title)]
    if recipe.patience is not None:
        callbacks.append(EarlyStopping("val_loss", patience=recipe.patience, mode="min"))
    keep: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks.append(ModelCheckpoint(filename="best", monitor="val_loss", save_weights_only=True, **keep))
    callbacks.append(ModelCheckpoint(filename="last", monitor=None, **keep))
    with warnings.catch_warnings():
        _silence_lightning()
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            callbacks=callbacks,
            logger=MetricsLog(folder, resume_at),
            log_every_n_steps=50,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            deterministic="warn" if trainer_options.get("accelerator") in ("gpu", "cuda") else None,
            **trainer_options,
        )
        if compile == "yes" or (compile == "auto" and _worth_compiling(recipe.epochs * len(loaders.train))):
            model.compile_training()
        trainer.fit(model, loaders.train, loaders.validation, ckpt_path=resume_from, weights_only=True)
        trainer.strategy.barrier()
        best = MNISTClassifier.load_from_checkpoint(folder / BEST)
        tested = trainer.test(best, loaders.test, verbose=False)[0]
    chosen = min(_validation_rows(folder / "metrics.csv"), key=lambda row: row["val_loss"])
    return Report(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=trainer.current_epoch,
        seconds=timer.time_elapsed("train"),
        val_loss=chosen["val_loss"],
        val_acc=chosen["val_acc"],
        test_loss=tested["test_loss"],
        test_acc=tested["test_acc"],
    )


def _worth_compiling(steps: int) -> bool:
    return steps >= _STEPS_WORTH_COMPILING and any(shutil.which(name) for name in ("g++", "clang++"))


def _validation_rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    return [{"val_loss": float(row["val_loss"]), "val_acc": float(row["val_acc"])} for row in rows]


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
